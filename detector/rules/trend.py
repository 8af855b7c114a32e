"""The growth rule: series whose daily dollars have climbed steadily for four weeks, whatever the day of the week."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import RuleConfig

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Days of the regression, four whole weeks, and of a week. By definition.
DAYS, WEEK = 28, 7


class Params(NamedTuple):
    """Unit, meaning and reason of each number. Prototype: tuned on three labelled streams; by hand: not measured."""

    #: Days, the oldest of the four weeks, that the last week is compared with. Prototype, on simulated series.
    old_days: int = 14
    #: Standard deviations in a median absolute deviation. By definition of a normal distribution.
    mad_to_sd: float = 1.4826
    #: Least standard deviation of a day's logarithm: dollars are never known better than to 1 %. By hand.
    least_sd: float = 0.01


P = Params()


def _regression() -> tuple[Floats, Floats, float]:
    """Weights of the slope, the matrix that leaves residuals, and the slope's variance at residuals of variance 1.

    Four whole weeks: seven levels and a slope. Which day of the week comes first makes no difference.
    """
    day = np.arange(DAYS)
    design = np.column_stack([day[:, None] % WEEK == np.arange(WEEK), day])
    inverse = np.linalg.inv(design.T @ design)
    weights = inverse @ design.T
    return weights[-1], np.eye(DAYS) - design @ weights, float(inverse[-1, -1])


_SLOPE, _RESIDUALS, _VARIANCE = _regression()
#: Degrees of freedom of the residuals, a share: 28 days, seven levels and a slope. By definition.
_FREEDOM = (DAYS - WEEK - 1) / DAYS


class Config(RuleConfig):
    """Spend that climbs steadily for four weeks, whatever the day of the week. A line in the digest, once a day."""

    enabled: bool = Field(default=True, description="Whether growth over four weeks is reported.")
    min_t: float = Field(default=4.0, gt=0, description="Slope of the logarithm of daily dollars, in standard errors.")
    min_growth: float = Field(
        default=0.01, gt=0, description="Growth per day, as a logarithm: 0.01 is 1 %, a third more in four weeks."
    )
    min_usd_per_day: float = Field(
        default=5.0, gt=0, description="Dollars by which a day of the last week exceeds one of the first two."
    )


@dataclass(frozen=True)
class Growths:
    """What one day says about every series; arrays of shape (N,). Zeros and False until four weeks are known."""

    #: The slope in standard errors; robust, so that single days neither make nor hide a trend.
    t: Floats
    #: Growth of the logarithm per day: 0.03 is three percent.
    slope: Floats
    #: Mean dollars of the last week less the mean of the two weeks that ended two weeks ago.
    excess_usd_per_day: Floats
    fires: Bools


class Growth:
    """Daily dollars of the last four weeks. Advisory: growth is for people to judge, not to throttle.

    State: daily dollars of four weeks.
    Update: once a local day.
    Score: slope of ln dollars in standard errors, by day of the week.
    Source: least squares with a robust spread: 1.4826 times the median absolute deviation.
    """

    def __init__(self, capacity: int = 64, settings: Config | None = None) -> None:
        self._settings = settings or Config()
        self.columns = Columns(
            # float32: seven digits of a day's dollars are plenty.
            {"usd": Column((DAYS,), np.float32), "days": Column(dtype=np.uint8)},
            capacity,
        )

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self.columns.n

    @property
    def bytes_per_series(self) -> float:
        """Memory of one series."""
        return self.columns.bytes_per_series

    def grow(self, n: int) -> None:
        """Use `n` series; those that are new know no days."""
        self.columns.grow(n)

    def step(self, usd: Floats, known: Bools | bool = True) -> Growths:
        """Take in a whole local day of dollars, shape (N,), and judge the last four weeks.

        Where the day is not `known`, such as a feed that was down, it counts as the same day of the week before.
        A series' first days before it spent anything are not counted.
        """
        held, days = self.columns["usd"], self.columns["days"]
        sound = np.isfinite(usd) & known
        today = np.where(sound, np.clip(np.nan_to_num(usd), 0.0, None), held[-WEEK])
        held[:-1] = held[1:].copy()
        held[-1] = today
        days += (((days > 0) | (today > 0)) & (days < DAYS)).astype(np.uint8)
        return self._judge(held, days >= DAYS)

    def _judge(self, held: NDArray[np.float32], ready: Bools) -> Growths:
        usd = held.astype(np.float64)
        value = np.log1p(usd)
        slope = _SLOPE @ value
        residual = _RESIDUALS @ value
        spread = np.median(np.abs(residual - np.median(residual, axis=0)), axis=0)
        sd = np.maximum(P.mad_to_sd * spread / np.sqrt(_FREEDOM), P.least_sd)
        t = slope / (sd * np.sqrt(_VARIANCE))
        excess = usd[-WEEK:].mean(axis=0) - usd[: P.old_days].mean(axis=0)
        t, slope, excess = (np.where(ready, each, 0.0) for each in (t, slope, excess))
        least = self._settings
        fires = (t > least.min_t) & (slope > least.min_growth) & (excess > least.min_usd_per_day)
        return Growths(t, slope, excess, fires)

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes: views that hold until the next change."""
        return self.columns.dump("growth")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self.columns.load("growth", arrays)
