"""Messages of the spend topic as the shard reads them: runs of partial sums, with ticks and price holes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.stream.errors import PermanentError
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.spend import Knowledge, PricingHole, SpendTick


class PartialSum(msgspec.Struct, tag="partial", tag_field="type", gc=False):
    """The scored fields of `stream.records.SpendPartial`, with tags left as bytes."""

    scope: str
    tags: msgspec.Raw
    bucket_start: int
    effective_cost: float
    requests: int = 0
    errors: int = 0
    users: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    gpu_samples: int = 0
    gpu_utilization: float = 0.0
    memory_used: float = 0.0
    unscored_cost: float = 0.0


@dataclass(frozen=True)
class PartialRun:
    """Partial sums as columns: arrays of one length, `values` of shape (`amounts.AMOUNTS`, that length)."""

    index: NDArray[np.int64]
    bucket: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def cost(self) -> NDArray[np.float64]:
        """Dollars."""
        cost: NDArray[np.float64] = self.values[0]
        return cost

    @property
    def scored_cost(self) -> NDArray[np.float64]:
        """Dollars that may raise an alert."""
        scored: NDArray[np.float64] = self.values[0] - self.values[-1]
        return scored

    def where(self, chosen: NDArray[np.bool_]) -> PartialRun:
        """The chosen rows."""
        return PartialRun(self.index[chosen], self.bucket[chosen], self.values[:, chosen])


#: Scopes, raw tags, bucket starts → numbers of the series.
Numbers = Callable[[Sequence[str], Sequence[bytes], Sequence[int]], list[int]]
#: In the order of `amounts.AMOUNTS`.
_AMOUNTS = (
    "effective_cost",
    "requests",
    "errors",
    "users",
    "input_tokens",
    "output_tokens",
    "gpu_samples",
    "gpu_utilization",
    "memory_used",
    "unscored_cost",
)
_COLUMNS = tuple(attrgetter(name) for name in _AMOUNTS)


def read(message: Message) -> Iterator[list[PartialSum] | SpendTick | PricingHole | Knowledge]:
    """The content of a message, in order. Raises PermanentError for lines that no rollup has written."""

    def on_bad(line_number: int, _line: bytes, why: str) -> None:
        at = f"{message.topic}/{message.partition}/{message.offset}#{line_number}"
        raise PermanentError(f"the log is damaged or was written by another program: {at}: {why}")

    kinds: Any = PartialSum | SpendTick | PricingHole | Knowledge
    lines: list[PartialSum | SpendTick | PricingHole | Knowledge] = decode_lines(message.value, kinds, on_bad)
    for kind, of_kind in groupby(lines, type):
        if kind is PartialSum:
            yield cast("list[PartialSum]", list(of_kind))
        else:
            yield from cast("Iterator[SpendTick | PricingHole | Knowledge]", of_kind)


def columns(run: Sequence[PartialSum], numbers: Numbers) -> PartialRun:
    """The parts as columns, their series numbered."""
    count = len(run)
    bucket = [each.bucket_start for each in run]
    index = numbers([each.scope for each in run], [bytes(each.tags) for each in run], bucket)
    values = np.empty((len(_COLUMNS), count))
    for row, column in zip(values, _COLUMNS, strict=True):
        amounts = list(map(column, run))
        # Most sources leave most counts at zero.
        row[...] = amounts[0] if amounts.count(amounts[0]) == count else amounts
    return PartialRun(np.array(index, np.int64), np.array(bucket, np.int64), values)
