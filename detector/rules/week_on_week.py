"""The rule for slow growth where users are not known: more requests than a week ago, or more of them day after day."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.rule import TUNING_STREAMS, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View

#: Requests are kept by quarter of a day; a day is compared with the same one a week before, so are the two before it.
#: By hand.
_QUARTER_S, _DAY, _WEEK = 6 * 3600, 4, 28
#: Quarters that are kept: a week and three days. By definition.
_KEPT = _WEEK + 3 * _DAY


class Params(NamedTuple):
    #: Log growth from one day to the next below which nothing grows. By hand.
    least_step: float = 0.02
    #: Log growth from one quarter of a day to the next above which it is a jump and no creep. By hand.
    most_jump: float = 0.25
    #: Days in a row that grow, before there is a week to look back on. A working week has five, of which the first
    #: may be a weekend's. By hand.
    days: int = 4
    #: Log growth that each of these days needs. By hand.
    least_rise: float = 0.04
    #: Share of all growth that one day may have. By hand.
    largest_share: float = 0.5
    #: Requests of the day before below which a ratio says nothing. By hand.
    least_requests: float = 200.0


P = Params()


class Config(RuleConfig):
    """Slow growth where users are not known: days against those of a week or of four days ago."""

    enabled: bool = Field(default=True, description="Whether days are compared with earlier days.")
    min_growth: float = Field(
        default=0.35, gt=0, description="Growth over the week, or four days, as a logarithm: 0.35 is 42 %."
    )
    max_growth: float = Field(
        default=1.2, gt=0, description="Growth that is too fast for a creep, and for other rules: 1.2 is 232 %."
    )
    min_usd_per_day: float = Field(default=3.0, gt=0, description="Dollars per day that the growth costs.")


WEEKS = Family(
    "weeks",
    Confidence(((0, 0.5),), TUNING_STREAMS),
    Docs(
        "weeks",
        "slow growth where users are not known",
        "a day with 42 % more requests than the same one a week ago, risen slowly over the days before, or "
        "than four days ago with 4 % more every day, for $3 a day",
        "notice",
    ),
    by_past=True,
    slow=True,
)


class Weeks(Rule):
    """A notice when the last day had far more requests than the same one a week ago or four days ago, and slowly so.

    State: requests of ten days by quarters.
    Update: every six hours.
    Score: log growth over a week, or four days.
    Source: our own, no paper.
    """

    name = "weeks"
    part = "weeks"
    families = (WEEKS,)
    config = Config
    settings_at = "principals.weeks"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        #: Requests of the newest whole quarters, the oldest first, and of the open quarter.
        self._state = Columns({"quarters": Column((_KEPT,), np.float32), "open": Column()}, 64)
        self.parts = {"state": self._state}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind growth, at the end of a quarter of a day."""
        subjects = view.principals
        self._state.grow(len(subjects.index))
        self._state["open"][...] += subjects.amounts.requests
        if view.bucket.end % _QUARTER_S:
            return []
        quarters = self._state["quarters"]
        quarters[:-1] = quarters[1:].copy()
        quarters[-1] = self._state["open"]
        self._state["open"][...] = 0.0
        return self._judge(view, quarters)

    def _judge(self, view: View, quarters: NDArray[np.float32]) -> list[Finding]:
        subjects, demand, settings = view.principals, view.demand, self._settings
        found: list[Finding] = []
        if demand is None:
            return found
        unknown = ~demand.users_known
        for words, days_ago, (rises, growth) in (
            ("than a week ago, growing for days", 7, self._over_week(quarters, subjects.age_days)),
            (f"than {P.days} days ago, growing from day to day", P.days, self._day_by_day(quarters, subjects.age_days)),
        ):
            before = _day(quarters, days_ago * _DAY)
            more_usd = (_day(quarters, 0) - before) * demand.unit_usd
            fires = unknown & rises & (growth >= settings.min_growth) & (growth <= settings.max_growth)
            fires &= (before >= P.least_requests) & (more_usd >= settings.min_usd_per_day)
            unknown &= ~fires
            found += [
                Finding(
                    series=int(subjects.index[row]),
                    family=WEEKS,
                    kind="growth",
                    tier="notice",
                    score=float(growth[row]),
                    words=f"{100 * np.expm1(growth[row]):.0f} % more requests in a day {words}, "
                    f"which costs ${more_usd[row]:,.2f} a day",
                    lasting=True,
                )
                for row in np.flatnonzero(fires).tolist()
            ]
        return found

    def _over_week(self, quarters: NDArray[np.float32], age_days: Floats) -> tuple[Bools, Floats]:
        """Which rose slowly, and the logarithm of the last day over the same one a week before."""
        growth = np.array([_growth(quarters, back) for back in range(2 * _DAY + 1)])
        now, yesterday, before = growth[0], growth[_DAY], growth[2 * _DAY]
        rises = (age_days >= _KEPT / _DAY) & (now - yesterday >= P.least_step) & (yesterday - before >= P.least_step)
        return rises & ((growth[:-1] - growth[1:]).max(axis=0) <= P.most_jump), now

    def _day_by_day(self, quarters: NDArray[np.float32], age_days: Floats) -> tuple[Bools, Floats]:
        """Which rose day after day, and the logarithm of the last day over the first of them."""
        days = np.log([_day(quarters, back) + 1 for back in range(P.days * _DAY, -1, -_DAY)])
        steps, growth = np.diff(days, axis=0), days[-1] - days[0]
        rises = (age_days >= P.days + 1) & (steps.min(axis=0) >= P.least_rise)
        rises &= steps.max(axis=0) <= P.largest_share * growth
        # A week rises to its middle every week.
        return rises & (_growth(quarters, 0) >= self._settings.min_growth), growth


def _day(quarters: NDArray[np.float32], back: int) -> Floats:
    """Requests of the day that ended `back` quarters before the newest."""
    end = _KEPT - back
    total: Floats = quarters[end - _DAY : end].sum(axis=0, dtype=np.float64)
    return total


def _growth(quarters: NDArray[np.float32], back: int) -> Floats:
    """The logarithm of a day's requests over those a week before, `back` quarters ago."""
    ratio: Floats = np.log((_day(quarters, back) + 1) / (_day(quarters, back + _WEEK) + 1))
    return ratio
