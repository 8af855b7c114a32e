"""The rule for growth: a line in the digest, once a day, on what has climbed steadily for four weeks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from curb.detector.rules.trend import DAYS, Config, Growth
from curb.detector.state.columns import Column, Columns
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleContext
from curb.detector.state.scopes import Role
from curb.detector.state.view import View
from curb.stream.time import DAY_S

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
        #: Numbers of the series that are watched, in the order in which that began.
        self._watched = np.zeros(0, np.intp)
        #: Series looked through for more of them.
        self._looked = 0
        #: The local day that is open, -1 before the first; the end of the newest bucket; whether it was a gap; and
        #: how much of the day is missing.
        self._day, self._end, self._gap, self._missing_s = -1, 0, False, 0

    @property
    def bytes_per_series(self) -> float:
        """Memory of one series that is watched."""
        return self._growth.bytes_per_series + self._today.bytes_per_series

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
        for part in (self._growth, self._today):
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
        """What `load` takes."""
        clock = np.array([self._day, self._end, self._gap, self._missing_s], np.int64)
        return {"clock": clock, "watched": self._watched, **self._growth.dump(), **self._today.dump("today")}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave; which series may alert is taken from the configuration of now."""
        self._watched = np.array(arrays["watched"], np.intp)
        self._growth.load(arrays)
        self._today.load("today", arrays)
        self._day, self._end, gap, self._missing_s = (int(value) for value in arrays["clock"])
        self._gap, self._looked = bool(gap), 0
