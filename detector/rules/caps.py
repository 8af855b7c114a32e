"""The rule on caps in dollars: what a key may spend within an hour while little is known of its past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.stream.money import usd
from curb.stream.time import HOUR_S


class Params(NamedTuple):
    """Unit and meaning of each number."""

    #: Minutes of the dollars that are compared with the cap; at least one step. By definition of an hour.
    window_min: float = 60.0
    #: Hours with spend from which a young key's own hours say something. By hand: before, it is still growing.
    known_hours: int = 4
    #: Dollars of an estimate that is worth naming. By hand: a cent.
    least_estimate_usd: float = 0.01


P = Params()


class Config(RuleConfig):
    """Dollars that a key may spend within an hour before its past says what is usual."""

    enabled: bool = Field(default=True, description="Whether keys without a past have a cap.")
    usd_per_hour: float = Field(
        default=250.0,
        gt=0,
        description="Dollars of one key within an hour. A notice; it works from the first minute of an installation.",
    )
    times_own_hour: float = Field(
        default=6.0,
        gt=1,
        description="A key with at least four hours of spend has a lower cap: so many times its most expensive hour.",
    )
    least_usd_per_hour: float = Field(
        default=20.0, gt=0, description="Dollars within an hour below which that lower cap never is."
    )
    until_days: float = Field(
        default=3.0, ge=0, description="Keys known for longer than this many days are judged by their past instead."
    )


CAPS = Family(
    "day_one_cap",
    NOT_MEASURED,
    Docs(
        "day-one cap",
        "a key that spends much before its past is known",
        "$250 within an hour, or six times its most expensive hour and $20, in the first three days of a key",
        "notice",
    ),
    needs_warmup=True,
    by_worth=False,
)


class DayOneCaps(Rule):
    """A notice while a young principal spends more within an hour than any should without being known.

    State: dollars of the last hour; the most of any earlier hour, and how many there were.
    Update: an exponential average over an hour, so that a burst counts for its dollars. An hour counts as earlier when
    another has passed since, and not while an alert is open: a runaway does not raise its own cap.
    Score: the dollars as a multiple of the cap.
    Source: our own, no paper.
    """

    name = "day_one_cap"
    part = "caps of keys without a past"
    families = (CAPS,)
    config = Config

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, step_min = config, context.step_s / 60
        self._share = step_min / max(P.window_min, step_min)
        amounts = {name: Column() for name in ("usd", "peak", "peak_before", "most", "hours", "estimated")}
        #: `open` is the running hour, in hours since the epoch.
        self._hour = Columns({**amounts, "open": Column(dtype=np.int64)}, 64)
        self.parts = {"hour": self._hour}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        subjects, settings = view.principals, self._settings
        self._hour.grow(len(subjects.index))
        spent = self._hour["usd"]
        if view.bucket.gap:
            return []
        spent += subjects.amounts.cost - self._share * spent
        estimated = self._hour["estimated"]
        estimated += (0.0 if view.estimated_usd is None else view.estimated_usd) - self._share * estimated
        self._learn(view.bucket.end // HOUR_S, spent, subjects.frozen | subjects.firing)
        own = np.maximum(settings.least_usd_per_hour, settings.times_own_hour * self._hour["most"])
        known = self._hour["hours"] >= P.known_hours
        cap = np.minimum(settings.usd_per_hour, np.where(known, own, np.inf))
        counted = spent + estimated
        over = (counted > cap) & (subjects.age_days < settings.until_days)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=CAPS,
                kind="runaway",
                tier="notice",
                score=float(counted[row] / cap[row]),
                words=f"{usd(float(counted[row]))} within about an hour{_estimate(float(estimated[row]))}, over the cap"
                f" of {usd(float(cap[row]))} for a key that is known for {24 * float(subjects.age_days[row]):.1f} h"
                + self._why(row, float(cap[row])),
            )
            for row in np.flatnonzero(over).tolist()
            if not view.is_planned(int(subjects.index[row]))
        ]

    def _why(self, row: int, cap: float) -> str:
        if cap < self._settings.usd_per_hour:
            return f" and never spent more than {usd(float(self._hour['most'][row]))} in an hour"
        return ": its past does not say yet what is usual"

    def _learn(self, hour: int, spent: Floats, frozen: Bools) -> None:
        """Follow the most of the running hour; at its end, what the hour before it had is of the past."""
        peak, before, most = self._hour["peak"], self._hour["peak_before"], self._hour["most"]
        ends = self._hour["open"] < hour
        most[...] = np.where(ends, np.maximum(most, before), most)
        self._hour["hours"][...] += ends & (before > 0)
        before[...] = np.where(ends, peak, before)
        peak[...] = np.maximum(np.where(ends, 0.0, peak), np.where(frozen, 0.0, spent))
        self._hour["open"][...] = hour

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made; earlier versions estimated nothing."""
        super().load({"hour.estimated": np.zeros_like(arrays["hour.usd"]), **arrays})


def _estimate(estimated_usd: float) -> str:
    if estimated_usd < P.least_estimate_usd:
        return ""
    return f" (of which about {usd(estimated_usd)} are an estimate for calls without usage)"
