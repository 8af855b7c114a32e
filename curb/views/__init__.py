"""What people ask for, worked out from the log and the shards."""
