"""The demo's clock: many times as fast as the wall clock, but slow while the daemon is behind."""

from __future__ import annotations

import asyncio
import time

#: Wall-clock seconds of the shortest wait: a clock that stands is asked a thousand times a second at most.
_LEAST_S = 0.001
#: Share of its speed at which the clock runs while the daemon is behind: a disk that is busy for ten seconds costs a
#: minute. Not 0, because the daemon may wait for time to pass.
_BEHIND = 0.01


class PacedClock:
    """Event time at `speed` event seconds per wall-clock second. It stands until `let_run` and after what that allows.

    A busy machine makes the demo longer; without the pace, its daemon would fall hours of event time behind.
    """

    def __init__(self, start: float, speed: float) -> None:
        """`start` is in epoch seconds. Raises ValueError unless `speed` is greater than 0."""
        if speed <= 0:
            raise ValueError("speed must be greater than 0")
        self._start, self._speed = start, speed
        #: Event seconds that have passed and that may pass, and the wall clock when this was last worked out.
        self._passed = self._allowed = 0.0
        self._at = time.monotonic()

    def let_run(self, wall_s: float, *, is_behind: bool = False) -> None:
        """Allow as much event time as `wall_s` seconds have, or a hundredth when the daemon is behind."""
        self._allowed = self.steady() + wall_s * self._speed * (_BEHIND if is_behind else 1.0)

    def now(self) -> float:
        return self._start + self.steady()

    def steady(self) -> float:
        at = time.monotonic()
        self._passed += min((at - self._at) * self._speed, max(0.0, self._allowed - self._passed))
        self._at = at
        return self._passed

    async def sleep(self, seconds: float) -> None:
        until = self.steady() + seconds
        while True:
            left = until - self.steady()
            if left <= 0:
                return
            await asyncio.sleep(max(left / self._speed, _LEAST_S))
