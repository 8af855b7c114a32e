"""Records, the log, clocks and errors; imports nothing else of Curb."""
