"""Bills: exports and cost APIs of cloud providers."""
