"""The configuration file: read, checked, and each kind found."""
