"""The demo: a recorded trace, a small gateway that really enforces limits, and the driver that sends the traffic."""
