"""Peak-hold: a series whose ordinary days reach a high score must exceed it, so that one threshold fits all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.detector.state.columns import Bools, Column, Columns, Floats


class Params(NamedTuple):
    #: Days in which a penalty falls by half. By hand.
    half_life_days: float = 28.0
    #: Points by which one day raises the penalty at most. By hand.
    rise_per_day: float = 10.0
    #: Days of age from which on a day counts as ordinary. By hand.
    from_age_days: float = 5.0
    #: Score of a day without any: the silent score of the windows. By definition.
    none: float = -9.0


P = Params()


class Peaks:
    """Per channel and series: the penalty, and the highest score of the running day.

    State: the penalty, and the highest score of the day.
    Update: a day raises it to its highest score, by 10 points at most; it halves in 28 days.
    Score: what is subtracted from scores.
    Source: our own, no paper.
    """

    def __init__(self, channels: int, capacity: int) -> None:
        self.columns = Columns(
            {"penalty": Column((channels,), np.float32), "day_max": Column((channels,), np.float32, P.none)},
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
        self.columns["day_max"][:, frozen] = P.none

    def close_day(self, age_days: Floats) -> None:
        """End of a local day; series younger than five days learn nothing from it."""
        penalty, day_max = self.columns["penalty"], self.columns["day_max"]
        held = penalty * 0.5 ** (1 / P.half_life_days)
        risen = np.minimum(day_max, penalty + P.rise_per_day)
        penalty[...] = np.where(age_days > P.from_age_days, np.maximum(0.0, np.maximum(held, risen)), penalty)
        day_max[...] = P.none
