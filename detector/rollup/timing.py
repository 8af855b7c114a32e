"""Learns when each source reports: how long a time its records cover, and how late they come.

A bucket is scored once, when it has ended with its grace. A source whose records come later would only be counted, so
its records are scored later by its usual delay, all by the same, and every bucket still gets what one span of time
cost. A source that is on time has a delay of zero, and nothing changes for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from curb.detector.state.columns import Floats

#: Buckets of receipt that are remembered per source, and that a decision needs. Chosen by hand: three show a pace, and
#: with 32 of them one late record in a hundred is no pattern.
_REMEMBERED, _NEEDED = 32, 3
#: Quantiles of the delays kept per bucket of receipt, and distinct start times: a kilobyte a source. Chosen by hand.
_SAMPLES, _STARTS = 32, 64
#: Levels of these quantiles, shares of 1: the middles of equal parts, so that one late record is none of them.
_LEVELS = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
#: Share of records that are late from which a source is scored later: half of them, or a tenth where the delay is below
#: two buckets, so that a back-fill beside live traffic does not delay what is live. Chosen by hand.
_MOST_LATE, _SOME_LATE = 0.5, 0.1
#: Fewest late samples that decide. Chosen by hand.
_FEWEST_LATE = 4
#: Quantile of the delays that is waited for, a share of 1; the second where it is at most this many times the first.
#: Chosen by hand: rows up to half an hour late at random were all scored; a stray one in a hundred
#: moved nothing.
_WAIT, _WAIT_LONGER, _LONGER = 0.98, 0.995, 1.25
#: Seconds of events per second of receipt at which a source keeps pace; work on a backlog is faster. By hand.
_SLOWEST, _FASTEST = 0.5, 2.0
#: A delay shrinks by at most this share of the time that passes, so a bucket holds at most a tenth more than it should:
#: far below what any rule notices. Chosen by hand.
_SHRINK = 0.1
#: Shortest period of periodic records, seconds; what repeats faster is taken as moments. Chosen by hand.
_SHORTEST_PERIOD_S = 10
#: Records about a period come when at least this share of it has passed; clocks differ a little. Chosen by hand.
_PERIOD_PASSED = 0.9
#: Records of one bucket of receipt that are looked at, evenly among all. Chosen by hand: enough for one in a hundred.
_MAX_OBSERVED = 512
#: Records whose times are kept to see on which grid they lie. By hand: as many as a back-test looks at.
_MOST_TIMES = 5000
#: Sources whose timing is learned, at most; further ones are scored by their own time. Chosen by hand.
_MAX_SOURCES = 1000


class Timing(NamedTuple):
    """How records of a source are scored."""

    #: Seconds from the time of a record to the time at which it is scored.
    delay_s: float = 0.0
    #: Seconds that a record covers, from its start; 0 for a moment.
    duration_s: float = 0.0


ON_TIME = Timing()


class Receipt(msgspec.Struct, array_like=True):
    """What a source reported within one bucket of receipt; times are epoch seconds."""

    at: float
    #: Median start.
    middle: float
    #: Quantiles of the delays that would have been enough, ascending.
    needed: list[float]
    #: Distinct starts; empty where they are no whole seconds.
    starts: list[float]
    #: The shortest time from start to receipt, bar one in twenty.
    soonest: float


class Source(msgspec.Struct, array_like=True):
    """What is known of one source."""

    delay_s: float = 0.0
    duration_s: float = 0.0
    receipts: list[Receipt] = []
    #: Of the records since the last edge, how many there were, and start and receipt of every `stride`-th.
    seen: int = 0
    stride: int = 1
    starts: list[float] = []
    received: list[float] = []

    def observe(self, start: Floats, received: Floats) -> None:
        """Note records, whatever their number, in bounded memory and independent of portions."""
        first = -self.seen % self.stride
        self.seen += len(start)
        self.starts = self.starts + start[first :: self.stride].tolist()
        self.received = self.received + received[first :: self.stride].tolist()
        while len(self.starts) > _MAX_OBSERVED:
            self.stride *= 2
            self.starts, self.received = self.starts[::2], self.received[::2]


class RecentTimes:
    """Start and receipt of the latest records of an input, epoch seconds."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []
        self._count = 0

    def add(self, start: Floats, received: Floats) -> None:
        """Note records in the order of receipt."""
        self._parts.append(np.stack((start[-_MOST_TIMES:], received[-_MOST_TIMES:])))
        self._count += self._parts[-1].shape[1]
        while self._count - self._parts[0].shape[1] >= _MOST_TIMES:
            self._count -= self._parts.pop(0).shape[1]

    def columns(self) -> Floats:
        """Two rows: starts and receipts."""
        return np.concatenate(self._parts, axis=1) if self._parts else np.empty((2, 0))


