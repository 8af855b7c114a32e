"""Messages to people: grouping, outbox, channels."""
