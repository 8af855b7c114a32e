"""Packs partial sums, holes in the price book and ticks into one message per partition of the spend topic."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from detector.series_table import Series
from detector.sums import Sums
from stream.codec import encode
from stream.log import Message
from stream.records import SpendTick
from stream.topics import SPEND

_MAX_BYTES = 500_000


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
        self._lines: list[list[bytes]] = [[] for _ in range(partitions)]

    def add_sums(self, sums: Sums, series: Sequence[Series]) -> None:
        """A line per sum. The columns of `sums.values` are cost, requests, errors, users, input and output tokens."""
        encoder = msgspec.json.Encoder()
        cost, *counts = sums.values
        columns = [column.astype(np.int64).tolist() for column in counts]
        rows = zip(
            sums.series.tolist(), sums.bucket.tolist(), cost.tolist(), sums.events.tolist(), *columns, strict=True
        )
        lines = self._lines
        for number, bucket, usd, events, *integers in rows:
            at = series[number]
            line = encoder.encode(_Partial(at.scope, at.tags, bucket, usd, events, *integers))
            lines[at.partition].append(line)

    def add(self, partition: int, record: object) -> None:
        """One line to one partition."""
        self._lines[partition].append(encode(record))

    def add_tick(self, tick: SpendTick) -> None:
        """The tick to every partition, behind everything added so far."""
        line = encode(tick)
        for lines in self._lines:
            lines.append(line)

    def messages(self) -> list[Message]:
        """The messages to append, in order within each partition."""
        messages = []
        for partition, lines in enumerate(self._lines):
            start = size = 0
            for at, line in enumerate(lines):
                if size and size + len(line) > _MAX_BYTES:
                    messages.append(_message(partition, lines[start:at]))
                    start, size = at, 0
                size += len(line) + 1
            if lines:
                messages.append(_message(partition, lines[start:]))
        return messages


def _message(partition: int, lines: list[bytes]) -> Message:
    return Message(SPEND, b"\n".join(lines) + b"\n", partition=partition)
