"""The calls of principals that have loop prints, between two flushes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.raw_records import HotRecord
from curb.detector.rollup.tag_table import OutputSeries
from curb.detector.rollup.writer import PartialLines
from curb.detector.state.loops import CALLS, WINDOW_S, newest
from curb.detector.state.scopes import Scope
from curb.stream.records.loops import LoopCall

#: Of a principal and bucket, calls from which those that are too many are dropped. By hand: seldom, and a few kB.
_MANY = 4 * CALLS


class LoopCalls:
    """Keeps the newest `CALLS` of each principal and bucket, whatever the order in which they come."""

    def __init__(self, scopes: Sequence[Scope], bucket_s: int) -> None:
        self._places = [at for at, scope in enumerate(scopes) if scope.role == "principal" and scope.detect]
        self._bucket_s = bucket_s
        self._calls: dict[tuple[int, int], list[LoopCall]] = {}

    def add(self, records: Sequence[HotRecord], series: NDArray[np.int64]) -> None:
        """Take in records, with the numbers of their series, shape (records, scopes)."""
        prints = [record.loop for record in records]
        if prints.count(None) == len(prints):
            return
        for record, loop, row in zip(records, prints, series.tolist(), strict=True):
            if loop is None or record.received_at - record.charge_period_start > WINDOW_S:
                continue
            call = LoopCall(
                at=record.charge_period_start,
                usd=record.effective_cost,
                input_tokens=record.input_tokens,
                talk=loop.session or loop.prefix,
                last=loop.last,
                tools=loop.tools,
                sketch=loop.sketch,
                messages=loop.messages,
                failed=loop.failed,
                seconds=loop.seconds,
            )
            bucket = int(call.at // self._bucket_s) * self._bucket_s
            for place in self._places:
                calls = self._calls.setdefault((row[place], bucket), [])
                calls.append(call)
                if len(calls) >= _MANY:
                    calls[:] = newest(calls)

    def write(self, lines: PartialLines, series: Sequence[OutputSeries]) -> None:
        """Write and forget what was taken in; `series` are those that the numbers stand for."""
        for (number, bucket), calls in self._calls.items():
            lines.add_calls(series[number], bucket, newest(calls))
        self._calls.clear()
