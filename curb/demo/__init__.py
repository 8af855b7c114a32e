"""Recorded traffic, a small gateway, one runaway key."""
