"""The least value of the last minutes: what holds that long is no burst."""

from __future__ import annotations

import numpy as np

from curb.detector.state.columns import Column, Columns, Floats


class Hold:
    """Running minimum over the last `steps` values of every series. A new series starts at `empty`.

    State: the last values.
    Update: each step replaces the oldest.
    Score: their minimum.
    Source: our own, no paper.
    """

    def __init__(self, steps: int, empty: float, capacity: int) -> None:
        self.steps = steps
        self.columns = Columns({"last": Column((steps,), np.float32, empty, by_bucket=True)}, capacity)

    def push(self, value: Floats, count: int) -> Floats:
        """Add step number `count` (any running number) and return the minimum over the window."""
        last = self.columns["last"]
        last[count % self.steps] = value
        least: Floats = last.min(axis=0).astype(np.float64)
        return least
