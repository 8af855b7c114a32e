"""Who is refused while Curb cannot keep up: the sources that send most, so that all others are heard.

A flood that is larger than the machine can work off delays budgets, actions and probes alike, since they share a loop
and a log. It is turned away before its bodies are read, for as long as the loop or the log stays behind.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

#: Seconds between two looks at how late the loop is.
_PULSE_S = 0.05
#: Seconds over which lateness, and the bytes of sources, are averaged. By hand: a snapshot or a burst is shorter.
_OVER_S = 2.0
#: Mean seconds by which the loop is late from which on it is overloaded. By hand: an action takes ten turns.
_LATE_S = 0.1
#: Seconds that what is on the log waits from which on Curb is overloaded. By hand: a cap may take five.
_BEHIND_S = 1.5
#: Bytes a second below which no source is a flood: some 7,000 events a second. By hand.
_FLOOD = 1_000_000
#: A source is part of the flood that sends more than this share of what the largest sends. By hand: several that flood
#: together, and nobody who sends a tenth.
_LIKE_THE_LARGEST = 0.5


class Overload:
    """How late the loop and the log are, and how much each source sent lately. `now` gives monotonic seconds.

    `behind_s` gives for how long (seconds) what is on the log has waited.
    """

    def __init__(self, now: Callable[[], float], behind_s: Callable[[], float] = lambda: 0.0) -> None:
        self._now, self._behind_s = now, behind_s
        self.late_s = 0.0
        self._bytes: defaultdict[str, float] = defaultdict(float)
        #: Bytes of bodies that were read and are not worked off.
        self._held: defaultdict[str, int] = defaultdict(int)
        self._at = now()

    def beat(self, late_s: float) -> None:
        """The loop was late by so much at one look."""
        passed_s = _PULSE_S + late_s
        keep = math.exp(-passed_s / _OVER_S)
        self.late_s = self.late_s * keep + late_s * (1 - keep)

    @contextmanager
    def holds(self, source: str, count: int) -> Iterator[None]:
        """A source's body of so many bytes was read, and is worked off when the block ends."""
        self._held[source] += count
        try:
            yield
        finally:
            self._held[source] -= count
            self._forget()
            self._bytes[source] += count

    def refuses(self, source: str) -> bool:
        """Whether Curb is overloaded, and this source sends more than a little and as much as any other.

        What it sent counts for some seconds, and what is held of it for as long as it waits.
        """
        if self.late_s < _LATE_S and self._behind_s() < _BEHIND_S:
            return False
        self._forget()
        own = self._sent(source)
        largest = max(map(self._sent, {*self._bytes, *self._held}), default=0.0)
        return own > _FLOOD * _OVER_S and own > _LIKE_THE_LARGEST * largest

    def _sent(self, source: str) -> float:
        return self._bytes.get(source, 0.0) + self._held.get(source, 0)

    def _forget(self) -> None:
        now = self._now()
        keep, self._at = math.exp(-(now - self._at) / _OVER_S), now
        for source in self._bytes:
            self._bytes[source] *= keep

    async def watch(self, _: web.Application) -> AsyncIterator[None]:
        """Look at the loop while an application runs; for its `cleanup_ctx`."""
        pulse = asyncio.create_task(self._pulse(), name="pulse")
        yield
        pulse.cancel()
        with suppress(asyncio.CancelledError):
            await pulse

    async def _pulse(self) -> None:
        while True:
            due = self._now() + _PULSE_S
            await asyncio.sleep(_PULSE_S)
            self.beat(max(0.0, self._now() - due))
