"""Forecasts of bills for the daemon: their days are on the log, and are read when somebody asks for them."""

from __future__ import annotations

import asyncio
import time

from curb.detector.settings import DetectorSettings
from curb.detector.shard import BILLS
from curb.stream.log.protocol import Log, Positions, TopicPartition
from curb.stream.log.topics import COSTS, SPEND
from curb.views.forecast import DaySums, Question, billed_scopes, report

#: Seconds of work after which others get their turn. By hand: short enough for everything else in the daemon.
_TURN_S = 0.02


class BillForecasts:
    """The days of all bills: everything is read once, then what is new."""

    def __init__(self, log: Log, settings: DetectorSettings) -> None:
        self._log, self._settings = log, settings
        self.scopes = billed_scopes(settings)
        self._sums = DaySums(settings.time_zone, self.scopes)
        self._next: Positions = {}
        self._reading = asyncio.Lock()

    async def questions(self, scope: str, most: int) -> tuple[list[Question], str]:
        """Those of the series of a bill that cost most, and until when it is complete. Raises TransientError."""
        async with self._reading:
            await self._catch_up()
            return report(self._sums, self._settings, scope, most)

    async def _catch_up(self) -> None:
        log = self._log
        places = [TopicPartition(SPEND, number) for number in range(log.partitions(SPEND))]
        began = time.monotonic()
        async for message in log.scan(SPEND, {place: self._next.get(place, 0) for place in places}):
            if message.key.decode(errors="replace").startswith((COSTS, BILLS)):
                self._sums.take(message, self._settings.bucket_s)
            self._next[TopicPartition(SPEND, message.partition or 0)] = message.offset + 1
            if time.monotonic() - began > _TURN_S:
                await asyncio.sleep(0)
                began = time.monotonic()
