"""Month-end forecasts and the slow lane."""
