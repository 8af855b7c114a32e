"""The rule for growth: a line in the digest, once a day, on what has climbed steadily for four weeks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Bools, Column, Columns, Floats, Parts
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.scopes import Role
from curb.detector.state.view import View
from curb.stream.time import DAY_S

#: Days of the regression, four whole weeks, and of a week. By definition.
DAYS, WEEK = 28, 7


class Params(NamedTuple):
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


class Growth(Parts):
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
        self.parts = {"growth": self.columns}

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self.columns.n

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


_ROLES: tuple[Role, ...] = ("principal", "total")
#: Seconds: a day of which more is missing is not known. By hand.
_MISSING_MAX_S = DAY_S / 10


GROWTH = Family(
    "growth",
    NOT_MEASURED,
    Docs(
        "growth",
        "spend that climbs, whoever asks for it",
        "daily dollars of four weeks, by day of the week: 1 % a day at four standard errors, and a day of the"
        " last week costs $5 more than one of the first two. Once a day, at local midnight; never beside "
        "another alert",
        "digest",
    ),
    slow=True,
)


class GrowthRule(Rule):
    """Sums local days of the principals and totals that may alert, and judges each day as it ends.

    State: the dollars of today, and those of four weeks.
    Update: at local midnight.
    Score: see Growth, as a multiple of the limit.
    Source: see Growth.
    """

    name = "growth"
    part = "growth"
    families = (GROWTH,)
    config = Config
    settings_at = "growth"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._zone = config, ZoneInfo(context.time_zone)
        self._growth = Growth(settings=config)
        self._today = Columns({"usd": Column()}, 64)
        self.parts = {"today": self._today, **self._growth.parts}
        #: Numbers of the series that are watched, in the order in which that began.
        self._watched = np.zeros(0, np.intp)
        #: Series looked through for more of them.
        self._looked = 0
        #: The local day that is open, -1 before the first; the end of the newest bucket; whether it was a gap; and
        #: how much of the day is missing.
        self._day, self._end, self._gap, self._missing_s = -1, 0, False, 0

    def close(self, view: View) -> list[Finding]:
        """Findings of kind growth, with the first bucket that ends at local midnight or later."""
        self._watch(view)
        start, end = view.start, view.bucket.end
        if self._day < 0:  # of its first day nothing is known before now
            hour = local_hour(start, self._zone)
            self._day, self._end, self._gap = hour.day, hour.start - 3600 * hour.of_day, True
        findings = self._pass_to(start, view)
        self._today["usd"][...] += view.bucket.cost[self._watched]
        self._missing_s += (end - start) * view.bucket.gap
        self._end, self._gap = end, view.bucket.gap
        return [*findings, *self._pass_to(end, view)]

    def _watch(self, view: View) -> None:
        registry = view.registry
        if self._looked == len(registry):
            return
        self._looked = len(registry)
        wanted = np.concatenate([registry.of_role(role) for role in _ROLES])
        new = np.setdiff1d(wanted[registry["detect"][wanted]], self._watched)
        self._watched = np.concatenate([self._watched, new])
        for part in self.parts.values():
            part.grow(len(self._watched))

    def _pass_to(self, at: int, view: View) -> list[Finding]:
        """Close the days that ended by `at`. Buckets that were passed over are missing if the one before was a gap."""
        hour = local_hour(at, self._zone)
        if hour.day == self._day:
            self._missing_s += self._gap * (at - self._end)
            return []
        midnight = hour.start - 3600 * hour.of_day
        self._missing_s += self._gap * max(0, midnight - self._end)
        findings = self._close_day(view)
        for _ in range(min(hour.day - self._day - 1, DAYS)):
            findings = self._close_day(view, missing=self._gap)
        self._day, self._missing_s = hour.day, self._gap * (at - max(self._end, midnight))
        return findings

    def _close_day(self, view: View, *, missing: bool = False) -> list[Finding]:
        usd = self._today["usd"]
        growths = self._growth.step(usd, known=not missing and self._missing_s <= _MISSING_MAX_S)
        usd[...], self._missing_s = 0.0, 0
        # Series with an alert, or with one lately, climbed for another reason.
        due = growths.fires & view.registry["detect"][self._watched]
        due &= ~(view.firing | view.frozen)[self._watched]
        return [
            Finding(
                series=int(self._watched[row]),
                family=GROWTH,
                kind="growth",
                tier="digest",
                score=float(growths.t[row] / self._settings.min_t),
                words=f"{100 * np.expm1(growths.slope[row]):.1f} % more every day for four weeks, which is now "
                f"${growths.excess_usd_per_day[row]:,.2f} a day more than in the first two of them",
            )
            for row in np.flatnonzero(due).tolist()
        ]

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, the series that are watched, and where the day stands."""
        clock = np.array([self._day, self._end, self._gap, self._missing_s], np.int64)
        return {"clock": clock, "watched": self._watched, **super().dump()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made; which series may alert is taken from the configuration of now."""
        self._watched = np.array(arrays["watched"], np.intp)
        super().load(arrays)
        self._day, self._end, gap, self._missing_s = (int(value) for value in arrays["clock"])
        self._gap, self._looked = bool(gap), 0
