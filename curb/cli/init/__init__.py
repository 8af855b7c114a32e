"""`curb init`: from nothing to a checked configuration in shadow mode."""
