"""Peak-hold: a series whose ordinary days reach a high score must exceed it, so that one threshold fits all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HALF_LIFE_DAYS, RISE_PER_DAY, FROM_AGE_DAYS = 28.0, 10.0, 5.0
_NONE = -9.0


class Peaks:
    """Per channel and series: the penalty, and the highest score of the running day."""

    def __init__(self, channels: int, capacity: int) -> None:
        self.columns = Columns(
            {"penalty": Column((channels,), np.float32), "day_max": Column((channels,), np.float32, _NONE)},
            capacity,
        )

    @property
    def penalty(self) -> Floats:
        """What to subtract from the scores, shape (channels, series)."""
        return self.columns["penalty"]

    def learn(self, score: Floats) -> None:
        """Scores before the penalty, shape (channels, series)."""
        day_max = self.columns["day_max"]
        np.maximum(day_max, score, out=day_max)

    def discard(self, frozen: Bools) -> None:
        """Forget the running day of series with an open alert: an incident is no ordinary day."""
        self.columns["day_max"][:, frozen] = _NONE

    def close_day(self, age_days: Floats) -> None:
        """End of a local day; series younger than five days learn nothing from it."""
        penalty, day_max = self.columns["penalty"], self.columns["day_max"]
        held = penalty * 0.5 ** (1 / HALF_LIFE_DAYS)
        risen = np.minimum(day_max, penalty + RISE_PER_DAY)
        penalty[...] = np.where(age_days > FROM_AGE_DAYS, np.maximum(0.0, np.maximum(held, risen)), penalty)
        day_max[...] = _NONE
