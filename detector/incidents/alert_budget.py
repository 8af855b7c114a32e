"""Raises the thresholds of statistics where they alert more often than people have time for, and lowers them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import Families
from curb.detector.state.view import Raised
from curb.stream.records.spend import Alert, Tier
from curb.stream.settings import Settings

#: Tiers with a budget, in the order of `Raised`.
_TIERS: tuple[Tier, ...] = ("notice", "page")
_DAYS, _GAIN, _MOST = 7, 0.5, 20.0
_SERIES = 1000
#: More days without a bucket count as so many.
_FORGOTTEN_DAYS = 60


class AlertBudget(Settings):
    """Alerts of statistics that people have time for. Where there are more their thresholds rise by and by."""

    notices_per_day: float = Field(
        default=10.0, gt=0, description="New notices a day for every thousand series that may alert; for fewer as well."
    )
    pages_per_day: float = Field(default=5.0, gt=0, description="The same for pages.")


class BudgetController:
    """Once a local day each rise moves by half the logarithm of the week's alerts over the week's budget."""

    def __init__(self, settings: AlertBudget, time_zone: str, families: Families) -> None:
        self._families = families
        self._per_day = np.array([settings.notices_per_day, settings.pages_per_day])
        self._zone = ZoneInfo(time_zone)
        #: Points on the thresholds of each tier; new alerts of each of the last seven days, and of today.
        self._rise = np.zeros(len(_TIERS))
        self._week = np.zeros((_DAYS, len(_TIERS)))
        self._today = np.zeros(len(_TIERS))
        self._day = -1

    @property
    def raised(self) -> Raised:
        """Points to add to the thresholds now."""
        return Raised(*self._rise.tolist())

    def start(self, start: int, series: int) -> None:
        """A bucket starts at `start` (epoch seconds); `series` may alert. Close the local days before it."""
        day = local_hour(start, self._zone).day
        passed = day - self._day if self._day >= 0 else 0
        self._day = max(day, self._day)
        for _ in range(min(passed, _FORGOTTEN_DAYS)):
            self._week = np.roll(self._week, -1, axis=0)
            self._week[-1] = self._today
            self._today = np.zeros(len(_TIERS))
            budget = _DAYS * self._per_day * max(1.0, series / _SERIES)
            step = _GAIN * np.log10((self._week.sum(axis=0) + 1) / (budget + 1))
            self._rise = np.clip(self._rise + step, 0.0, _MOST)

    def count(self, alerts: Iterable[Alert], before: Mapping[str, Tier]) -> None:
        """Count what statistics opened or raised to a tier; `before` holds the tiers of what fired, by alert id."""
        for alert in alerts:
            if alert.tier not in _TIERS or not self._families.of(alert.channel).statistic:
                continue
            if alert.revision == 1 or before.get(alert.alert_id, alert.tier) != alert.tier:
                self._today[_TIERS.index(alert.tier)] += 1

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes: views that hold until the next change."""
        return {"rise": self._rise, "week": self._week, "today": self._today, "day": np.array([self._day], np.int64)}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._rise, self._week = np.array(arrays["rise"]), np.array(arrays["week"])
        self._today, self._day = np.array(arrays["today"]), int(arrays["day"][0])
