"""Answers for people, worked out from the log and the shards."""
