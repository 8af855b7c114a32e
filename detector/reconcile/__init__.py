"""Estimates compared with bills."""
