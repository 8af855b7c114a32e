"""Bounded retries with jitter that honour Retry-After; runners call it, implementations never do."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from stream.clock import Clock
from stream.errors import TransientError

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long: attempt k waits a random share of min(cap_s, first_s · 2^k) ("full jitter")."""

    attempts: int = 5
    first_s: float = 0.5
    cap_s: float = 60.0

    def wait(self, attempt: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds before attempt `attempt + 1`; never less than what the other side asked for, up to ten minutes."""
        # 2^30 first waits are above any cap; larger powers would overflow in a very long outage.
        backoff: float = rng.uniform(0.5, 1.0) * min(self.cap_s, self.first_s * 2.0 ** min(attempt, 30))
        return max(backoff, min(retry_after or 0.0, 600.0))


async def retry(
    call: Callable[[], Awaitable[T]], *, policy: RetryPolicy, clock: Clock, rng: random.Random | None = None
) -> T:
    """Run `call` until it returns, raises PermanentError, or has raised TransientError `policy.attempts` times."""
    rng = rng or random.Random()
    for attempt in range(policy.attempts):
        try:
            return await call()
        except TransientError as error:
            if attempt + 1 == policy.attempts:
                raise
            await clock.sleep(policy.wait(attempt, error.retry_after, rng))
    raise AssertionError("attempts must be at least 1")
