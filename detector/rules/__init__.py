"""Named patterns: each finds one kind of trouble."""
