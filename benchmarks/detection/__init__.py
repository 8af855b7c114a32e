"""The detector on labelled spend: streams, methods beside it, one table, one chart."""
