"""Bounded HTTP calls, and compare-and-swap."""
