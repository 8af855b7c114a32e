"""The records on the log."""
