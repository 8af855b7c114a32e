"""Sums of the buckets that are still open, over all series of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows of the array of a bucket.
_COST, _REQUESTS = 0, 1


class OpenBuckets:
    """Dense sums per bucket; adding is in order, so the same sums in the same order give the same bits."""

    def __init__(self) -> None:
        self._sums: dict[int, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, start: int) -> bool:
        return start in self._sums

    @property
    def first(self) -> int | None:
        """Start of the oldest open bucket."""
        return min(self._sums, default=None)

    def add(
        self, start: int, index: NDArray[np.int64], cost: NDArray[np.float64], requests: NDArray[np.float64], n: int
    ) -> None:
        """Add sums of the series `index` (each below `n`) to the bucket that begins at `start`."""
        sums = self._sums.get(start)
        if sums is None:
            sums = self._sums[start] = np.zeros((2, n))
        elif sums.shape[1] < n:
            sums = self._sums[start] = np.pad(sums, ((0, 0), (0, max(n, 2 * sums.shape[1]) - sums.shape[1])))
        np.add.at(sums[_COST], index, cost)
        np.add.at(sums[_REQUESTS], index, requests)

    def peek_cost(self, since: int, n: int) -> NDArray[np.float64]:
        """Dollars per series in open buckets from `since` on."""
        total = np.zeros(n)
        for start, sums in self._sums.items():
            if start >= since:
                width = min(n, sums.shape[1])
                total[:width] += sums[_COST, :width]
        return total

    def pop(self, start: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Take the bucket out: dollars and requests of all `n` series; zeros if there is none."""
        sums = self._sums.pop(start, None)
        if sums is None:
            return np.zeros(n), np.zeros(n)
        if sums.shape[1] < n:
            sums = np.pad(sums, ((0, 0), (0, n - sums.shape[1])))
        return sums[_COST, :n].copy(), sums[_REQUESTS, :n].copy()

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return {str(start): sums for start, sums in self._sums.items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._sums = {int(start): np.array(sums) for start, sums in arrays.items()}
