"""Estimates compared with bills, per pair of sources and day."""
