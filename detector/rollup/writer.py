"""Packs partial sums, holes in the price book and ticks into one message per partition of the spend topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from curb.detector.rollup.sums import Sums
from curb.detector.rollup.tag_table import OutputSeries
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import PricingHole, SpendTick

#: Bytes of a message, and of a line without its tags, at most; brokers accept 1 MB by default.
_MAX_BYTES, _NUMBERS_BYTES = 500_000, 450


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


class PartialLines:
    """Lines per partition, cut into messages before they grow too large."""

    def __init__(self, partitions: int, source: str) -> None:
        self._key = source.encode()
        self._lines: list[list[Any]] = [[] for _ in range(partitions)]
        self._sizes = [0] * partitions
        self._messages: list[Message] = []

    def add_sums(self, sums: Sums, series: Sequence[OutputSeries]) -> None:
        """A line per sum. The columns of `sums.values` are cost, requests, errors, users, input and output tokens.

        Those of GPUs have three more: samples, and the sums of their percents and GiB. Those of bills have one more:
        the cost that is not scored.
        """
        cost, *counts = sums.values
        integers = 6 if len(counts) == 8 else 5
        columns = [column.astype(np.int64).tolist() for column in counts[:integers]]
        if len(counts) == 6:
            columns += [[0] * len(cost)] * 3
        columns += [column.tolist() for column in counts[integers:]]
        keys = (sums.series.tolist(), sums.bucket.tolist(), cost.tolist(), sums.events.tolist())
        lines, sizes = self._lines, self._sizes
        for number, bucket, usd, events, *counted in zip(*keys, *columns, strict=True):
            at = series[number]
            partition = at.partition
            size = sizes[partition] + at.tags_bytes + _NUMBERS_BYTES
            if size > _MAX_BYTES:
                self._cut(partition)
                size = at.tags_bytes + _NUMBERS_BYTES
            sizes[partition] = size
            lines[partition].append(_Partial(at.scope, at.tags, bucket, usd, events, *counted))

    def add(self, partition: int, record: PricingHole) -> None:
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
