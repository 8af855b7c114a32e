"""Benches for authors of kinds: the promises of a seam, as tests."""
