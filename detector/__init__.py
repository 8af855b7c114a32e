"""The detector turns raw records into sums, scores and alerts."""
