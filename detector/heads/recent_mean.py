"""What every series spent in the last minutes: one huge minute is over when it is over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]


class Recent:
    """Plain mean of the last `minutes`. An exponential average needs 40 minutes to forget one of a thousandfold.

    State: the last minutes.
    Update: each step replaces the oldest.
    Score: their mean.
    Source: a plain moving average.
    """

    def __init__(self, minutes: float, step_min: float, capacity: int) -> None:
        self._steps = max(1, round(minutes / step_min))
        self.columns = Columns({"last": Column((self._steps,))}, capacity)

    def push(self, usd_per_min: Floats, count: int) -> None:
        """Add step number `count` (any running number)."""
        self.columns["last"][count % self._steps] = usd_per_min

    def mean(self) -> Floats:
        """Dollars per minute, shape (series,)."""
        return np.asarray(self.columns["last"].mean(axis=0))

    def correct(self, index: NDArray[np.intp], usd_per_min: Floats, steps_ago: int, count: int) -> None:
        """Late dollars of the step `steps_ago` before step number `count`, the newest."""
        if steps_ago < self._steps:
            np.add.at(self.columns["last"][(count - steps_ago) % self._steps], index, usd_per_min)
