"""The rule for slow growth: requests that grow from day to day while their users do not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View


class Params(NamedTuple):
    #: Minutes of a day, over which requests per user are averaged. By definition.
    day_min: float = 1440.0
    #: Minutes of the short average, which must agree. Prototype.
    short_min: float = 360.0
    #: Minutes (three days) in which the reference follows. Prototype.
    reference_min: float = 4320.0
    #: Days of age up to which the reference is the ratio itself. Prototype.
    settled_days: float = 2.5
    #: Days of age from which on the rule reports. Prototype.
    mature_days: float = 4.0
    #: Log ratio from the reference above which it stops: growth must not become usual. Prototype had 0.08; by hand.
    near: float = 0.06
    #: Least standard deviation of the log ratio. Prototype.
    sd_floor: float = 0.01
    #: Standard deviations in a mean absolute deviation. By definition of a normal distribution: sqrt(pi / 2).
    sd_per_deviation: float = 1.25
    #: Minutes (six days) in which the usual deviation is learned: so long that the growth to be found does not pass
    #: for it. By hand.
    deviation_min: float = 8640.0
    #: Minutes (two days) in which the difference of short and day is learned: users that are counted badly make it
    #: large. By hand.
    wander_min: float = 2880.0
    #: Log ratio of requests to explained ones below which nothing grows. Prototype.
    least_ratio: float = 0.08
    #: Share of the day's growth that the short average must show. Prototype.
    short_share: float = 0.6
    #: Multiple of the explained requests up to which a step counts: a burst of a machine is no slow growth.
    #: By hand.
    burst_ratio: float = 2.0
    #: Active minutes of a day below which nothing is reported. Prototype.
    active_min: float = 500.0
    #: Requests of the series below which nothing is reported. Prototype.
    least_requests: float = 1000.0
    #: Requests within `window_min` that make time active. Prototype.
    least_in_window: float = 3.0
    #: Minutes over which they are counted, at any length of buckets. Prototype.
    window_min: float = 5.0


P = Params()


class Config(RuleConfig):
    """Slow growth of requests that no growth of users explains."""

    enabled: bool = Field(default=True, description="Whether requests per user are looked at; needs users.")
    min_growth: float = Field(
        default=0.07, gt=0, description="Growth over the reference, as a logarithm: 0.07 is about 7 %."
    )
    deviations: float = Field(default=3.5, gt=0, description="The same in its own usual deviations.")
    wanders: float = Field(
        default=2.0,
        ge=0,
        description="The same in what six hours usually differ from a day: users that are counted badly wander.",
    )
    min_usd_per_day: float = Field(default=1.5, gt=0, description="Dollars per day that the growth costs.")


CREEP = Family(
    "creep",
    Confidence(((0, 0.5),), MEASURED),
    Docs(
        "creep",
        "slow growth nobody asked for",
        "requests per user of a day well over those of the days before, for $1.50 a day",
        "notice",
    ),
    by_past=True,
    slow=True,
)


class Creep(Rule):
    """A notice while a day's requests per user are well over those of the days before, and it costs.

    State: requests over explained ones, a day and six hours; a reference and its deviation.
    Update: the reference follows in three days, and stops while they differ by 6 %.
    Score: log ratio over the reference.
    Source: our own, no paper.
    """

    name = "creep"
    part = "creep"
    families = (CREEP,)
    config = Config
    settings_at = "principals.creep"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        names = ("day_usd", "day_organic", "short_usd", "short_organic", "reference", "deviation", "active", "requests")
        self._state = Columns({name: Column() for name in (*names, "wander", "per_min")}, 64)
        self.parts = {"state": self._state}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind growth."""
        subjects, demand = view.principals, view.demand
        self._state.grow(len(subjects.index))
        if view.bucket.gap or demand is None:
            return []
        state, requests = self._state, subjects.amounts.requests
        ages_min = np.maximum(P.day_min * subjects.age_days, self._step_min)
        # A burst of machine-made requests is no slow growth: it counts as twice what the users explain at most.
        requests = np.minimum(requests, P.burst_ratio * demand.organic)
        for usd, organic, minutes in (
            ("day_usd", "day_organic", P.day_min),
            ("short_usd", "short_organic", P.short_min),
        ):
            share = np.minimum(1.0, self._step_min / np.minimum(ages_min, minutes))
            for name, value in ((usd, requests * demand.unit_usd), (organic, demand.organic * demand.unit_usd)):
                held = state[name]
                held += share * (value / self._step_min - held)
        share = np.minimum(1.0, self._step_min / np.minimum(ages_min, P.day_min))
        per_min, active = state["per_min"], state["active"]
        per_min += min(1.0, self._step_min / P.window_min) * (requests / self._step_min - per_min)
        active += share * ((P.window_min * per_min >= P.least_in_window) - active)
        state["requests"][...] += requests
        ratio = _log_ratio(state["day_usd"], state["day_organic"])
        fires = demand.users_known & (subjects.age_days > P.mature_days) & self._high(ratio)
        growth_usd = P.day_min * (state["day_usd"] - state["day_organic"] * np.exp(state["reference"]))
        fires &= growth_usd > self._settings.min_usd_per_day
        self._learn(ratio, subjects.age_days, subjects.frozen | fires)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=CREEP,
                kind="growth",
                tier="notice",
                score=float(ratio[row] - state["reference"][row]),
                words=f"{100 * np.expm1(ratio[row] - state['reference'][row]):.0f} % more requests per user than in "
                f"the days before, which costs ${growth_usd[row]:,.2f} a day",
                lasting=True,
            )
            for row in np.flatnonzero(fires).tolist()
        ]

    def forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Incidents are over: what they asked for is taken out of the windows."""
        rows = np.flatnonzero(over[view.principals.index])
        usual = np.exp(self._state["reference"][rows])
        for name in ("day", "short"):
            self._state[f"{name}_usd"][rows] = usual * self._state[f"{name}_organic"][rows]

    def _high(self, ratio: NDArray[np.float64]) -> NDArray[np.bool_]:
        state, settings = self._state, self._settings
        over = ratio - state["reference"]
        short = _log_ratio(state["short_usd"], state["short_organic"]) - state["reference"]
        deviation = np.maximum(P.sd_per_deviation * state["deviation"], P.sd_floor)
        least = np.maximum(settings.deviations * deviation, settings.wanders * P.sd_per_deviation * state["wander"])
        high = (over > np.maximum(settings.min_growth, least)) & (ratio > P.least_ratio)
        high &= short > P.short_share * over
        high &= (P.day_min * state["active"] >= P.active_min) & (state["requests"] >= P.least_requests)
        return np.asarray(high)

    def _learn(self, ratio: NDArray[np.float64], age_days: NDArray[np.float64], doubted: NDArray[np.bool_]) -> None:
        state = self._state
        reference, deviation = state["reference"], state["deviation"]
        away = np.abs(ratio - reference)
        settling = age_days <= P.settled_days
        taught = ~doubted & (settling | (away < P.near))
        share = np.where(settling, 1.0, self._step_min / P.reference_min)
        settled_min = np.clip(P.day_min * (age_days - P.settled_days), self._step_min, P.deviation_min)
        usual = ~doubted & ~settling & (away < P.near)
        deviation += np.where(usual, self._step_min / settled_min * (away - deviation), 0.0)
        reference += np.where(taught, share * (ratio - reference), 0.0)
        short, wander = _log_ratio(state["short_usd"], state["short_organic"]), state["wander"]
        known_min = np.clip(P.day_min * age_days - P.short_min, self._step_min, P.wander_min)
        grown = ~doubted & (P.day_min * age_days > P.short_min)
        wander += np.where(grown, self._step_min / known_min * (np.abs(short - ratio) - wander), 0.0)


def _log_ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.log((over + 1e-9) / (under + 1e-9))
    return ratio
