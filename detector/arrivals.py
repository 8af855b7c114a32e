"""What the inputs of a shard told, kept until scoring comes to where each input was when it told it.

Inputs come to a shard interleaved as chance will have it. Taken in the order of (`due`, source, sequence) they give the
same sums, births and corrections however they were interleaved: a replay agrees with what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from detector.spend_lines import Part
from stream.records import Knowledge, PricingHole


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
        self._waiting: list[Arrival] = []

    def add(self, arrival: Arrival) -> None:
        """Keep it; arrivals of one source come in their order."""
        self._waiting.append(arrival)

    def take(self, start: int) -> list[Arrival]:
        """Take out all that is due at the closing of the bucket that begins at `start`, in their lasting order."""
        due = [each for each in self._waiting if each.due <= start]
        if due:
            self._waiting = [each for each in self._waiting if each.due > start]
            due.sort(key=lambda each: (each.due, each.source))
        return due

    @property
    def first_bucket(self) -> int | None:
        """Start of the oldest bucket with sums that wait."""
        return min((part.bucket_start for part in self.parts()), default=None)

    def parts(self) -> Iterator[Part]:
        """The sums that wait."""
        return (part for each in self._waiting for part in each.parts)

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
            for each in self._waiting
        ]

    def load(self, saved: list[SavedArrival]) -> None:
        """Take over what `dump` gave."""
        self._waiting = [
            Arrival(
                each.due,
                each.source,
                [Part(scope, msgspec.Raw(tags), *rest) for scope, tags, *rest in each.parts],
                each.hole,
                each.knowledge,
            )
            for each in saved
        ]
