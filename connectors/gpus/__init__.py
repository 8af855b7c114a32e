"""GPU hours: DCGM and Prometheus."""
