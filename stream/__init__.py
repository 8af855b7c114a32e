"""Ground floor: records, codec, the log, latest-value tables, clock and errors; imports nothing else of Curb."""
