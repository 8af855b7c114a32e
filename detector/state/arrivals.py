"""Records of a shard's inputs, kept until scoring reaches the time at which each input wrote them.

Inputs reach a shard interleaved by chance. Taken in the order of (`due`, source, sequence) they give the same sums,
new series and corrections however they were interleaved, so a replay agrees with the original run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from curb.detector.state.amounts import Purpose
from curb.detector.state.reader import Numbers, PartialRun, PartialSum, ScoredSum
from curb.stream.records.spend import Knowledge, PricingHole, SpendTick, Tally


class Past(Protocol):
    """Sums that came too late for their buckets, by their time; see `detector.rebuild`."""

    @property
    def first(self) -> int | None:
        """Start of the next bucket that has some, epoch seconds."""
        ...

    def advance(self, tick: SpendTick) -> None:
        """Follow the tick of an input."""
        ...

    def without(self, parts: list[PartialSum], source: str) -> list[PartialSum]:
        """The parts that are not among them."""
        ...

    def take(self, until: int, numbers: Numbers) -> PartialRun | None:
        """Those of the buckets that start before `until` and were not taken yet."""
        ...


class Arrival(msgspec.Struct):
    """Partial sums, a hole in the price book, people's knowledge or a tally, of one input.

    `due` is the start of the first bucket that the input had not passed, epoch seconds.
    """

    due: int
    source: str
    parts: list[PartialSum] = []
    hole: PricingHole | None = None
    knowledge: Knowledge | None = None
    tally: Tally | None = None

    @property
    def purpose(self) -> Purpose:
        """What its sums, which are all of one purpose, are for."""
        if not self.parts:
            return "all"
        return "scored" if isinstance(self.parts[0], ScoredSum) else "counted" if self.parts[0].counted_only else "all"


class SavedArrival(msgspec.Struct):
    """A saved arrival: its parts as tuples of their fields but for the slots, the tags as bytes."""

    due: int
    source: str
    parts: list[tuple[Any, ...]]
    hole: PricingHole | None
    knowledge: Knowledge | None
    scored: bool = False
    tally: Tally | None = None


class Arrivals:
    """Waiting arrivals."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Arrival]] = {}
        #: The keys of `_waiting`, a heap: a backlog of days is worked off bucket by bucket.
        self._dues: list[int] = []

    def add(self, arrival: Arrival) -> None:
        """Keep an arrival; those of one source come in order."""
        group = self._waiting.get(arrival.due)
        if group is None:
            group = self._waiting[arrival.due] = []
            heapq.heappush(self._dues, arrival.due)
        group.append(arrival)

    def take(self, start: int) -> list[Arrival]:
        """Take out the arrivals due when the bucket that begins at `start` closes, in their fixed order."""
        taken: list[Arrival] = []
        while self._dues and self._dues[0] <= start:
            taken += sorted(self._waiting.pop(heapq.heappop(self._dues)), key=lambda each: each.source)
        return taken

    @property
    def first_bucket(self) -> int | None:
        """Start of the oldest bucket with waiting sums, epoch seconds."""
        return min((part.bucket_start for each in self.all() for part in each.parts), default=None)

    def parts(self) -> Iterator[PartialSum]:
        """The waiting sums that count in totals."""
        return (part for each in self.all() if each.purpose != "scored" for part in each.parts)

    def all(self) -> Iterator[Arrival]:
        """All that wait."""
        return (each for group in self._waiting.values() for each in group)

    def dump(self) -> list[SavedArrival]:
        return [
            SavedArrival(
                each.due,
                each.source,
                [(part.scope, bytes(part.tags), *msgspec.structs.astuple(part)[2:-1]) for part in each.parts],
                each.hole,
                each.knowledge,
                each.purpose == "scored",
                each.tally,
            )
            for each in self.all()
        ]

    def load(self, saved: list[SavedArrival]) -> None:
        self._waiting, self._dues = {}, []
        for each in saved:
            kind = ScoredSum if each.scored else PartialSum
            parts = [kind(scope, msgspec.Raw(tags), *rest) for scope, tags, *rest in each.parts]
            self.add(Arrival(each.due, each.source, parts, each.hole, each.knowledge, each.tally))
