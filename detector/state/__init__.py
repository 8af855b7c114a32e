"""Columns of a shard: series, buckets, profiles."""
