"""Sums of the buckets that are still open, over all series of a shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import AMOUNTS
from curb.detector.state.columns import Floats

#: The number of the dollars among the amounts.
_COST = AMOUNTS.index("cost")


class OpenBuckets:
    """Sums per bucket: of each of `AMOUNTS` that has any, dollars or counts by series. The same sums in the same order
    give the same bits."""

    def __init__(self) -> None:
        #: Start of the bucket → number of the amount → sums by series.
        self._sums: dict[int, dict[int, Floats]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, start: int) -> bool:
        return start in self._sums

    @property
    def first(self) -> int | None:
        """Start of the oldest open bucket."""
        return min(self._sums, default=None)

    def add(self, start: int, index: NDArray[np.int64], values: Floats, n: int) -> None:
        """Add `values` (amounts, rows) of the series `index` (each below `n`) to the bucket that begins at `start`."""
        of = self._sums.setdefault(start, {})
        for number, amounts in enumerate(values):
            if amounts.any():
                sums = of.get(number)
                if sums is None:
                    sums = of[number] = np.zeros(n)
                elif len(sums) < n:
                    sums = of[number] = np.pad(sums, (0, max(n, 2 * len(sums)) - len(sums)))
                np.add.at(sums, index, amounts)

    def peek_cost(self, since: int, n: int) -> Floats:
        """Dollars per series in open buckets from `since` on."""
        total = np.zeros(n)
        for start, sums in self.costs():
            if start >= since:
                width = min(n, len(sums))
                total[:width] += sums[:width]
        return total

    def costs(self) -> Iterator[tuple[int, Floats]]:
        """Start and dollars by series of every open bucket."""
        return ((start, of[_COST]) for start, of in self._sums.items() if _COST in of)

    def pop(self, start: int, n: int) -> Floats:
        """Take the bucket out: the amounts of all `n` series, shape (`AMOUNTS`, n); zeros if there is none."""
        taken = np.zeros((len(AMOUNTS), n))
        for number, sums in self._sums.pop(start, {}).items():
            width = min(n, len(sums))
            taken[number, :width] = sums[:width]
        return taken

    def dump(self) -> dict[str, NDArray[Any]]:
        """For `load`: of each bucket an array of shape (`AMOUNTS`, series)."""
        dumped = {}
        for start, of in self._sums.items():
            sums = np.zeros((len(AMOUNTS), max(map(len, of.values()), default=0)))
            for number, each in of.items():
                sums[number, : len(each)] = each
            dumped[str(start)] = sums
        return dumped

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._sums = {
            int(start): {number: row.copy() for number, row in enumerate(sums) if row.any()}
            for start, sums in arrays.items()
        }
