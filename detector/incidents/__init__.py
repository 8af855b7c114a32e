"""One alert per incident: opened, revised, explained, ended."""
