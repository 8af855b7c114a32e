"""A runaway within its first minute: a sequential test per principal in slots of seconds."""
