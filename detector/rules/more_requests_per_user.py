"""The rule for slow growth: requests that grow from day to day while their users do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import TUNING_STREAMS, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View

_DAY_MIN, _SHORT_MIN, _REFERENCE_MIN = 1440.0, 360.0, 3 * 1440.0
_SETTLED_DAYS, _MATURE_DAYS = 2.5, 4.0
_NEAR, _SD_FLOOR, _SD_PER_DEVIATION = 0.06, 0.01, 1.25
#: What is usual is learned over so long that the growth which is to be found does not pass for it.
_DEVIATION_MIN = 6 * 1440.0
#: Users that are counted badly make the ratio wander for hours. What the short window differs from the day's tells how
#: far: for noise with a memory of four hours it is the day's own standard deviation, for noise without one it is more.
_WANDER_MIN = 2 * 1440.0
_LEAST_RATIO, _SHORT_SHARE = 0.08, 0.6
_BURST_RATIO = 2.0
#: Active time of a day, and requests in all, below which nothing is said.
_ACTIVE_MIN, _LEAST_REQUESTS = 500.0, 1000.0
#: Time is active while so many requests come within so many minutes.
_LEAST_IN_WINDOW, _WINDOW_MIN = 3.0, 5.0


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
    Confidence(((0, 0.6),), TUNING_STREAMS),
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
    """A notice while a day's requests per user are well over those of the days before, and it costs."""

    name = "creep"
    part = "creep"
    families = (CREEP,)
    config = Config
    settings_at = "principals.creep"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        names = ("day_usd", "day_organic", "short_usd", "short_organic", "reference", "deviation", "active", "requests")
        self._state = Columns({name: Column() for name in (*names, "wander", "per_min")}, 64)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind growth."""
        subjects, demand = view.principals, view.demand
        self._state.grow(len(subjects.index))
        if view.bucket.gap or demand is None:
            return []
        state, requests = self._state, subjects.amounts.requests
        ages_min = np.maximum(_DAY_MIN * subjects.age_days, self._step_min)
        told = demand.users_known
        # A burst of machine-made requests is no slow growth: it counts as twice what the users explain at most.
        requests = np.minimum(requests, _BURST_RATIO * demand.organic)
        for usd, organic, minutes in (("day_usd", "day_organic", _DAY_MIN), ("short_usd", "short_organic", _SHORT_MIN)):
            share = np.minimum(1.0, self._step_min / np.minimum(ages_min, minutes))
            for name, value in ((usd, requests * demand.unit_usd), (organic, demand.organic * demand.unit_usd)):
                held = state[name]
                held += share * (value / self._step_min - held)
        share = np.minimum(1.0, self._step_min / np.minimum(ages_min, _DAY_MIN))
        per_min, active = state["per_min"], state["active"]
        per_min += min(1.0, self._step_min / _WINDOW_MIN) * (requests / self._step_min - per_min)
        active += share * ((_WINDOW_MIN * per_min >= _LEAST_IN_WINDOW) - active)
        state["requests"][...] += requests
        ratio = _log_ratio(state["day_usd"], state["day_organic"])
        fires = told & (subjects.age_days > _MATURE_DAYS) & self._high(ratio)
        growth_usd = _DAY_MIN * (state["day_usd"] - state["day_organic"] * np.exp(state["reference"]))
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
        deviation = np.maximum(_SD_PER_DEVIATION * state["deviation"], _SD_FLOOR)
        least = np.maximum(settings.deviations * deviation, settings.wanders * _SD_PER_DEVIATION * state["wander"])
        high = (over > np.maximum(settings.min_growth, least)) & (ratio > _LEAST_RATIO)
        high &= short > _SHORT_SHARE * over
        high &= (_DAY_MIN * state["active"] >= _ACTIVE_MIN) & (state["requests"] >= _LEAST_REQUESTS)
        return np.asarray(high)

    def _learn(self, ratio: NDArray[np.float64], age_days: NDArray[np.float64], doubted: NDArray[np.bool_]) -> None:
        state = self._state
        reference, deviation = state["reference"], state["deviation"]
        away = np.abs(ratio - reference)
        settling = age_days <= _SETTLED_DAYS
        taught = ~doubted & (settling | (away < _NEAR))
        share = np.where(settling, 1.0, self._step_min / _REFERENCE_MIN)
        settled_min = np.clip(_DAY_MIN * (age_days - _SETTLED_DAYS), self._step_min, _DEVIATION_MIN)
        usual = ~doubted & ~settling & (away < _NEAR)
        deviation += np.where(usual, self._step_min / settled_min * (away - deviation), 0.0)
        reference += np.where(taught, share * (ratio - reference), 0.0)
        short, wander = _log_ratio(state["short_usd"], state["short_organic"]), state["wander"]
        known_min = np.clip(_DAY_MIN * age_days - _SHORT_MIN, self._step_min, _WANDER_MIN)
        grown = ~doubted & (_DAY_MIN * age_days > _SHORT_MIN)
        wander += np.where(grown, self._step_min / known_min * (np.abs(short - ratio) - wander), 0.0)

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return self._state.dump("state")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._state.load("state", arrays)


def _log_ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.log((over + 1e-9) / (under + 1e-9))
    return ratio
