"""Since when each series spends more than expected, and how much: exact sums of closed buckets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.columns import Column, Columns
from curb.stream.time import HOUR_S

#: A burn over this multiple of the expected one belongs to the excess.
_OVER_RATIO = 1.5
#: An excess that pauses for less than this is the same excess.
_PAUSE_S = 900


class RunningExcess:
    """The running excess of every series."""

    def __init__(self) -> None:
        self._columns = Columns(
            {
                #: Epoch seconds, -1: there is none.
                "since": Column(dtype=np.int64, fill=-1),
                "expected_usd": Column(),
                "actual_usd": Column(),
                "pause_s": Column(),
                "hourly": Column(),
            },
            64,
        )

    def follow(self, bucket: ClosedBucket, kept: Iterable[int]) -> None:
        """Count a closed bucket; the excess of the series in `kept` goes on through any pause."""
        self._columns.grow(len(bucket.cost))
        scores, state = bucket.scores, self._columns
        over = scores.rate > _OVER_RATIO * scores.expected_fast
        state["since"][over & (state["since"] < 0)] = bucket.start
        running = state["since"] >= 0
        state["expected_usd"][running] += scores.expected_rate[running] * bucket.hours
        state["actual_usd"][running] += bucket.cost[running]
        state["pause_s"][...] = np.where(over, 0.0, state["pause_s"] + (bucket.end - bucket.start))
        ends = running & (state["pause_s"] >= _PAUSE_S)
        ends[np.fromiter(kept, np.intp)] = False
        state["since"][ends] = -1
        for column in ("expected_usd", "actual_usd"):
            state[column][ends] = 0.0
        hourly, share = state["hourly"], min(1.0, (bucket.end - bucket.start) / HOUR_S)
        hourly += share * (bucket.cost / bucket.hours - scores.expected_rate - hourly)

    def start(self, i: int, bucket: ClosedBucket) -> None:
        """An alert opens on series `i`: what it exceeds is counted from the running excess on, or from now."""
        state = self._columns
        if state["since"][i] < 0:
            state["since"][i] = bucket.start
            state["expected_usd"][i] = bucket.scores.expected_rate[i] * bucket.hours
            state["actual_usd"][i] = bucket.cost[i]

    def since(self, i: int) -> float:
        """Start of the excess, epoch seconds."""
        return float(self._columns["since"][i])

    def sums(self, i: int) -> tuple[float, float]:
        """Expected and actual dollars since then."""
        return float(self._columns["expected_usd"][i]), float(self._columns["actual_usd"][i])

    def hourly(self, i: int) -> float:
        """Average of the last hour over the expected, $/h."""
        return float(self._columns["hourly"][i])

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return self._columns.dump("excess")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._columns.load("excess", arrays)
