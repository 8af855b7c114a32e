"""Time as a value that is passed in: the wall clock, a manual one for tests, a faster one for replays."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the Unix epoch, UTC, and a way to wait in the same time.

    `steady` counts the same seconds from no particular moment and never jumps when somebody sets the clock.
    """

    def now(self) -> float: ...

    def steady(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ScaledClock:
    """Event time that starts at `start` and runs `speed` times as fast as the wall clock, for replays."""

    def __init__(self, start: float, speed: float) -> None:
        if speed <= 0:
            raise ValueError("speed must be greater than 0")
        self._start, self._speed, self._origin = start, speed, time.monotonic()

    def restart(self, start: float) -> None:
        """Count from `start` again, beginning now."""
        self._start, self._origin = start, time.monotonic()

    def now(self) -> float:
        return self._start + (time.monotonic() - self._origin) * self._speed

    def steady(self) -> float:
        return time.monotonic() * self._speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self._speed)


class ManualClock:
    """A clock that stands still until `advance` is called; sleepers wake in the order of their deadlines."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._jumped = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def steady(self) -> float:
        return self._now - self._jumped

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock: the time of day moves, and nothing else does."""
        self._now += seconds
        self._jumped += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking every sleeper whose deadline is passed, each at its own deadline."""
        target = self._now + seconds
        await asyncio.sleep(0)
        while self._sleepers and self._sleepers[0][0] <= target:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            for _ in range(5):  # lets what was woken run on to its next await
                await asyncio.sleep(0)
        self._now = target
        await asyncio.sleep(0)


class EventClock(ManualClock):
    """Time of the data: `observe` moves it to the newest receipt time seen, never back. For replays.

    How long things take is the machine's time: days of data come in seconds.
    """

    def steady(self) -> float:
        return time.monotonic()

    def observe(self, at: float) -> None:
        self._now = max(self._now, at)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
