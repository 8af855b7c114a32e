"""Scorers that users configure beside the heads, such as River's detectors."""
