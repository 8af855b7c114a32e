"""How long to wait before trying again: growing, with jitter, honouring Retry-After; only runners ask."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Attempt k waits a random half to whole of min(cap_s, first_s · 2^k) ("equal jitter")."""

    first_s: float = 0.5
    cap_s: float = 60.0

    def wait(self, attempt: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds before attempt `attempt + 1`; never less than what the other side asked for, up to ten minutes."""
        # 2^30 first waits are above any cap; larger powers would overflow in a very long outage.
        backoff: float = rng.uniform(0.5, 1.0) * min(self.cap_s, self.first_s * 2.0 ** min(attempt, 30))
        return max(backoff, min(retry_after or 0.0, 600.0))
