"""Bursts of a key that come at the same time of day: work on a schedule whose rows do not say so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: A burst ends with a pause of so long; spend that lasts longer than half a day is no burst.
_PAUSE_MIN, _LONGEST_MIN = 60.0, 720.0
#: Bursts that are remembered, for so long, and the least dollars of one.
_KEPT, _MEMORY_DAYS, _LEAST_USD = 7, 9.0, 2.0
#: Alike are bursts of other days that began at the same time of day, give or take; so many of them are a schedule.
_SAME_TIME_MIN, _DAYS = 120.0, 2
#: What is far larger than the largest one like it is not the same work.
_FACTOR = 2.5
_DAY_MIN = 1440


class Recurring:
    """Per series: the burst that goes on, and the newest ones before it. Times are minutes of the epoch, in int32."""

    def __init__(self, capacity: int) -> None:
        self.columns = Columns(
            {
                #: 0 for none.
                "start": Column(dtype=np.int32),
                #: The newest step that burnt.
                "last": Column(dtype=np.int32),
                "usd": Column(dtype=np.float32),
                #: The newest first.
                "starts": Column((_KEPT,), np.int32),
                "sums": Column((_KEPT,), np.float32),
            },
            capacity,
        )

    def follow(self, minute: int, burns: Bools, over_usd: Floats) -> None:
        """A step that begins at `minute`: who burns, and the dollars over what was expected. Gaps are left out."""
        start, last, usd = (self.columns[name] for name in ("start", "last", "usd"))
        self._end(np.flatnonzero((start > 0) & (minute - last > _PAUSE_MIN)))
        start[burns & (start == 0)] = minute
        last[burns] = minute
        usd += np.where(start > 0, np.maximum(over_usd, 0.0), 0.0).astype(np.float32)

    def _end(self, ended: NDArray[np.intp]) -> None:
        """Remember these bursts, as far as they are any."""
        start, last, usd = (self.columns[name] for name in ("start", "last", "usd"))
        kept = ended[(usd[ended] >= _LEAST_USD) & (last[ended] - start[ended] <= _LONGEST_MIN)]
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
        apart = (ago + _DAY_MIN // 2) % _DAY_MIN - _DAY_MIN // 2
        days = (ago + _DAY_MIN // 2) // _DAY_MIN
        alike = (starts > 0) & (days >= 1) & (days <= _MEMORY_DAYS) & (np.abs(apart) <= _SAME_TIME_MIN)
        if np.unique(days[alike]).size < _DAYS:
            return False
        return float(self.columns["usd"][row]) <= _FACTOR * float(sums[alike].max())
