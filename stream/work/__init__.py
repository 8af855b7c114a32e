"""Read, process, commit: exactly once."""
