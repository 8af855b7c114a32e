"""Top floor: configuration, wiring, daemon, HTTP and command line."""
