"""Spend from outside, priced and attributed, onto the log."""
