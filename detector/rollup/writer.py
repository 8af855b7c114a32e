"""Packs partial sums, holes in the price book, tallies and ticks into one message per partition of the spend topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.sums import COMMON, Sums
from curb.detector.rollup.tag_table import OutputSeries
from curb.detector.state.amounts import Purpose
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.loops import LoopCall
from curb.stream.records.spend import NOT_USAGE, PricingHole, Slots, SpendTick, Tally

#: Bytes of a message, and of a line without its tags, at most; brokers accept 1 MB by default. Bytes of a call in it,
#: and of a slot.
_MAX_BYTES, _NUMBERS_BYTES, _CALL_BYTES, _SLOT_BYTES = 500_000, 450, 220, 110
#: Rows of sums that slots have, besides the dollars; see `sums.COMMON`.
_REQUESTS, _USERS, _REFUSED = 1, 3, 7


class _Partial(msgspec.Struct, tag="partial", tag_field="type", omit_defaults=True, gc=False):
    """`stream.records.SpendPartial` with its tags ready as bytes."""

    scope: str
    tags: msgspec.Raw
    bucket_start: int
    effective_cost: float
    events: int
    requests: int = 0
    errors: int = 0
    users: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    gpu_samples: int = 0
    gpu_utilization: float = 0.0
    memory_used: float = 0.0
    unscored_cost: float = 0.0
    charges: dict[str, float] = {}
    counted_only: bool = False
    unmetered: int = 0
    refused: int = 0
    received_at: float = 0.0
    covers_s: int = 0
    slot: int = -1
    slots: Slots | None = None
    calls: Sequence[LoopCall] = ()


class _Scored(_Partial, tag="scored", tag_field="type", omit_defaults=True, gc=False):
    """`stream.records.SpendScored`, likewise."""


class _When(NamedTuple):
    """The slot of a sum, or its slots where it spans several; when it was received last."""

    received_at: float
    slot: int = -1
    slots: Slots | None = None


class PartialLines:
    """Lines per partition, cut into messages before they grow too large."""

    def __init__(self, partitions: int, source: str, received_at: float) -> None:
        self._key, self._received_at = source.encode(), received_at
        self._lines: list[list[Any]] = [[] for _ in range(partitions)]
        self._sizes = [0] * partitions
        self._messages: list[Message] = []

    def add_sums(
        self,
        sums: Sums,
        series: Sequence[OutputSeries],
        purpose: Purpose = "all",
        covers_s: int = 0,
        when: Sequence[_When] = (),
    ) -> None:
        """A line per sum, in their order; the rows of `sums.values` are those of `sums.COMMON`.

        `when` is for each of them, where there are slots.
        """
        cost, *counts, unmetered, refusals = sums.values[:COMMON]
        more = sums.values[COMMON:]
        columns = [column.astype(np.int64).tolist() for column in counts]
        if len(more) == 3:
            columns += [more[0].astype(np.int64).tolist(), more[1].tolist(), more[2].tolist()]
        elif len(more):
            columns += [[0] * len(cost)] * 3 + [more[0].tolist(), _by_part(more[1:])]
        missing, refused = unmetered.astype(np.int64).tolist(), refusals.astype(np.int64).tolist()
        keys = (sums.series.tolist(), sums.bucket.tolist(), cost.tolist(), sums.events.tolist())
        lines, sizes = self._lines, self._sizes
        kind, counted_only = _Scored if purpose == "scored" else _Partial, purpose == "counted"
        rows = zip(when or repeat(_When(self._received_at), len(cost)), *keys, missing, refused, *columns, strict=True)
        for (received_at, slot, slots), number, bucket, usd, events, unknown, no, *counted in rows:
            at = series[number]
            partition = at.partition
            own = at.tags_bytes + _NUMBERS_BYTES + (0 if slots is None else _SLOT_BYTES * len(slots.starts))
            size = sizes[partition] + own
            if size > _MAX_BYTES:
                self._cut(partition)
                size = own
            sizes[partition] = size
            line = kind(at.scope, at.tags, bucket, usd, events, *counted)
            line.counted_only, line.unmetered, line.refused = counted_only, unknown, no
            line.received_at, line.covers_s, line.slot, line.slots = received_at, covers_s, slot, slots
            lines[partition].append(line)

    def add_slots(
        self,
        sums: Sums,
        series: Sequence[OutputSeries],
        bucket_s: int,
        phase_s: int,
        received: Mapping[int, float],
    ) -> None:
        """A line per bucket of sums of slots: `sums.bucket` has their starts, `received` the latest receipt of each."""
        buckets = (sums.bucket - phase_s) // bucket_s * bucket_s + phase_s
        order = np.lexsort((sums.bucket, sums.series, buckets))
        buckets, numbers, values = buckets[order], sums.series[order], sums.values[:, order]
        begins = np.flatnonzero(np.diff(numbers, prepend=-1) | np.diff(buckets, prepend=-1))
        whole = Sums(
            numbers[begins],
            buckets[begins],
            np.add.reduceat(sums.events[order], begins),
            np.add.reduceat(values, begins, axis=1),
        )
        starts = sums.bucket[order].tolist()
        offsets, receipts = [(start - phase_s) % bucket_s for start in starts], [received[start] for start in starts]
        requests = (values[_REQUESTS] - values[_REFUSED]).astype(np.int64).tolist()
        cost, users = values[0].tolist(), values[_USERS].astype(np.int64).tolist()
        when = []
        for begin, end in pairwise([*begins.tolist(), len(order)]):
            of = slice(begin, end)
            if end - begin == 1:
                when.append(_When(receipts[begin], offsets[begin]))
            else:
                slots = Slots(offsets[of], requests[of], cost[of], users[of], receipts[of])
                when.append(_When(max(receipts[of]), slots=slots))
        self.add_sums(whole, series, when=when)

    def add_calls(self, series: OutputSeries, bucket: int, calls: Sequence[LoopCall]) -> None:
        """A line with the newest calls of a principal; its sums are 0, which earlier versions read as no spend."""
        size = series.tags_bytes + _NUMBERS_BYTES + _CALL_BYTES * len(calls)
        if self._sizes[series.partition] + size > _MAX_BYTES:
            self._cut(series.partition)
        self._sizes[series.partition] += size
        line = _Partial(series.scope, series.tags, bucket, 0.0, 0, received_at=self._received_at, calls=calls)
        self._lines[series.partition].append(line)

    def add(self, partition: int, record: PricingHole | Tally) -> None:
        """One line to one partition."""
        self._lines[partition].append(record)

    def add_tick(self, tick: SpendTick) -> None:
        """Add the tick to every partition, after all lines so far."""
        for lines in self._lines:
            lines.append(tick)

    def messages(self) -> list[Message]:
        """The messages to append, in order within each partition."""
        for partition in range(len(self._lines)):
            self._cut(partition)
        return self._messages

    def _cut(self, partition: int) -> None:
        if self._lines[partition]:
            self._messages.append(
                Message(SPEND, encode_lines(self._lines[partition]), key=self._key, partition=partition)
            )
        self._lines[partition], self._sizes[partition] = [], 0


def _by_part(amounts: NDArray[np.float64]) -> list[dict[str, float]]:
    """Rows of `NOT_USAGE` → for each sum its dollars by part, without zeros."""
    found: list[dict[str, float]] = [{} for _ in range(amounts.shape[1])]
    for part, row in zip(NOT_USAGE, amounts, strict=True):
        for at in np.flatnonzero(row).tolist():
            found[at][part] = float(row[at])
    return found
