"""Bursts of a key that come at the same time of day: work on a schedule whose rows do not say so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats


class Params(NamedTuple):
    #: Minutes of a pause that ends a burst. By hand.
    pause_min: float = 60.0
    #: Minutes of the longest burst: half a day, longer is no burst. By hand.
    longest_min: float = 720.0
    #: Bursts that are remembered. By hand.
    kept: int = 7
    #: Days that a burst is looked back on: a week and a weekend. By hand.
    memory_days: float = 9.0
    #: Dollars of the least burst that is remembered. By hand.
    least_usd: float = 2.0
    #: Minutes by which the start may vary from day to day. By hand.
    same_time_min: float = 120.0
    #: Other days with a burst alike that make a schedule. By hand.
    days: int = 2
    #: Multiple of the largest burst alike above which it is not the same work. By hand.
    factor: float = 2.5
    #: Minutes of a day. By definition.
    day_min: int = 1440


P = Params()


class Recurring:
    """Per series: the burst that goes on, and the newest ones before it. Times are minutes of the epoch, in int32.

    State: the burst that goes on, and the last seven.
    Update: a pause of an hour ends a burst.
    Score: whether one like it came on two of the last nine days.
    Source: our own, no paper.
    """

    def __init__(self, capacity: int) -> None:
        self.columns = Columns(
            {
                #: 0 for none.
                "start": Column(dtype=np.int32),
                #: The newest step that burnt.
                "last": Column(dtype=np.int32),
                "usd": Column(dtype=np.float32),
                #: The newest first.
                "starts": Column((P.kept,), np.int32),
                "sums": Column((P.kept,), np.float32),
            },
            capacity,
        )

    def follow(self, minute: int, burns: Bools, over_usd: Floats) -> None:
        """A step that starts at `minute`: who burns, and the dollars over what was expected. Gaps are left out."""
        start, last, usd = (self.columns[name] for name in ("start", "last", "usd"))
        self._end(np.flatnonzero((start > 0) & (minute - last > P.pause_min)))
        start[burns & (start == 0)] = minute
        last[burns] = minute
        usd += np.where(start > 0, np.maximum(over_usd, 0.0), 0.0).astype(np.float32)

    def _end(self, ended: NDArray[np.intp]) -> None:
        """Remember these bursts, as far as they are any."""
        start, last, usd = (self.columns[name] for name in ("start", "last", "usd"))
        kept = ended[(usd[ended] >= P.least_usd) & (last[ended] - start[ended] <= P.longest_min)]
        for name, newest in (("starts", start), ("sums", usd)):
            held = self.columns[name]
            held[1:, kept] = held[:-1, kept]
            held[0, kept] = newest[kept]
        start[ended] = 0
        usd[ended] = 0.0

    def usual(self, row: int) -> bool:
        """Whether a burst goes on that came on earlier days as well, and is not far larger so far than it was then."""
        start = int(self.columns["start"][row])
        if start == 0:
            return False
        starts, sums = self.columns["starts"][:, row], self.columns["sums"][:, row]
        ago = start - starts.astype(np.int64)
        apart = (ago + P.day_min // 2) % P.day_min - P.day_min // 2
        days = (ago + P.day_min // 2) // P.day_min
        alike = (starts > 0) & (days >= 1) & (days <= P.memory_days) & (np.abs(apart) <= P.same_time_min)
        if np.unique(days[alike]).size < P.days:
            return False
        return float(self.columns["usd"][row]) <= P.factor * float(sums[alike].max())
