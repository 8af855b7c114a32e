"""Prices: the shipped map, and how they compare with other calculators."""
