"""Sums, scores, alerts, budgets and forecasts, from records on the log."""
