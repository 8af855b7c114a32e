"""The dated price book."""
