"""Forecasts of daily and hourly spend: histories, methods, worker processes and the slow lane."""
