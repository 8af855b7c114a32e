"""Records that cover a time or are scored later than they happened: cut into pieces, one per bucket."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.sums import COMMON
from curb.detector.state.columns import Bools, Floats, Ints

#: Pieces of one record at most, and of a delay: nothing that waits is kept finer than this share of its delay.
#: Chosen by hand: an hour in minutes; a day in pieces of 24 minutes.
MAX_PIECES = 60
#: Records that wait, from which those of one series and time are added up whenever their number has doubled: 1 MB.
#: Chosen by hand.
_MERGE_FROM = 10_000
#: Rows of values: dollars; whole counts; then those of which every piece has all (a sample is a sample in each bucket).
_DOLLARS, _COUNTS = 0, slice(1, COMMON)


class Rows(NamedTuple):
    """Records as columns of one length: series (records, scopes), start and duration in seconds, values."""

    series: Ints
    start: Floats
    duration: Floats
    values: Floats

    def where(self, chosen: Bools) -> Rows:
        """The chosen records."""
        return Rows(self.series[chosen], self.start[chosen], self.duration[chosen], self.values[:, chosen])


class Pieces(NamedTuple):
    """Pieces of records, each within one bucket; `first` marks one piece of every record."""

    series: Ints
    bucket: Ints
    values: Floats
    first: Bools


def pieces(rows: Rows, since: Floats, until: float, bucket_s: int, *, samples: bool) -> Pieces:
    """Cut the records into the buckets that start from `since` (per record) and before `until`, epoch seconds.

    `values` are dollars, seven whole counts, and either three rows about samples (`samples`) or other dollars.
    The pieces of a record add up to it: dollars by their share of its time, counts by rounding down what is reached.
    """
    step, first, last = _steps(rows, bucket_s)
    # A piece is due with the first bucket of its step.
    low, high = np.maximum(first, np.ceil(since / step)), np.minimum(last, np.ceil(until / step))
    count = np.maximum(0, high - low).astype(np.int64)
    at = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    begin = (low[at] + number) * step[at]
    length = np.where(rows.duration > 0, rows.duration, 1.0)[at]
    moment = rows.duration[at] == 0
    reached = np.clip((begin - rows.start[at]) / length, 0.0, 1.0)
    reaches = np.clip((begin + step[at] - rows.start[at]) / length, 0.0, 1.0)
    reached[moment], reaches[moment] = 0.0, 1.0
    whole = rows.values[:, at]
    cut = whole.copy()
    cut[_DOLLARS] *= reaches - reached
    cut[_COUNTS] = np.floor(whole[_COUNTS] * reaches) - np.floor(whole[_COUNTS] * reached)
    if not samples:
        cut[COMMON:] *= reaches - reached
    # No piece of a long step lies before its record.
    bucket = np.maximum(begin, np.floor(rows.start / bucket_s)[at] * bucket_s).astype(np.int64)
    return Pieces(rows.series[at], bucket, cut, reached == 0.0)


def _steps(rows: Rows, bucket_s: int) -> tuple[Floats, Floats, Floats]:
    """Per record: the seconds of a piece, and the numbers of its first step and of the one behind its last."""
    step = bucket_s * np.maximum(1, np.ceil(rows.duration / bucket_s / MAX_PIECES))
    first = np.floor(rows.start / step)
    last = np.where(rows.duration > 0, np.ceil((rows.start + rows.duration) / step), first + 1)
    return step, first, last


def coarse(rows: Rows, delay_s: Floats, bucket_s: int) -> Rows:
    """The records, which wait for `delay_s`, no finer than their buckets and a sixtieth of the delay.

    Records of one series then have few different times and can be added up. None starts before its bucket.
    """
    cell = bucket_s * np.maximum(1, np.ceil(delay_s / bucket_s / MAX_PIECES))
    finer = (rows.duration < cell) & (cell > bucket_s)
    start = np.where(rows.duration == 0, np.floor(rows.start / bucket_s) * bucket_s, rows.start)
    start = np.where(finer, np.ceil(rows.start / cell) * cell, start)
    return rows._replace(start=start, duration=np.where(finer, cell, rows.duration))


class Waiting:
    """Records that are scored when their time comes; each is given out piece by piece.

    Memory is bounded by the series and their different times, not by the number of records.
    """

    def __init__(self, scopes: int, columns: int, bucket_s: int, *, samples: bool = False) -> None:
        self._bucket_s, self._samples = bucket_s, samples
        self._rows = Rows(np.empty((0, scopes), np.int64), np.empty(0), np.empty(0), np.empty((columns, 0)))
        #: Per record, the time before which all pieces were given out.
        self._since = np.empty(0)
        self._new: list[Rows] = []
        #: Number of records when they were last added up.
        self._merged = _MERGE_FROM
        self._until = 0.0

    def __len__(self) -> int:
        return len(self._since) + sum(len(each.start) for each in self._new)

    @property
    def end(self) -> float:
        """The end of the last record that waits, epoch seconds; 0 without any."""
        return max(float((each.start + each.duration).max(initial=0.0)) for each in (self._rows, *self._new))

    def add(self, rows: Rows) -> None:
        """Keep records; their start is the time at which they are scored."""
        self._new.append(rows)

    def take(self, until: float) -> Pieces | None:
        """The pieces in buckets that start before `until` (epoch seconds) and were not taken yet; None without any."""
        if until > self._until and len(self) >= 2 * self._merged:
            self._merge()
        self._until = until
        due = [np.floor(each.start / self._bucket_s) * self._bucket_s < until for each in (self._rows, *self._new)]
        if not any(each.any() for each in due):
            return None
        self._gather()
        return self._take(np.floor(self._rows.start / self._bucket_s) * self._bucket_s < until, until)

    def _take(self, due: Bools, until: float) -> Pieces | None:
        taken = pieces(self._rows.where(due), self._since[due], until, self._bucket_s, samples=self._samples)
        self._since[due] = until
        step, _, last = _steps(self._rows, self._bucket_s)
        kept = (last - 1) * step >= until
        self._rows, self._since = self._rows.where(kept), self._since[kept]
        return taken if len(taken.bucket) else None

    def recut(self, bucket_s: int) -> Waiting:
        """What was not given out yet, to be cut into buckets of another length."""
        self._gather()
        rows = self._rows
        step, first, _ = _steps(rows, self._bucket_s)
        # Pieces are given out whole: the rest begins with the next.
        given = np.maximum(first, np.ceil(self._since / step)) * step
        begun = np.isfinite(self._since) & (given > rows.start)
        start = np.where(begun, given, rows.start)
        duration = np.where(begun, rows.start + rows.duration - start, rows.duration)
        passed = np.where(begun, (start - rows.start) / np.where(rows.duration > 0, rows.duration, 1.0), 0.0)
        rest = rows.values.copy()
        rest[_DOLLARS] *= 1 - passed
        rest[_COUNTS] -= np.floor(rest[_COUNTS] * passed)
        if not self._samples:
            rest[COMMON:] *= 1 - passed
        new = Waiting(rows.series.shape[1], len(rest), bucket_s, samples=self._samples)
        new.add(Rows(rows.series, start, duration, rest))
        new._until = self._until
        return new

    def _gather(self) -> None:
        """Put new records to the others."""
        if self._new:
            parts = [self._rows, *self._new]
            self._rows = Rows(
                np.concatenate([each.series for each in parts]),
                np.concatenate([each.start for each in parts]),
                np.concatenate([each.duration for each in parts]),
                np.concatenate([each.values for each in parts], axis=1),
            )
            fresh = sum(len(each.start) for each in self._new)
            self._since = np.concatenate((self._since, np.full(fresh, -np.inf)))
            self._new = []

    def _merge(self) -> None:
        """Add up the records of one series and time. Only where time passes a bucket, whenever snapshots are made."""
        self._gather()
        rows = self._rows
        keys = (*rows.series.T, rows.start, rows.duration, self._since)
        order = np.lexsort(keys)
        changes = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
        first = np.concatenate(([0], np.flatnonzero(changes) + 1))
        kept = order[first]
        values = np.add.reduceat(rows.values[:, order], first, axis=1)
        self._rows = Rows(rows.series[kept], rows.start[kept], rows.duration[kept], values)
        self._since = self._since[kept]
        self._merged = max(_MERGE_FROM, len(kept))

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes: flat arrays."""
        self._gather()
        rows = self._rows
        return {
            "series": rows.series,
            "start": rows.start,
            "duration": rows.duration,
            "values": rows.values,
            "since": self._since,
            "merged": np.array([self._merged, self._until]),
        }

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        values = arrays["values"]
        missing = len(self._rows.values) - len(values)
        if missing == 1:  # an older state has fewer rows that all kinds have
            values = np.insert(values, COMMON - 1, 0.0, axis=0)
        elif missing > 1:  # or fewer of bills
            values = np.pad(values, ((0, missing), (0, 0)))
        self._rows = Rows(arrays["series"], arrays["start"], arrays["duration"], values)
        self._since = arrays["since"].copy()
        self._merged, self._until = int(arrays["merged"][0]), float(arrays["merged"][1])
