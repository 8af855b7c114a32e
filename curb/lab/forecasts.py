"""How good past forecasts would have been: each day's forecast of its period, against what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curb.detector.forecast.days import DailySpend, day_of
from curb.detector.forecast.month_end import Period, forecast
from curb.lab.history import Floats, History
from curb.lab.markdown import table
from curb.stream.money import usd


class MadeForecast(NamedTuple):
    """A forecast of a period made at the start of a day, and the outcome. Dollars; days since 1970."""

    day: int
    period: Period
    spent_usd: float
    forecast_usd: float
    low_usd: float
    high_usd: float
    actual_usd: float

    @property
    def error(self) -> float:
        """Forecast over actual, minus 1."""
        return self.forecast_usd / self.actual_usd - 1 if self.actual_usd else 0.0

    @property
    def is_inside(self) -> bool:
        return self.low_usd <= self.actual_usd <= self.high_usd


def forecasts_of(
    history: History, usd_per_hour: Floats, period_days: int = 7, least_days: int = 3
) -> list[MadeForecast]:
    """Forecasts of every whole period of `period_days`, one for each day in it, from the days before that day alone.

    Periods are counted back from the last whole day. A forecast needs `least_days` of history.
    """
    days = history.daily(usd_per_hour)
    found = []
    for end in range(days.end_day, days.first_day + period_days - 1, -period_days):
        period = Period(end - period_days, end)
        actual = float(np.nansum(days.between(period.first_day, period.end_day)))
        for day in range(max(period.first_day, days.first_day + least_days), end):
            found.append(_made(days.until(day), day, period, actual))
    return sorted(found, key=lambda each: each.day)


def _made(known: DailySpend, day: int, period: Period, actual_usd: float) -> MadeForecast:
    made = forecast(known, period, thorough=False)
    return MadeForecast(day, period, made.spent_usd, made.expected_usd, made.low_usd, made.high_usd, actual_usd)


def calibration_table(made: Sequence[MadeForecast]) -> str:
    """Markdown: every forecast beside its outcome, and how many outcomes lay in the interval."""
    rows = [
        [
            day_of(each.day).isoformat(),
            usd(each.spent_usd),
            usd(each.forecast_usd),
            f"{usd(each.low_usd)} to {usd(each.high_usd)}",
            usd(each.actual_usd),
            f"{each.error:+.0%}",
            "yes" if each.is_inside else "**no**",
        ]
        for each in made
    ]
    names = ["made on", "spent by then", "forecast", "80 % interval", "came to", "error", "inside"]
    inside = sum(each.is_inside for each in made)
    return table(names, rows) + f"\n\n{inside} of {len(made)} outcomes lie in the interval."
