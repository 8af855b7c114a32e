"""Percentiles of many histograms at once: bins in rows, a histogram per column, in pieces that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Columns per piece; a few hundred kB, which fit the cache.
_CHUNK = 4096


def chunks(n: int) -> Iterator[slice]:
    """Slices that cover `n` columns."""
    return (slice(begin, min(begin + _CHUNK, n)) for begin in range(0, n, _CHUNK))


def cumulated(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running sums over the bins of `weight` (bins, histograms), in place; row by row is faster than np.cumsum."""
    for before, row in pairwise(weight):
        np.add(row, before, out=row)
    return weight


def find_share(mass: NDArray[np.float32], target: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """The bin in which running sums (bins, histograms) reach `target` (histograms,), and how far into it: 0 to 1."""
    # A byte counts 255 bins, and is far faster; so is a comparison of numbers of one size.
    short = (mass < target.astype(mass.dtype)).view(np.uint8).sum(axis=0, dtype=np.uint8)
    at = np.minimum(short, len(mass) - 1).astype(np.intp)
    column = np.arange(mass.shape[1])
    below = np.where(at > 0, mass[at - 1, column], 0.0)
    inside = mass[at, column] - below
    return at, np.clip((target - below) / np.maximum(inside, 1e-12), 0.0, 1.0)
