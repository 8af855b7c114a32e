"""Forecast of a budget's period, for all rows of one calendar at once: total, date and probability of a breach.

For every row: spend so far + the rest of today at the mean of the pace and the expected rate + level x weekday factor
for each day ahead. `curb.detector.forecast.month_end` looks at one series at a time (57 ms with 56 days) and needs
whole days; this one also answers for a row that is an hour old, and for a thousand rows in 3 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Floats
from curb.stream.time import DAY_S

#: Days from which weekdays count: every weekday twice. The level then follows with this share a day, the memory of
#: `forecast.methods.LEVEL_SHARE`.
_WEEKDAYS_FROM, _LEVEL_SHARE = 14, 0.15
#: A weekday is between so many usual days. Chosen by hand: a weekend of no spend and a weekly batch both fit.
_FACTOR_MIN, _FACTOR_MAX = 0.1, 4.0
#: Standard deviation of the level as a share of itself: no whole day, under two weeks, later. Chosen by hand.
_DOUBT_NEW, _DOUBT_YOUNG, _DOUBT = 0.5, 0.2, 0.1
#: Least standard deviation of a day, as a share of the level. Chosen by hand: a constant past promises nothing.
_MIN_DAY_SD = 0.05
#: 80 % of a normal distribution lie within so many standard deviations of its mean.
_SD_80 = 1.2816
#: The same of Student's t with four degrees of freedom, whose distribution has a closed form.
_T_80 = 1.5332


class Pace(NamedTuple):
    """Rows of one calendar. Arrays of shape (rows,), but for `daily_usd` of (days, rows). Dollars, epoch seconds."""

    #: Complete days before today, oldest first; NaN where the row was not known.
    daily_usd: Floats
    spent_usd: Floats
    amount_usd: Floats
    #: Mean of the last six hours.
    usd_per_hour: Floats
    now: float
    #: End of the local day, and its weekday (0 is Monday).
    day_end: float
    weekday: int
    period_end: float
    #: What of `spent_usd` was charged after `now`, which is then how far a bill is known.
    ahead_usd: Floats | float = 0.0
    #: Charges that are no pace and still to come, by day from today on, shape (days, rows), and the deviation of all.
    charges_usd: Floats | None = None
    charges_sd: Floats | float = 0.0


class Outlook(NamedTuple):
    """By row: dollars at the end of the period with the ends of an 80 % interval, and the breach of the budget.

    `breach_at` is NaN where the expected spend stays within the amount.
    """

    total_usd: Floats
    low_usd: Floats
    high_usd: Floats
    breach_at: Floats
    breach_probability: Floats


#: The seam: any method that turns a pace into an outlook.
Forecast = Callable[[Pace], Outlook]


def outlook(pace: Pace) -> Outlook:
    """The forecast of each row.

    The level is the mean of the last week; from two weeks on it is an exponentially weighted mean, times weekday
    factors. The standard deviation adds the doubt about the level (all days together) and the spread of single days.
    """
    level, factors, doubt, day_sd = _daily(pace)
    left_today_h = max(0.0, min(pace.day_end, pace.period_end) - pace.now) / 3600
    days = max(0, round((pace.period_end - pace.day_end) / DAY_S))
    known = np.isfinite(pace.daily_usd).any(axis=0)
    expected_now = level * factors[pace.weekday] / 24
    rate = np.where(known, (pace.usd_per_hour + expected_now) / 2, pace.usd_per_hour)
    today = rate * left_today_h
    weekdays = (pace.weekday + 1 + np.arange(days)) % 7
    ahead = level * factors[weekdays]
    pace_usd = today + ahead.sum(axis=0)
    rest = np.maximum(pace_usd - pace.ahead_usd, 0.0)
    sd = np.sqrt((doubt * pace_usd) ** 2 + (days + left_today_h / 24) * day_sd**2 + pace.charges_sd**2)
    charges = np.zeros((days + 1, len(rest)))
    if pace.charges_usd is not None:
        charges[: len(pace.charges_usd)] = pace.charges_usd[: days + 1]
    to_come = charges.sum(axis=0)
    total = pace.spent_usd + rest + to_come
    return Outlook(
        total,
        np.maximum(pace.spent_usd + np.minimum(to_come, 0.0), total - _SD_80 * sd),
        total + _SD_80 * sd,
        _breach_at(pace, rate, today + charges[0], ahead + charges[1:]),
        _probability_over(pace, total, sd),
    )


def _daily(pace: Pace) -> tuple[Floats, Floats, Floats, Floats]:
    """Level ($ a day), weekday factors (7, rows), doubt about the level (a share), and deviation of a day ($)."""
    usd = np.maximum(pace.daily_usd, 0.0)
    known = np.isfinite(pace.daily_usd)
    count = known.sum(axis=0)
    weekday = (pace.weekday - np.arange(len(usd), 0, -1)) % 7
    factors = np.where(count >= _WEEKDAYS_FROM, _factors(usd, known, weekday), 1.0)
    flat = np.where(known, usd, 0.0) / factors[weekday]
    week = known & (np.arange(len(usd))[:, None] >= len(usd) - 7)
    mean = np.where(week, flat, 0.0).sum(axis=0) / np.maximum(week.sum(axis=0), 1)
    level = np.where(count >= _WEEKDAYS_FROM, _followed(flat, known), mean)
    level = np.where(count > 0, level, 24 * pace.usd_per_hour)
    squares = np.where(known, (flat - level) ** 2, 0.0)[-28:]
    day_sd = np.sqrt(squares.sum(axis=0) / np.maximum(known[-28:].sum(axis=0), 1))
    doubt = np.where(count >= _WEEKDAYS_FROM, _DOUBT, np.where(count > 0, _DOUBT_YOUNG, _DOUBT_NEW))
    return level, factors, doubt, np.maximum(day_sd, _MIN_DAY_SD * level)


def _factors(usd: Floats, known: NDArray[np.bool_], weekday: NDArray[np.int64]) -> Floats:
    """Each weekday's mean over the mean of all of the last four weeks, shape (7, rows)."""
    usd, known, weekday = np.where(known, usd, 0.0)[-28:], known[-28:], weekday[-28:]
    mean = usd.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    of_day = np.stack([usd[weekday == each].sum(axis=0) for each in range(7)])
    visits = np.stack([known[weekday == each].sum(axis=0) for each in range(7)])
    factors = of_day / np.maximum(visits, 1) / np.where(mean > 0, mean, 1.0)
    return np.where((mean > 0) & (visits > 0), np.clip(factors, _FACTOR_MIN, _FACTOR_MAX), 1.0)


