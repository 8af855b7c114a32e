"""Usage records, their messages, and a dollars head whose scores a test sets by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curb.detector.state.amounts import AMOUNTS, Amounts
from curb.detector.state.bucket import ClosedBucket, Scores
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE
from curb.stream.records.spend import Baseline, UsageRecord

#: A Monday, midnight UTC.
T0 = 1_750_032_000


def usage(
    id: str, at: float, cost: float = 1.0, *, received_at: float | None = None, key: str = "k1", **more: Any
) -> UsageRecord:
    """A record of key `key` in team a, received as it happened unless told otherwise."""
    tags = {"team": "a", "project": "p", "api_key": key, "model": "m", **more.pop("tags", {})}
    received_at = at if received_at is None else received_at
    return UsageRecord(
        id=id, charge_period_start=at, received_at=received_at, effective_cost=cost, tags=tags, requests=1, **more
    )


def message(*records: Any, offset: int = 0, topic: str = USAGE) -> Message:
    """Records, or lines, as one message."""
    if records and isinstance(records[0], bytes):
        return Message(topic, b"\n".join(records), partition=0, offset=offset)
    return Message(topic, encode_lines(records), partition=0, offset=offset)


class FakeHead:
    """Knows a baseline and nothing else."""

    def baseline(self, i: int) -> Baseline:
        return Baseline(expected_usd_per_hour=6.0, requests_per_minute_p95=10.0 + i, known_days=9.0)


def bucket(
    start: int,
    rate: Sequence[float],
    *,
    expected: float = 6.0,
    notice: float = -9.0,
    page: float = -9.0,
    bucket_s: int = 60,
) -> ClosedBucket:
    """A closed bucket in which series i burned `rate[i]` $/h and every series has the same scores."""
    n = len(rate)
    each = np.array(rate, np.float64)
    scores = Scores(
        notice=np.full(n, notice),
        page=np.full(n, page),
        channel=np.ones(n, np.intp),
        expected_rate=np.full(n, expected),
        rate=each,
        expected_fast=np.full(n, expected),
        excess=(each - expected) / 2,
        requests_rate=np.full(n, 3.0),
    )
    end = start + bucket_s
    none = np.zeros(n)
    amounts = Amounts(each * bucket_s / 3600, np.ones(n), *[none] * (len(AMOUNTS) - 2))
    return ClosedBucket(start, end, end + 30.0, amounts, scores)
