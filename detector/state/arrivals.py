"""Records of a shard's inputs, kept until scoring reaches the time at which each input wrote them.

Inputs reach a shard interleaved by chance. Taken in the order of (`due`, source, sequence) they give the same sums,
new series and corrections however they were interleaved, so a replay agrees with the original run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec

from curb.detector.state.reader import PartialSum
from curb.stream.records.spend import Knowledge, PricingHole


class Arrival(msgspec.Struct):
    """Partial sums, a hole in the price book or people's knowledge, of one input.

    `due` is the start of the first bucket that the input had not passed, epoch seconds.
    """

    due: int
    source: str
    parts: list[PartialSum] = []
    hole: PricingHole | None = None
    knowledge: Knowledge | None = None


class SavedArrival(msgspec.Struct):
    """A saved arrival: its parts as tuples of their fields, the tags as bytes."""

    due: int
    source: str
    parts: list[tuple[Any, ...]]
    hole: PricingHole | None
    knowledge: Knowledge | None


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
        return min((part.bucket_start for part in self.parts()), default=None)

    def parts(self) -> Iterator[PartialSum]:
        """The waiting sums."""
        return (part for each in self._all() for part in each.parts)

    def _all(self) -> Iterator[Arrival]:
        return (each for group in self._waiting.values() for each in group)

    def dump(self) -> list[SavedArrival]:
        return [
            SavedArrival(
                each.due,
                each.source,
                [(part.scope, bytes(part.tags), *msgspec.structs.astuple(part)[2:]) for part in each.parts],
                each.hole,
                each.knowledge,
            )
            for each in self._all()
        ]

    def load(self, saved: list[SavedArrival]) -> None:
        self._waiting, self._dues = {}, []
        for each in saved:
            parts = [PartialSum(scope, msgspec.Raw(tags), *rest) for scope, tags, *rest in each.parts]
            self.add(Arrival(each.due, each.source, parts, each.hole, each.knowledge))
