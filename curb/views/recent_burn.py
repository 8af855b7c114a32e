"""The burn of the last hours of the series that cost most, for the pictures of incidents."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence

from curb.detector.shard import Shard
from curb.stream.clock import Clock
from curb.stream.records.spend import Alert
from curb.views.explanation import Point

#: So many series, so many seconds apart, so far back: a few MB at most.
_MOST_SERIES, _EVERY_S, _KEEP_S = 1000, 120.0, 8 * 3600.0

_Series = tuple[str, tuple[tuple[str, str], ...]]


class RecentBurn:
    """In memory only, and only of the series this process scores: a picture without it begins with the alert."""

    def __init__(self, shards: Callable[[], Sequence[Shard]], clock: Clock) -> None:
        self._shards, self._clock = shards, clock
        #: at, $/h, $/h expected, one after the other.
        self._burns: dict[_Series, array[float]] = {}
        self._sampled_at: dict[int, float] = {}

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

    def points(self, alert: Alert) -> list[Point]:
        """The samples of an alert's series, oldest first."""
        burn = self._burns.get((alert.scope, tuple(alert.tags.items())), array("d"))
        found = [Point(*burn[i : i + 3]) for i in range(0, len(burn), 3)]
        return sorted(found, key=lambda point: point.at)

    def _forget(self, before: float) -> None:
        for series, burn in list(self._burns.items()):
            old = 0
            while old < len(burn) and burn[old] < before:
                old += 3
            if old:
                del burn[:old]
            if not burn:
                del self._burns[series]