class SourceTimes:
    """The timing of every source of one input partition.

    `observe` may be called in any portions; decisions are made by `pass_edge` alone, so they depend on the records
    and not on how they were batched.
    """

    def __init__(self, bucket_s: int, grace_s: float, max_delay_s: float) -> None:
        self._bucket_s, self._grace_s, self._max_delay_s = bucket_s, grace_s, max_delay_s
        self._sources: dict[str, Source] = {}

    def of(self, source: str) -> Timing:
        """How records of `source` are scored now."""
        known = self._sources.get(source)
        return Timing(known.delay_s, known.duration_s) if known is not None else ON_TIME

    def observe(self, source: str, start: Floats, received: Floats) -> None:
        """Note records by their start and receipt, epoch seconds."""
        known = self._sources.get(source)
        if known is None:
            if len(self._sources) >= _MAX_SOURCES:
                return
            known = self._sources[source] = Source()
        known.observe(start, received)

    def pass_edge(self, at: float) -> None:
        """Decide by what was observed until `at`, when a bucket of receipt ended."""
        for known in self._sources.values():
            if not known.seen:
                continue
            before = known.receipts[-1].at if known.receipts else at
            receipt = self._receipt(at, np.array(known.starts), np.array(known.received))
            known.receipts = [*known.receipts[1 - _REMEMBERED :], receipt]
            known.seen, known.stride, known.starts, known.received = 0, 1, [], []
            self._decide(known, at - before)

    def _receipt(self, at: float, start: Floats, received: Floats) -> Receipt:
        edge = np.floor((received - self._grace_s) / self._bucket_s) * self._bucket_s
        late = np.floor(start / self._bucket_s) * self._bucket_s < edge
        needed = np.where(late, edge - start, 0.0)
        samples = needed if len(needed) <= _SAMPLES else np.quantile(needed, _LEVELS, method="higher")
        starts = np.unique(start) if not (start % 1).any() else np.empty(0)
        if len(starts) > _STARTS:
            starts = starts[np.linspace(0, len(starts) - 1, _STARTS).astype(np.int64)]
        soonest = float(np.quantile(received - start, 0.05, method="lower"))
        middle = float(np.quantile(start, 0.5, method="lower"))
        return Receipt(at, middle, np.sort(samples).tolist(), starts.tolist(), soonest)

    def _decide(self, source: Source, passed_s: float) -> None:
        receipts = source.receipts
        if len(receipts) < _NEEDED or not _keeps_pace(receipts):
            return
        source.duration_s = self._duration(receipts)
        wanted = self._delay(np.concatenate([each.needed for each in receipts]))
        if wanted > source.delay_s:
            source.delay_s = wanted
        elif source.delay_s - wanted >= self._bucket_s or not wanted:
            source.delay_s = max(wanted, source.delay_s - _SHRINK * passed_s)

    def _delay(self, needed: Floats) -> float:
        late = int(np.count_nonzero(needed))
        if late < max(_FEWEST_LATE, _SOME_LATE * len(needed)):
            return 0.0
        delay, longer = np.quantile(needed, (_WAIT, _WAIT_LONGER), method="higher")
        if longer <= _LONGER * delay:
            delay = longer
        short = delay <= 2 * self._bucket_s
        if delay > self._max_delay_s or (late < _MOST_LATE * len(needed) and not short):
            return 0.0
        return float(delay)

    def _duration(self, receipts: Sequence[Receipt]) -> float:
        if not all(each.starts for each in receipts):
            return 0.0
        starts = np.unique(np.concatenate([each.starts for each in receipts])).astype(np.int64)
        if len(starts) < _NEEDED:
            return 0.0
        period = math.gcd(*np.diff(starts).tolist())
        soonest = min(each.soonest for each in receipts)
        return float(period) if period >= _SHORTEST_PERIOD_S and soonest >= _PERIOD_PASSED * period else 0.0

    def dump(self) -> dict[str, Source]:
        return self._sources

    def load(self, sources: dict[str, Source]) -> None:
        self._sources = sources


def _keeps_pace(receipts: Sequence[Receipt]) -> bool:
    first, last = receipts[0], receipts[-1]
    pace = (last.middle - first.middle) / max(last.at - first.at, 1e-9)
    return _SLOWEST <= pace <= _FASTEST
