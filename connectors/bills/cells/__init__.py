"""Cells of a bill: what a file of text is, and texts as numbers, times and dollars."""
