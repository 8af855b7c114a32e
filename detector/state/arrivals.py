"""What the inputs of a shard told, kept until scoring comes to where each input was when it told it.

Inputs come to a shard interleaved as chance will have it. Taken in the order of (`due`, source, sequence) they give the
same sums, births and corrections however they were interleaved: a replay agrees with what happened.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec

from curb.detector.state.reader import Part
from curb.stream.records.spend import Knowledge, PricingHole


class Arrival(msgspec.Struct):
    """Partial sums, a hole in the price book or something people told, of one input.

    `due` is the first bucket that input had not passed.
    """

    due: int
    source: str
    parts: list[Part] = []
    hole: PricingHole | None = None
    knowledge: Knowledge | None = None


class SavedArrival(msgspec.Struct):
    """An arrival as it is saved: its parts as tuples of their fields, the tags as bytes."""

    due: int
    source: str
    parts: list[tuple[Any, ...]]
    hole: PricingHole | None
    knowledge: Knowledge | None


class Arrivals:
    """Arrivals that wait."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Arrival]] = {}
        #: The keys of `_waiting`, a heap: a backlog of days is worked off bucket by bucket.
        self._dues: list[int] = []

    def add(self, arrival: Arrival) -> None:
        """Keep it; arrivals of one source come in their order."""
        group = self._waiting.get(arrival.due)
        if group is None:
            group = self._waiting[arrival.due] = []
            heapq.heappush(self._dues, arrival.due)
        group.append(arrival)

    def take(self, start: int) -> list[Arrival]:
        """Take out all that is due at the closing of the bucket that begins at `start`, in their lasting order."""
        taken: list[Arrival] = []
        while self._dues and self._dues[0] <= start:
            taken += sorted(self._waiting.pop(heapq.heappop(self._dues)), key=lambda each: each.source)
        return taken

    @property
    def first_bucket(self) -> int | None:
        """Start of the oldest bucket with sums that wait."""
        return min((part.bucket_start for part in self.parts()), default=None)

    def parts(self) -> Iterator[Part]:
        """The sums that wait."""
        return (part for each in self._all() for part in each.parts)

    def _all(self) -> Iterator[Arrival]:
        return (each for group in self._waiting.values() for each in group)

    def dump(self) -> list[SavedArrival]:
        """What `load` takes."""
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
        """Take over what `dump` gave."""
        self._waiting, self._dues = {}, []
        for each in saved:
            parts = [Part(scope, msgspec.Raw(tags), *rest) for scope, tags, *rest in each.parts]
            self.add(Arrival(each.due, each.source, parts, each.hole, each.knowledge))
