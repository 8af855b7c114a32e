"""Sums columns of numbers by series and bucket, for many series at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sums(NamedTuple):
    """Sums per group, arrays of one length; `values` has shape (columns, groups)."""

    series: NDArray[np.int64]
    bucket: NDArray[np.int64]
    events: NDArray[np.int64]
    values: NDArray[np.float64]


def sum_by_series_and_bucket(series: NDArray[np.int64], bucket: NDArray[np.int64], values: NDArray[np.float64]) -> Sums:
    """Sums of `values` (columns, rows) per (series, bucket), ordered by bucket, then series.

    Integers up to 2**53 are exact. Where groups are dense, counting beats sorting several times over.
    """
    first, last = int(series.min()), int(series.max())
    buckets, bucket_at = _distinct(bucket)
    width = last - first + 1
    group = bucket_at * width + (series - first)
    size = width * len(buckets)
    # Most columns of counts are zero throughout.
    used = values.any(axis=1)
    if size <= 4 * len(series) + 10_000:
        counts = np.bincount(group, minlength=size)
        present = np.flatnonzero(counts)
        events = counts[present].astype(np.int64)
        sums = [np.bincount(group, weights=column, minlength=size)[present] for column in values[used]]
    else:
        present, group = np.unique(group, return_inverse=True)
        events = np.bincount(group).astype(np.int64)
        sums = [np.bincount(group, weights=column) for column in values[used]]
    totals = np.zeros((len(values), len(present)))
    totals[used] = sums
    return Sums(present % width + first, buckets[present // width], events, totals)


def _distinct(bucket: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct buckets and each row's place among them; usually there are one or two."""
    low = bucket.min()
    if low == bucket.max():
        return np.array([low]), np.zeros(len(bucket), np.int64)
    buckets, at = np.unique(bucket, return_inverse=True)
    return buckets, at
