"""Partial sums from the beginning of the log, read when somebody wants figures of them: all once, then what is new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from curb.stream.log.protocol import Log, Positions, TopicPartition
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial

_decoder = msgspec.json.Decoder(SpendPartial)
#: Seconds of work after which others get their turn, and how long it rests for each second of work. By hand: a daemon
#: that reads two weeks of its log goes on with a fifth of its time.
_TURN_S, _REST = 0.02, 4.0


class SpendReader:
    """Gives each partial sum of some scopes to all `takers`, once. `catch_up` reads what came since the last time."""

    def __init__(self, log: Log, scopes: Iterable[str], takers: Iterable[Callable[[SpendPartial], None]]) -> None:
        self._log, self._takers = log, tuple(takers)
        self._needles = tuple(f'"scope":{msgspec.json.encode(name).decode()}'.encode() for name in scopes)
        self._next: Positions = {}
        #: Start of the newest bucket that was read, epoch seconds; 0 before the first.
        self.read_until = 0.0
        #: Whether all that was on the log at one time was read.
        self.is_complete = False

    async def catch_up(self) -> None:
        """Read to the end as it is now, a part at a time. Raises TransientError; the next call goes on from there."""
        places = [TopicPartition(SPEND, number) for number in range(self._log.partitions(SPEND))]
        began = time.monotonic()
        async for message in self._log.scan(SPEND, {place: self._next.get(place, 0) for place in places}):
            self._take(message.value)
            self._next[TopicPartition(SPEND, message.partition or 0)] = message.offset + 1
            worked = time.monotonic() - began
            if worked > _TURN_S:
                await asyncio.sleep(_REST * worked)
                began = time.monotonic()
        self.is_complete = True

    def _take(self, value: bytes) -> None:
        for line in value.split(b"\n"):
            if not any(needle in line for needle in self._needles):
                continue
            try:
                part = _decoder.decode(line)
            except msgspec.DecodeError:
                continue  # a record of another kind
            self.read_until = max(self.read_until, float(part.bucket_start))
            for take in self._takers:
                take(part)
