"""Messages of the spend topic as the shard reads them: runs of partial sums, with ticks and price holes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import PAST_S
from curb.stream.log.codec import decode_lines, encode
from curb.stream.log.protocol import Message
from curb.stream.records.base import Version
from curb.stream.records.dead_letters import dead_letter, reason_for
from curb.stream.records.knowledge import LATEST_TIME, refusal
from curb.stream.records.loops import LoopCall
from curb.stream.records.spend import NOT_USAGE, Knowledge, PricingHole, ScopeTally, SourceTally, SpendTick, Tally

#: Epoch seconds; a bucket behind the latest time would end time for every series.
_Start = Annotated[int, msgspec.Meta(ge=0, le=int(LATEST_TIME))]
_Time = Annotated[float, msgspec.Meta(ge=0, le=LATEST_TIME)]
#: Sums of counts that are exact as float64.
_Count = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
#: What sums of dollars, percents and GiB stay below by far; rates and squares of it are finite.
MAX_SUM = 1e15
#: Seconds that one sum of the past covers at most: a month and a day.
_LONGEST_S = 32 * 86400
_Usd = Annotated[float, msgspec.Meta(ge=-MAX_SUM, le=MAX_SUM)]


class PartialSlots(msgspec.Struct, array_like=True, gc=False):
    """`stream.records.Slots`, within bounds."""

    starts: list[Annotated[int, msgspec.Meta(ge=0, le=_LONGEST_S)]]
    requests: list[_Count]
    effective_cost: list[_Usd]
    users: list[_Count]
    received_at: list[_Time]

    @property
    def is_sound(self) -> bool:
        """Whether every slot has all of its sums."""
        count = len(self.starts)
        return all(len(each) == count for each in (self.requests, self.effective_cost, self.users, self.received_at))


class PartialSum(msgspec.Struct, tag="partial", tag_field="type", gc=False):
    """The scored fields of `stream.records.SpendPartial`, with tags left as bytes."""

    scope: str
    tags: msgspec.Raw
    bucket_start: _Start
    effective_cost: _Usd
    requests: _Count = 0
    errors: _Count = 0
    users: _Count = 0
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    gpu_samples: _Count = 0
    gpu_utilization: _Usd = 0.0
    memory_used: _Usd = 0.0
    unscored_cost: _Usd = 0.0
    counted_only: bool = False
    unmetered: _Count = 0
    refused: _Count = 0
    received_at: _Time = 0.0
    covers_s: Annotated[int, msgspec.Meta(ge=0, le=_LONGEST_S)] = 0
    slot: _Count = -1
    v: Version = 1
    #: At the end, so that sums which an older version saved still fit.
    charges: dict[str, _Usd] = {}
    #: Never saved: what has some is no sum.
    calls: tuple[LoopCall, ...] = ()
    #: Never saved: the fast lane has counted them when a sum begins to wait.
    slots: PartialSlots | None = None


class ScoredSum(PartialSum, tag="scored", tag_field="type", gc=False):
    """The scored fields of `stream.records.SpendScored`, likewise."""


@dataclass(frozen=True)
class PartialRun:
    """Partial sums as columns: arrays of one length, `values` of shape (`amounts.AMOUNTS`, that length)."""

    index: NDArray[np.int64]
    bucket: NDArray[np.int64]
    values: NDArray[np.float64]
    #: The dollars that are no usage of a bill, shape (`NOT_USAGE`, that length); None without any.
    charges: NDArray[np.float64] | None = None

    @property
    def cost(self) -> NDArray[np.float64]:
        """Dollars."""
        cost: NDArray[np.float64] = self.values[0]
        return cost

    @property
    def scored_cost(self) -> NDArray[np.float64]:
        """Dollars that may raise an alert."""
        scored: NDArray[np.float64] = self.values[0] - self.values[_UNSCORED]
        return scored

    def where(self, chosen: NDArray[np.bool_]) -> PartialRun:
        """The chosen rows."""
        charges = None if self.charges is None else self.charges[:, chosen]
        return PartialRun(self.index[chosen], self.bucket[chosen], self.values[:, chosen], charges)

    def by_bucket(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
        """Start, index and values of each bucket, its rows in their order."""
        index, bucket, values = self.index, self.bucket, self.values
        if (bucket[1:] < bucket[:-1]).any():
            order = np.argsort(bucket, kind="stable")
            index, bucket, values = index[order], bucket[order], values[:, order]
        edges = np.flatnonzero(np.diff(bucket, prepend=-1, append=-1))
        for begin, end in pairwise(edges.tolist()):
            yield int(bucket[begin]), index[begin:end], values[:, begin:end]

    def without_usage(self, start: int) -> PartialRun:
        """The requests that reported neither tokens nor a cost and are not of the past, as of the bucket at `start`.

        A window is corrected by dollars; these have none, so what is late of them is judged when it is known.
        """
        of = self.where((self.values[_UNMETERED] > 0) & (start - self.bucket <= PAST_S))
        values = np.zeros_like(of.values)
        values[_REQUESTS] = values[_UNMETERED] = of.values[_UNMETERED]
        return PartialRun(of.index, np.full_like(of.bucket, start), values)


#: How a tick begins in a message.
_TICK = b'{"type":"tick"'
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
    "unmetered",
    "refused",
)
_REQUESTS, _UNSCORED, _UNMETERED = map(_AMOUNTS.index, ("requests", "unscored_cost", "unmetered"))
_COLUMNS = tuple(attrgetter(name) for name in _AMOUNTS)


def read(
    message: Message, at: float, can_hold: Callable[[str, bytes], bool], bucket_s: int, phase_s: int = 0
) -> Iterator[list[PartialSum] | SpendTick | PricingHole | Tally | Knowledge | Message]:
    """The content of a message, in order; first a dead letter (dated `at`) for each line that no rollup has written.

    `can_hold` says of a scope and tags whether they can be a series. Sums that were made with other buckets than
    these, of `bucket_s` seconds from `phase_s` on, are put into the bucket in which they begin.
    """
    letters: list[Message] = []

    def on_bad(number: int, line: bytes, why: str) -> None:
        location = f"{message.topic}/{message.partition or 0}/{message.offset}#{number}"
        detail = why.split("\n", maxsplit=1)[0]
        letters.append(dead_letter("detector", reason_for(why), detail, location=location, content=line, at=at))

    kinds: Any = PartialSum | ScoredSum | SpendTick | PricingHole | Tally | Knowledge
    lines: list[PartialSum | SpendTick | PricingHole | Tally | Knowledge] = decode_lines(message.value, kinds, on_bad)
    runs: list[list[Any]] = []
    last: tuple[type, bool, bool] | None = None
    for line in lines:
        if isinstance(line, PartialSum):  # nearly all are
            why = None if can_hold(line.scope, bytes(line.tags)) else "tags that are no series"
            if line.slots is not None and not line.slots.is_sound:
                why = "slots of which some have no sum"
            use: tuple[type, bool, bool] = type(line), line.counted_only, bool(line.calls)
        else:
            why, use = _unsound(line), (type(line), False, False)
        if why is not None:
            on_bad(0, encode(line), why)
            continue
        if isinstance(line, PartialSum) and ((line.bucket_start - phase_s) % bucket_s or line.slot >= bucket_s):
            _realign(line, bucket_s, phase_s)
        if use != last:
            runs.append([])
            last = use
        runs[-1].append(line)
    yield from letters
    for run in runs:
        if isinstance(run[0], PartialSum):
            yield cast("list[PartialSum]", run)
        else:
            yield from cast("list[SpendTick | PricingHole | Tally | Knowledge]", run)


def _realign(part: PartialSum, bucket_s: int, phase_s: int) -> None:
    """Put a sum into the bucket in which it begins; its slots stay the same moments."""
    begin = part.bucket_start + max(part.slot, 0)
    moved_s = part.bucket_start - (begin - (begin - phase_s) % bucket_s)
    part.bucket_start -= moved_s
    if part.slot >= 0:
        part.slot += moved_s
    if part.slots is not None:
        part.slots.starts = [start + moved_s for start in part.slots.starts]


def _unsound(line: SpendTick | PricingHole | Tally | Knowledge) -> str | None:
    """Why nobody can mean a line that is no sum, or None."""
    if isinstance(line, SpendTick | PricingHole):
        if not 0 <= line.at <= LATEST_TIME:
            return "a time that is not between 1970 and 2096"
        return None if all(0 <= each <= MAX_SUM for each in _sums(line)) else "a sum out of range"
    if isinstance(line, SourceTally | ScopeTally):
        return _unsound_tally(line)
    return refusal(line)


def _unsound_tally(tally: Tally) -> str | None:
    """Why nobody can mean a tally, or None."""
    numbers: list[float] = []
    for each in msgspec.structs.astuple(tally):
        numbers += each.values() if isinstance(each, dict) else [each] if isinstance(each, int | float) else []
    times = (tally.hour, tally.last_at) if isinstance(tally, SourceTally) else (tally.hour,)
    if not all(0 <= at <= LATEST_TIME for at in times):
        return "a time that is not between 1970 and 2096"
    return None if all(abs(each) <= MAX_SUM for each in numbers) else "a sum out of range"


def _sums(line: SpendTick | PricingHole) -> tuple[float, ...]:
    if isinstance(line, SpendTick):
        return (abs(line.effective_cost),)
    return line.requests, line.tokens, line.gpu_hours, line.fallback_usd


def ticks_at_end(message: Message) -> list[SpendTick]:
    """The tick that ends a message, if one does; the rest is not read."""
    lines = message.value.rsplit(b"\n", 2)[-2:]
    return [msgspec.json.decode(line, type=SpendTick) for line in lines if line.startswith(_TICK)]


def by_part(charges: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Dollars by part of a bill → array of shape (`NOT_USAGE`, their number)."""
    return np.array([[each.get(part, 0.0) for each in charges] for part in NOT_USAGE]).reshape(len(NOT_USAGE), -1)


def columns(run: Sequence[PartialSum], numbers: Numbers, *, is_bill: bool = False) -> PartialRun:
    """The parts as columns, their series numbered. Only parts of bills have charges."""
    count = len(run)
    bucket = [each.bucket_start for each in run]
    index = numbers([each.scope for each in run], [bytes(each.tags) for each in run], bucket)
    values = np.empty((len(_COLUMNS), count))
    for row, column in zip(values, _COLUMNS, strict=True):
        amounts = list(map(column, run))
        # Most sources leave most counts at zero.
        row[...] = amounts[0] if amounts.count(amounts[0]) == count else amounts
    has_charges = is_bill and any(each.charges for each in run)
    charges = by_part([each.charges for each in run]) if has_charges else None
    return PartialRun(np.array(index, np.int64), np.array(bucket, np.int64), values, charges)
