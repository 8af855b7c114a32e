"""Connectors bring spend from outside onto the log."""
