"""Sums of the buckets that are still open, over all series of a shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import AMOUNTS


class OpenBuckets:
    """Dense sums per bucket, shape (`AMOUNTS`, series). The same sums in the same order give the same bits."""

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

    def add(self, start: int, index: NDArray[np.int64], values: NDArray[np.float64], n: int) -> None:
        """Add `values` (amounts, rows) of the series `index` (each below `n`) to the bucket that begins at `start`."""
        sums = self._sums.get(start)
        if sums is None:
            sums = self._sums[start] = np.zeros((len(AMOUNTS), n))
        elif sums.shape[1] < n:
            sums = self._sums[start] = np.pad(sums, ((0, 0), (0, max(n, 2 * sums.shape[1]) - sums.shape[1])))
        for row, amounts in zip(sums, values, strict=True):
            if amounts.any():
                np.add.at(row, index, amounts)

    def peek_cost(self, since: int, n: int) -> NDArray[np.float64]:
        """Dollars per series in open buckets from `since` on."""
        total = np.zeros(n)
        for start, sums in self._sums.items():
            if start >= since:
                width = min(n, sums.shape[1])
                total[:width] += sums[0, :width]
        return total

    def costs(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Start and dollars by series of every open bucket."""
        return ((start, sums[0]) for start, sums in self._sums.items())

    def pop(self, start: int, n: int) -> NDArray[np.float64]:
        """Take the bucket out: the amounts of all `n` series, shape (`AMOUNTS`, n); zeros if there is none."""
        taken = np.zeros((len(AMOUNTS), n))
        sums = self._sums.pop(start, None)
        if sums is not None:
            width = min(n, sums.shape[1])
            taken[:, :width] = sums[:, :width]
        return taken

    def dump(self) -> dict[str, NDArray[Any]]:
        return {str(start): sums for start, sums in self._sums.items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._sums = {}
        for start, sums in arrays.items():
            kept = self._sums[int(start)] = np.zeros((len(AMOUNTS), sums.shape[1]))
            kept[: len(sums)] = sums  # an older state has fewer amounts
