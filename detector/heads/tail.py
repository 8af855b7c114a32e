"""How unusual a value is for its own series: a decayed histogram of the past, Gaussian beyond its 99th percentile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns, Floats, Ints
from curb.detector.state.histogram import chunks, cumulated, find_share


class Params(NamedTuple):
    #: Bins of the histogram, which end at 6. By hand.
    bins: int = 28
    #: Width of a fine bin, in log ratio: 10 %. Prototype.
    bin_width: float = 0.1
    #: Fine bins, up to a log ratio of 2; above them what is far out needs no fine measure. By hand.
    bend: int = 20
    #: Width of a coarse bin in fine ones. By hand, to save memory.
    coarse: int = 5
    #: Mean of the exponential prior, in log ratio. Prototype: puts the first 99th percentile at 0.70, the 90th at
    #: 0.35.
    prior_mean: float = 0.152
    #: Days of activity that the prior is worth. Prototype.
    prior_days: float = 0.3
    #: Days in which an entry fades to 1/e: two working weeks. Prototype.
    memory_days: float = 14.0
    #: Standard deviations of the 99th percentile of a normal distribution. By definition.
    z_high: float = 2.326
    #: Standard deviations from the 90th to the 99th percentile. By definition.
    z_gap: float = 1.045
    #: Greatest z: beyond it the number means nothing. Prototype.
    z_max: float = 30.0
    #: Least distance of the two percentiles, in log ratio: no series is steadier. Prototype.
    gap_min: float = 0.08
    #: Greatest distance, so that a wild past hides no burst. Prototype.
    gap_max: float = 0.5
    #: log10(e): natural logarithms as powers of ten. By definition.
    log10_e: float = 0.4343
    #: sqrt(2 pi), of the tail of a normal distribution. By definition.
    root_two_pi: float = 2.507


P = Params()


def _place(value: Floats) -> Floats:
    """Where values lie, in bins."""
    fine = value / P.bin_width
    return np.minimum(fine, P.bend + (fine - P.bend) / P.coarse)


def _value(place: Floats) -> Floats:
    """The values that lie there."""
    return P.bin_width * np.maximum(place, P.bend + P.coarse * (place - P.bend))


_EDGES = _value(np.arange(P.bins, dtype=np.float64))
_PRIOR = (P.prior_days * -np.diff(np.append(np.exp(-_EDGES / P.prior_mean), 0.0))).astype(np.float32)[:, None]


class Tail:
    """One histogram per channel and series, of values from 0 up; what is below 0 counts as 0, above 6 as 6.

    State: a histogram of values and its 90th and 99th percentile.
    Update: each active step adds its share of a day; all fades in 14 days.
    Score: -log10 of the chance, from a normal tail through the two percentiles.
    Source: the asymptotic normal tail, exp(-z^2/2) / (z sqrt(2 pi)).
    """

    def __init__(self, channels: int, capacity: int) -> None:
        self.columns = Columns(
            {
                # float32: 5 channels x 28 bins are an eighth of a series' memory, and three digits are plenty.
                "weight": Column((channels, P.bins), np.float32),
                "high": Column((channels,), np.float32, fill=P.prior_mean * np.log(100)),
                "low": Column((channels,), np.float32, fill=P.prior_mean * np.log(10)),
            },
            capacity,
        )
        self._channels = channels

    def surprise(self, value: Floats) -> Floats:
        """-log10 of the probability of a value so high, shape (channels, series); 0 up to the 99th percentile."""
        return _surprise(value, self.columns["high"], self.columns["low"])

    def surprise_of(self, channel: Ints, series: Ints, value: Floats) -> Floats:
        """The same of single values, each of one channel of one series."""
        return _surprise(value, self.columns["high"][channel, series], self.columns["low"][channel, series])

    def learn(self, value: Floats, days: Floats) -> None:
        """Add the values, each worth `days`, shape (series,); 0 adds nothing."""
        taught = np.flatnonzero(days > 0)
        self.learn_of(taught, value[:, taught], days)

    def learn_of(self, taught: Ints, value: Floats, days: Floats) -> None:
        """The same of the series in `taught` alone: values of shape (channels, taught); `days` of shape (series,)."""
        if taught.size == 0:
            return
        bins = np.clip(_place(value), 0, P.bins - 1).astype(np.intp)
        channel = np.arange(self._channels)[:, None]
        self.columns["weight"][channel, bins, taught] += days[taught].astype(np.float32)

    def refresh(self, hours: float) -> None:
        """Forget what `hours` let fade, and read the percentiles again."""
        weight = self.columns["weight"]
        weight *= np.float32(np.exp(-hours / 24 / P.memory_days))
        high, low = self.columns["high"], self.columns["low"]
        for some in chunks(weight.shape[-1]):
            for channel in range(self._channels):
                mass = cumulated(weight[channel, :, some] + _PRIOR)
                high[channel, some] = _percentile(mass, 0.99)
                low[channel, some] = _percentile(mass, 0.90)


def _surprise(value: Floats, high: Floats, low: Floats) -> Floats:
    gap = np.clip(high - np.maximum(low, 0.0), P.gap_min, P.gap_max)
    z = np.clip(P.z_high + P.z_gap * (value - high) / gap, P.z_high, P.z_max)
    return np.where(value > high, P.log10_e * (z * z / 2 + np.log(P.root_two_pi * z)), 0.0)


def _percentile(mass: NDArray[np.float32], share: float) -> Floats:
    """Percentile out of cumulated bins of shape (bins, series)."""
    at, within = find_share(mass, share * mass[-1].astype(np.float64))
    return _value(at + within)
