"""Calls to the outside: bounded in time, and when one failed, when it may be tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import TypeVar

from stream.clock import Clock
from stream.errors import TransientError
from stream.retry import RetryPolicy

T = TypeVar("T")


async def within(call: Awaitable[T], timeout_s: float, what: str) -> T:
    """The result of `call`; TransientError when it takes longer than `timeout_s` wall-clock seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError:
        raise TransientError(f"{what}: no answer within {timeout_s:g} s") from None


class Backoff:
    """When each thing may be tried again. Nobody waits in place, so one slow target never holds up another.

    It lives in memory only: after a restart everything is tried at once, which every call allows.
    """

    def __init__(self, clock: Clock, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self._clock, self._policy, self._rng = clock, policy, rng or random.Random()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def is_due(self, key: str) -> bool:
        return self._clock.now() >= self._not_before.get(key, float("-inf"))

    def failed(self, key: str, error: Exception) -> float:
        """Note a failure; returns the seconds until the next try (jittered, at least what the other side asked)."""
        failures = self._failures.get(key, 0)
        asked = error.retry_after if isinstance(error, TransientError) else None
        wait_s = self._policy.wait(min(failures, 16), asked, self._rng)
        self._failures[key] = failures + 1
        self._not_before[key] = self._clock.now() + wait_s
        return wait_s

    def postpone(self, key: str, seconds: float) -> None:
        """Nothing failed, but there is no use in looking again before `seconds` are over."""
        self._not_before[key] = self._clock.now() + seconds

    def succeeded(self, key: str) -> None:
        """Forget the failures; a `postpone` that is still ahead stays."""
        self._failures.pop(key, None)
        if self.is_due(key):
            self._not_before.pop(key, None)
