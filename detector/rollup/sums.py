"""Sums columns of numbers by series and bucket, for many series at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Rows of values that all kinds of records have: dollars, then requests, errors, users, input and output tokens,
#: requests without usage, and errors that were refusals. GPUs have three more (samples, percents, GiB); bills have
#: dollars that are not scored, and those of each part of `NOT_USAGE`.
COMMON = 8


class Sums(NamedTuple):
    """Sums per group, arrays of one length; `values` has shape (columns, groups)."""

    series: NDArray[np.int64]
    bucket: NDArray[np.int64]
    events: NDArray[np.int64]
    values: NDArray[np.float64]


class Buckets(NamedTuple):
    """Distinct bucket starts, ascending, and the place of each row's bucket among them."""

    starts: NDArray[np.int64]
    at: NDArray[np.int64]


def distinct_buckets(bucket: NDArray[np.int64]) -> Buckets:
    """Finds the buckets of all rows; usually there are one or two."""
    low, high = bucket.min(), bucket.max()
    if low == high:
        return Buckets(np.array([low]), np.zeros(len(bucket), np.int64))
    starts, at = np.unique(bucket, return_inverse=True)
    return Buckets(starts, at)


def sum_by_series_and_bucket(
    series: NDArray[np.int64],
    buckets: Buckets,
    values: NDArray[np.float64],
    events: NDArray[np.bool_] | None = None,
) -> Sums:
    """Sums of `values` (columns, rows) per (series, bucket), ordered by bucket, then series.

    `events` marks the rows that stand for an event; None: all. Integers up to 2**53 are exact. Where groups
    are dense, counting beats sorting several times over.
    """
    first, last = int(series.min()), int(series.max())
    width = last - first + 1
    group = buckets.at * width + (series - first)
    size = width * len(buckets.starts)
    dense = size <= 4 * len(series) + 10_000
    if dense:
        counts = np.bincount(group, minlength=size)
        present = np.flatnonzero(counts)
        number = counts[present].astype(np.int64)
    else:
        present, group = np.unique(group, return_inverse=True)
        number = np.bincount(group).astype(np.int64)
    if events is not None:
        marked = np.bincount(group, weights=events, minlength=size if dense else 0).astype(np.int64)
        number = marked[present] if dense else marked
    totals = np.zeros((len(values), len(present)))
    for total, column in zip(totals, values, strict=True):
        if column.any():  # most sources leave most counts at zero
            sums = np.bincount(group, weights=column, minlength=size if dense else 0)
            total[...] = sums[present] if dense else sums
    return Sums(present % width + first, buckets.starts[present // width], number, totals)
