"""Daily rhythm, trend and what neither explains, by STL (statsmodels; Cleveland et al. 1990)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.lab.history import Floats, History

#: Days that a decomposition needs: STL wants two whole seasons.
_LEAST_DAYS = 3
#: Hours of the season: a day. A week would need more weeks than most logs have.
_SEASON = 24
#: The standard deviation of a normal distribution over its median absolute deviation.
_SIGMA_PER_MAD = 1.4826


class Seasons(NamedTuple):
    """Dollars per hour as trend + season + rest, shape (hours,) each; `weights` under 1 were taken for outliers."""

    usd: Floats
    trend: Floats
    season: Floats
    rest: Floats
    weights: Floats

    @property
    def spread(self) -> float:
        """Robust standard deviation of the rest, $/h."""
        return float(np.median(np.abs(self.rest - np.median(self.rest))) * _SIGMA_PER_MAD)


class OddHour(NamedTuple):
    """An hour that trend and season do not explain."""

    at: np.datetime64
    usd: float
    expected_usd: float
    #: Robust standard deviations.
    sigmas: float


def seasons(usd: Floats) -> Seasons:
    """Decompose dollars per hour, robustly. Raises ValueError under three days."""
    from statsmodels.tsa.seasonal import STL

    if len(usd) < _LEAST_DAYS * _SEASON:
        raise ValueError(f"{len(usd) / _SEASON:.1f} days of spend; seasons need {_LEAST_DAYS}")
    found = STL(usd, period=_SEASON, robust=True).fit()
    return Seasons(usd, *(np.asarray(each) for each in (found.trend, found.seasonal, found.resid, found.weights)))


def odd_hours(history: History, usd: Floats, count: int = 10) -> list[OddHour]:
    """The hours with most dollars over trend and season, largest first."""
    found = seasons(usd)
    order = np.argsort(-found.rest)[:count]
    spread = found.spread or 1.0
    return [
        OddHour(
            history.times[at],
            float(usd[at]),
            float(max(0.0, found.trend[at] + found.season[at])),
            float(found.rest[at]) / spread,
        )
        for at in order.tolist()
        if found.rest[at] > 0
    ]
