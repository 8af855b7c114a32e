"""Bills: each is summed and judged on its own, hour by hour, as far as its source says that it is complete."""
