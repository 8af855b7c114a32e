"""The hours at which machines are on: bitmaps of their last days, and which time of day that leaves out of hours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns

Bits = NDArray[np.uint8]

#: Seconds of a slot of the day, slots of a day, and bytes of a bitmap of them. By hand.
SLOT_S = 600
#: By definition.
SLOTS = 86400 // SLOT_S
#: By definition.
_BYTES = SLOTS // 8
#: Days that are remembered, of those on which the machine was on at all: rare ones stay known. By hand.
DAYS = 10


class Params(NamedTuple):
    #: Share of the days that makes an hour part of the core; hours on fewer days show how much they vary. By hand.
    core: float = 0.75
    #: Days from which on hours that were not seen on one day show on the others. By hand.
    many_days: int = 3
    #: Rows unpacked at a time: 1.5 MB. By hand.
    chunk: int = 1024


P = Params()


def slots_of(second_of_day: int, step_s: int) -> Bools:
    """The slots of the day that a bucket touches, shape (SLOTS,)."""
    touched = np.zeros(SLOTS, np.bool_)
    last = second_of_day + max(1, step_s) - 1
    touched[np.arange(second_of_day // SLOT_S, last // SLOT_S + 1) % SLOTS] = True
    return touched


class OnHours:
    """Ten minutes of the local day by ten minutes, for each row: on on one of its last days, or near enough."""

    def __init__(self, tolerance_min: float, max_tolerance_min: float, young_min: float, capacity: int = 64) -> None:
        self._least, self._most, self._young = (
            round(minutes * 60 / SLOT_S) for minutes in (tolerance_min, max_tolerance_min, young_min)
        )
        self.columns = Columns(
            {
                "today": Column((_BYTES,), np.uint8),
                "past": Column((DAYS, _BYTES), np.uint8),
                #: Days in `past`.
                "days": Column(dtype=np.uint8),
                #: Today may have hours that nobody saw.
                "doubtful": Column(dtype=np.bool_),
                #: Any time of the day that is no surprise.
                "usual": Column((_BYTES,), np.uint8),
            },
            capacity,
        )

    def mark(self, rows: Bools, slots: Bools) -> None:
        """These rows are on now; `slots` of shape (SLOTS,)."""
        bits = np.packbits(slots)
        today = self.columns["today"]
        for byte in np.flatnonzero(bits).tolist():
            today[byte] |= np.where(rows, bits[byte], 0).astype(np.uint8)

    def doubt(self, rows: Bools) -> None:
        """These rows may have come on or gone off unseen today: where few days are known, this one is left out."""
        self.columns["doubtful"][rows] = True

    def known(self, days: int) -> Bools:
        """Rows with so many days in the past."""
        known: Bools = self.columns["days"] >= days
        return known

    def usual(self, slots: Bools) -> Bools:
        """Rows that may be on in one of `slots`."""
        bits, usual = np.packbits(slots), self.columns["usual"]
        found = np.zeros(self.columns.n, np.bool_)
        for byte in np.flatnonzero(bits).tolist():
            found |= (usual[byte] & bits[byte]) != 0
        return found

    def close_day(self) -> None:
        """Add today to the past, where the row was on at all, and start a new day."""
        today, past, days = self.columns["today"], self.columns["past"], self.columns["days"]
        left_out = self.columns["doubtful"] & (days < P.many_days)
        rows = np.flatnonzero(today.any(axis=0) & ~left_out)
        for first in range(0, len(rows), P.chunk):
            chunk = rows[first : first + P.chunk]
            past[1:, :, chunk] = past[:-1, :, chunk]
            past[0][:, chunk] = today[:, chunk]
            days[chunk] = np.minimum(days[chunk] + 1, DAYS)
            self._learn(chunk)
        today[...] = 0
        self.columns["doubtful"][...] = False

    def _learn(self, rows: NDArray[np.intp]) -> None:
        days = self.columns["days"][rows].astype(np.float64)
        on = np.unpackbits(self.columns["past"][:, :, rows], axis=1)
        count = on.sum(axis=0)
        union = count > 0
        varied = union & (count < np.maximum(1.0, P.core * days))
        edges = np.maximum(1, (union != np.roll(union, 1, axis=0)).sum(axis=0))
        # The range seen in a few days is a part of the true one: the more days, the less is missing at its ends.
        width = varied.sum(axis=0) / edges * np.maximum(3 / np.maximum(days - 1, 1), 0.5)
        reach = np.clip(self._least + np.ceil(width), self._least, max(self._most, self._least)).astype(int)
        reach = np.where(days < 2, max(self._young, self._least), reach)
        self.columns["usual"][:, rows] = np.packbits(_widen(union, reach), axis=0)


def _widen(union: Bools, reach: NDArray[np.int64]) -> Bools:
    """Each run of `union` (SLOTS, rows) grows by `reach` slots at both ends; the day is round."""
    wide = union.copy()
    for shift in range(1, int(reach.max(initial=0)) + 1):
        far = reach >= shift
        wide |= (np.roll(union, shift, axis=0) | np.roll(union, -shift, axis=0)) & far
    return wide
