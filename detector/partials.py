"""Packs partial sums, holes in the price book and ticks into one message per partition of the spend topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from detector.series_table import Series
from detector.sums import Sums
from stream.codec import encode_lines
from stream.log import Message
from stream.records import PricingHole, SpendTick
from stream.topics import SPEND

#: Size of a message, and of a line without its tags, at most.
_MAX_BYTES, _NUMBERS_BYTES = 500_000, 350


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


class PartialLines:
    """Lines gathered per partition."""

    def __init__(self, partitions: int) -> None:
        self._lines: list[list[Any]] = [[] for _ in range(partitions)]

    def add_sums(self, sums: Sums, series: Sequence[Series]) -> None:
        """A line per sum. The columns of `sums.values` are cost, requests, errors, users, input and output tokens."""
        cost, *counts = sums.values
        columns = [column.astype(np.int64).tolist() for column in counts]
        keys = (sums.series.tolist(), sums.bucket.tolist(), cost.tolist(), sums.events.tolist())
        lines = self._lines
        for number, bucket, usd, events, *integers in zip(*keys, *columns, strict=True):
            at = series[number]
            lines[at.partition].append(_Partial(at.scope, at.tags, bucket, usd, events, *integers))

    def add(self, partition: int, record: PricingHole) -> None:
        """One line to one partition."""
        self._lines[partition].append(record)

    def add_tick(self, tick: SpendTick) -> None:
        """The tick to every partition, behind everything added so far."""
        for lines in self._lines:
            lines.append(tick)

    def messages(self) -> list[Message]:
        """The messages to append, in order within each partition."""
        return [
            Message(SPEND, value, partition=partition)
            for partition, lines in enumerate(self._lines)
            for value in _values(lines)
        ]


def _values(lines: list[Any]) -> Iterator[bytes]:
    """Lines as values of messages that are not too large."""
    start = size = 0
    for at, line in enumerate(lines):
        length = _NUMBERS_BYTES + (len(bytes(line.tags)) if isinstance(line, _Partial) else 0)
        if size + length > _MAX_BYTES and size:
            yield encode_lines(lines[start:at])
            start, size = at, 0
        size += length
    if start < len(lines):
        yield encode_lines(lines[start:])
