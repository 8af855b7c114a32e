"""State of a shard: series, open buckets, columns of numbers, and the view that rules get."""
