"""Budgets: sums per period, thresholds and burn rates."""
