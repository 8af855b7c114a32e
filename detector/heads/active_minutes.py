"""What is normal for a series: requests per active minute, as a decayed histogram on a logarithmic scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]

#: 100 bins from 0.1 to 180,000 requests per minute, each 15 % wide.
BINS, BINS_PER_DECADE, LOWEST = 100, 16, 0.1
MEMORY_DAYS = 14.0


class Activity:
    """Requests per minute in minutes that had any. With steps longer than a minute, the step's average counts."""

    def __init__(self, step_s: int, capacity: int) -> None:
        self._steps = max(1, round(60 / step_s))
        self._step_s = step_s
        self._minutes = self._steps * step_s / 60
        self.columns = Columns(
            {
                "open": Column(),
                "weight": Column((BINS,), np.float32),
                "minutes": Column(),
                "requests": Column(),
            },
            capacity,
        )

    def add(self, requests: Floats, start: int, trust: Floats) -> None:
        """One step of requests; learned at the end of its minute, as much as `trust` (0 to 1) says."""
        running = self.columns["open"]
        running += requests
        if (start // self._step_s + 1) % self._steps:
            return
        active = np.nonzero((running > 0) & (trust > 0))[0]
        rate = running[active] / self._minutes
        worth = trust[active] * self._minutes
        bins = np.clip(BINS_PER_DECADE * np.log10(rate / LOWEST), 0, BINS - 1).astype(np.intp)
        self.columns["weight"][bins, active] += worth.astype(np.float32)
        self.columns["minutes"][active] += worth
        self.columns["requests"][active] += worth * rate
        running[...] = 0.0

    def fade(self, hours: float) -> None:
        """Forget what `hours` let fade."""
        keep = float(np.exp(-hours / 24 / MEMORY_DAYS))
        for name in ("weight", "minutes", "requests"):
            held = self.columns[name]
            held *= held.dtype.type(keep)

    def mean(self, i: int) -> float | None:
        """Mean requests per active minute of series `i`; None without any."""
        minutes = float(self.columns["minutes"][i])
        return float(self.columns["requests"][i]) / minutes if minutes > 0 else None

    def percentile(self, i: int, share: float) -> float | None:
        """Percentile of requests per active minute of series `i`, to 8 %; None without any."""
        mass = np.cumsum(self.columns["weight"][:, i], dtype=np.float64)
        if mass[-1] <= 0:
            return None
        at = int(np.searchsorted(mass, share * mass[-1]))
        return float(LOWEST * 10 ** ((at + 0.5) / BINS_PER_DECADE))
