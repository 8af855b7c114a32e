"""What was done, folded from the log."""
