"""The burn of the last hours of the series that cost most, and of whole scopes, for pictures."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from curb.detector.shard import Shard
from curb.stream.clock import Clock
from curb.stream.records.spend import Alert
from curb.views.explanation import Point

#: So many series, so many seconds apart, so far back: a few MB at most.
_MOST_SERIES, _EVERY_S, _KEEP_S = 1000, 120.0, 8 * 3600.0
#: Of whole scopes so far back.
_KEEP_TOTALS_S = 24 * 3600.0

_Series = tuple[str, tuple[tuple[str, str], ...]]


class RecentBurn:
    """In memory only, and only of the series this process scores: a picture without it begins with the alert."""

    def __init__(self, shards: Callable[[], Sequence[Shard]], clock: Clock) -> None:
        self._shards, self._clock = shards, clock
        #: at, $/h, $/h expected, one after the other.
        self._burns: dict[_Series, array[float]] = {}
        self._sampled_at: dict[int, float] = {}
        #: The same of all series of a scope together.
        self._totals: dict[str, array[float]] = {}

    async def follow(self, stop: asyncio.Event) -> None:
        """Look at the shards until `stop`."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stopped.done():
                self.sample()
                pause = asyncio.create_task(self._clock.sleep(_EVERY_S / 2))
                await asyncio.wait([stopped, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
        finally:
            stopped.cancel()

    def sample(self) -> None:
        """Remember what burns now, where enough event time has passed since the last look."""
        self._sample_totals()
        for shard in self._shards():
            at = shard.event_time
            if at is None or at < self._sampled_at.get(id(shard), 0.0) + _EVERY_S:
                continue
            self._sampled_at[id(shard)] = at
            for row in shard.top(_MOST_SERIES):
                # Right after a start nothing is scored yet, and both are 0.
                if row.usd_per_hour or row.expected_usd_per_hour:
                    burn = self._burns.setdefault((row.scope, tuple(row.tags.items())), array("d"))
                    burn.extend((at, row.usd_per_hour, row.expected_usd_per_hour))
            self._forget(at - _KEEP_S)

    def _sample_totals(self) -> None:
        shards = self._shards()
        times = [shard.event_time for shard in shards if shard.event_time is not None]
        newest = max((burn[-3] for burn in self._totals.values()), default=0.0)
        if not times or len(times) < len(shards) or min(times) < newest + _EVERY_S:
            return
        sums: dict[str, list[float]] = {}
        for money in (shard.money() for shard in shards):
            names: dict[str, int] = {}
            which = np.array([names.setdefault(scope, len(names)) for scope in money.scopes], np.intp)
            for rates, place in ((money.usd_per_hour, 0), (money.expected_usd_per_hour, 1)):
                for name, rate in zip(names, np.bincount(which, rates, len(names)).tolist(), strict=True):
                    sums.setdefault(name, [0.0, 0.0])[place] += rate
        for name, burned in sums.items():
            if any(burned):
                self._totals.setdefault(name, array("d")).extend((min(times), *burned))
        _drop(self._totals, min(times) - _KEEP_TOTALS_S)

    def points(self, alert: Alert) -> list[Point]:
        """The samples of an alert's series, oldest first."""
        return self.of(alert.scope, alert.tags)

    def of(self, scope: str, tags: Mapping[str, str]) -> list[Point]:
        """The samples of a series, oldest first."""
        return _points(self._burns.get((scope, tuple(tags.items())), array("d")))

    def totals(self, scope: str) -> list[Point]:
        """The samples of all series of a scope together, oldest first."""
        return _points(self._totals.get(scope, array("d")))

    def _forget(self, before: float) -> None:
        _drop(self._burns, before)


def _points(burn: array[float]) -> list[Point]:
    found = [Point(*burn[i : i + 3]) for i in range(0, len(burn), 3)]
    return sorted(found, key=lambda point: point.at)


def _drop(burns: dict[Any, array[float]], before: float) -> None:
    """Forget samples from before a moment."""
    for name, burn in list(burns.items()):
        old = 0
        while old < len(burn) and burn[old] < before:
            old += 3
        if old:
            del burn[:old]
        if not burn:
            del burns[name]
