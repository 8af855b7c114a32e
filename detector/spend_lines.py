"""Messages of the spend topic as the shard reads them: runs of partial sums, ticks and holes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.amounts import AMOUNTS
from stream.codec import decode_lines
from stream.errors import PermanentError
from stream.log import Message
from stream.records import Knowledge, PricingHole, SpendTick


class Part(msgspec.Struct, tag="partial", tag_field="type", gc=False):
    """`stream.records.SpendPartial`, only what is scored, with tags left as bytes."""

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

    def where(self, chosen: NDArray[np.bool_]) -> PartialRun:
        """The chosen rows."""
        return PartialRun(self.index[chosen], self.bucket[chosen], self.values[:, chosen])


#: (scope, raw tags, bucket start) → number of the series.
Number = Callable[[str, bytes, int], int]


def read(message: Message) -> Iterator[list[Part] | SpendTick | PricingHole | Knowledge]:
    """What a message holds, in order. Raises PermanentError for what no rollup has written."""

    def on_bad(line_number: int, _line: bytes, why: str) -> None:
        at = f"{message.topic}/{message.partition}/{message.offset}#{line_number}"
        raise PermanentError(f"the log is damaged or was written by another program: {at}: {why}")

    run: list[Part] = []
    kinds: Any = Part | SpendTick | PricingHole | Knowledge
    lines: list[Part | SpendTick | PricingHole | Knowledge] = decode_lines(message.value, kinds, on_bad)
    for line in lines:
        if isinstance(line, Part):
            run.append(line)
            continue
        if run:
            yield run
            run = []
        yield line
    if run:
        yield run


def _values(part: Part) -> tuple[float, ...]:
    """In the order of `amounts.AMOUNTS`."""
    return (
        part.effective_cost,
        part.requests,
        part.errors,
        part.users,
        part.input_tokens,
        part.output_tokens,
        part.gpu_samples,
        part.gpu_utilization,
        part.memory_used,
    )


def columns(run: Sequence[Part], number: Number) -> PartialRun:
    """The parts as columns, their series numbered."""
    count = len(run)
    return PartialRun(
        index=np.fromiter([number(each.scope, bytes(each.tags), each.bucket_start) for each in run], np.int64, count),
        bucket=np.fromiter([each.bucket_start for each in run], np.int64, count),
        values=np.array([_values(each) for each in run], np.float64).reshape(count, len(AMOUNTS)).T,
    )