def _followed(flat: Floats, known: NDArray[np.bool_]) -> Floats:
    """Exponentially weighted mean of the days that are known, the newest heaviest."""
    weight = np.where(known, (1 - _LEVEL_SHARE) ** np.arange(len(flat) - 1, -1, -1)[:, None], 0.0)
    level: Floats = (weight * flat).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
    return level


def _breach_at(pace: Pace, rate: Floats, today: Floats, ahead: Floats) -> Floats:
    need = pace.amount_usd - pace.spent_usd + pace.ahead_usd
    at = np.full(len(need), np.nan)
    if len(ahead):
        sums = today + np.cumsum(ahead, axis=0)
        reached = sums >= need
        first = reached.argmax(axis=0)
        before = np.take_along_axis(sums - ahead, first[None], axis=0)[0]
        usd = np.take_along_axis(ahead, first[None], axis=0)[0]
        part = (need - before) / np.maximum(usd, 1e-12)
        at = np.where(reached.any(axis=0), pace.day_end + (first + np.clip(part, 0.0, 1.0)) * DAY_S, at)
    soon = need <= today
    at = np.where(soon, pace.now + 3600 * need / np.maximum(rate, 1e-12), at)
    at = np.where(pace.spent_usd >= pace.amount_usd, pace.now, at)
    # A day of a clock change may be an hour short.
    capped: Floats = np.minimum(at, pace.period_end)
    return capped


def _probability_over(pace: Pace, total: Floats, sd: Floats) -> Floats:
    """By Student's t with four degrees of freedom, scaled to the same 80 % interval.

    A level that moves within the period makes misses of three deviations and more: a normal distribution would call
    them impossible.
    """
    t = (total - pace.amount_usd) / np.maximum(sd, 1e-9) * (_T_80 / _SD_80)
    root = 1 + t**2 / 4
    share = 0.5 + 0.375 * t / np.sqrt(root) * (1 - t**2 / (12 * root))
    over: Floats = np.where(pace.spent_usd >= pace.amount_usd, 1.0, share)
    return over
