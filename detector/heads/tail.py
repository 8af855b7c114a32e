"""How unusual a value is for its own series: a decayed histogram of the past, Gaussian beyond its 99th percentile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns
from curb.detector.state.histogram import chunks, cumulated, find_share

Floats = NDArray[np.float64]

#: The first BEND bins are BIN_WIDTH wide, those up to 6 COARSE times as wide: what is far out needs no fine measure.
BINS, BIN_WIDTH, BEND, COARSE = 28, 0.1, 20, 5
#: What is believed before a series has a past: exponential with this mean, worth this many days of activity.
PRIOR_MEAN, PRIOR_DAYS = 0.152, 0.3
MEMORY_DAYS = 14.0
#: The 99th and 90th percentile of a normal distribution are 1.045 standard deviations apart.
Z_HIGH, Z_GAP, Z_MAX = 2.326, 1.045, 30.0
GAP_MIN, GAP_MAX = 0.08, 0.5


def _place(value: Floats) -> Floats:
    """Where values lie, in bins."""
    fine = value / BIN_WIDTH
    return np.minimum(fine, BEND + (fine - BEND) / COARSE)


def _value(place: Floats) -> Floats:
    """The values that lie there."""
    return BIN_WIDTH * np.maximum(place, BEND + COARSE * (place - BEND))


_EDGES = _value(np.arange(BINS, dtype=np.float64))
_PRIOR = (PRIOR_DAYS * -np.diff(np.append(np.exp(-_EDGES / PRIOR_MEAN), 0.0))).astype(np.float32)[:, None]


class Tail:
    """One histogram per channel and series, of values from 0 up; what is below 0 counts as 0, above 6 as 6."""

    def __init__(self, channels: int, capacity: int) -> None:
        self.columns = Columns(
            {
                # float32: 5 channels x 28 bins are an eighth of a series' memory, and three digits are plenty.
                "weight": Column((channels, BINS), np.float32),
                "high": Column((channels,), np.float32, fill=PRIOR_MEAN * np.log(100)),
                "low": Column((channels,), np.float32, fill=PRIOR_MEAN * np.log(10)),
            },
            capacity,
        )
        self._channels = channels

    def surprise(self, value: Floats) -> Floats:
        """-log10 of the probability of a value so high, shape (channels, series); 0 up to the 99th percentile."""
        high, low = self.columns["high"], self.columns["low"]
        gap = np.clip(high - np.maximum(low, 0.0), GAP_MIN, GAP_MAX)
        z = np.clip(Z_HIGH + Z_GAP * (value - high) / gap, Z_HIGH, Z_MAX)
        return np.where(value > high, 0.4343 * (z * z / 2 + np.log(2.507 * z)), 0.0)

    def learn(self, value: Floats, days: Floats) -> None:
        """Add the values, each worth `days`, shape (series,); 0 adds nothing."""
        taught = np.nonzero(days > 0)[0]
        if taught.size == 0:
            return
        bins = np.clip(_place(value[:, taught]), 0, BINS - 1).astype(np.intp)
        channel = np.arange(self._channels)[:, None]
        self.columns["weight"][channel, bins, taught] += days[taught].astype(np.float32)

    def refresh(self, hours: float) -> None:
        """Forget what `hours` let fade, and read the percentiles anew."""
        weight = self.columns["weight"]
        weight *= np.float32(np.exp(-hours / 24 / MEMORY_DAYS))
        high, low = self.columns["high"], self.columns["low"]
        for some in chunks(weight.shape[-1]):
            for channel in range(self._channels):
                mass = cumulated(weight[channel, :, some] + _PRIOR)
                high[channel, some] = _percentile(mass, 0.99)
                low[channel, some] = _percentile(mass, 0.90)


def _percentile(mass: NDArray[np.float32], share: float) -> Floats:
    """Percentile out of cumulated bins of shape (bins, series)."""
    at, within = find_share(mass, share * mass[-1].astype(np.float64))
    return _value(at + within)
