"""What is normal for a series: requests per active minute, as a decayed histogram on a logarithmic scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.detector.state.columns import Column, Columns, Floats


class Params(NamedTuple):
    #: Bins of the histogram: from 0.1 to 180,000 requests a minute. By hand.
    bins: int = 100
    #: Bins per factor of ten, each 15 % wide: the error of a percentile is at most 8 %. By hand.
    bins_per_decade: int = 16
    #: Requests a minute in the lowest bin. By hand.
    lowest: float = 0.1
    #: Days in which an entry fades to 1/e: two working weeks. By hand.
    memory_days: float = 14.0


P = Params()


class Activity:
    """Requests per minute in minutes that had any. With steps longer than a minute, the step's average counts.

    State: a decayed histogram of requests a minute, and their sum.
    Update: each active minute adds its trust; all fades with the hours.
    Score: percentiles of the histogram.
    Source: a decayed histogram; our own, no paper.
    """

    def __init__(self, step_s: int, capacity: int) -> None:
        self._steps = max(1, round(60 / step_s))
        self._step_s = step_s
        self._minutes = self._steps * step_s / 60
        self.columns = Columns(
            {
                "open": Column(),
                "weight": Column((P.bins,), np.float32),
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
        bins = np.clip(P.bins_per_decade * np.log10(rate / P.lowest), 0, P.bins - 1).astype(np.intp)
        self.columns["weight"][bins, active] += worth.astype(np.float32)
        self.columns["minutes"][active] += worth
        self.columns["requests"][active] += worth * rate
        running[...] = 0.0

    def fade(self, hours: float) -> None:
        """Forget what `hours` let fade."""
        keep = float(np.exp(-hours / 24 / P.memory_days))
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
        return float(P.lowest * 10 ** ((at + 0.5) / P.bins_per_decade))
