"""One closed bucket and its scores, as rules see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import Amounts
from curb.detector.state.columns import Floats


@dataclass(frozen=True)
class Scores:
    """Scores of every series at one step; arrays of shape (series,)."""

    #: Score that held for the last ten minutes, or the newest one less the fast lane if that is more.
    notice: Floats
    #: Mean of `notice` and the hourly z; -inf where statistics may not page.
    page: Floats
    #: Index of the window with the highest score.
    channel: NDArray[np.intp]
    #: $/h expected now; spent in the last five minutes; and the exponential 5-minute average of the expected.
    expected_rate: Floats
    rate: Floats
    expected_fast: Floats
    #: Dollars over the expected within the window of `channel`.
    excess: Floats
    #: Requests per minute, 5-minute average.
    requests_rate: Floats


@dataclass(frozen=True)
class ClosedBucket:
    """Arrays of shape (series,)."""

    #: Epoch seconds. `at` is when the bucket could be closed: its end and the grace.
    start: int
    end: int
    at: float
    amounts: Amounts
    scores: Scores
    #: The whole fleet was silent: a gap of the feed, not of spend.
    gap: bool = False

    @property
    def cost(self) -> Floats:
        """Dollars."""
        return self.amounts.cost

    @property
    def hours(self) -> float:
        """Length of the bucket in hours."""
        return (self.end - self.start) / 3600

    def requests_per_minute(self, i: int) -> float | None:
        """The 5-minute average of requests of series `i`; None without any."""
        rate = float(self.scores.requests_rate[i])
        return rate if rate > 1e-6 else None
