"""The log: its protocol, the embedded one, topics."""
