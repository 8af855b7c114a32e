"""Days of spend prepared for a forecast: fixed charges of the first of a month, credits and gaps are set apart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Floats
from curb.detector.state.local_time import WHOLE_SHARE

#: Day 0.
_EPOCH = date(1970, 1, 1)
#: A first of the month carries a fixed charge when it costs this many times the median of the days around it, and so
#: many days before and after are compared. Chosen by hand: subscriptions are far above a day of use.
_CHARGE_RATIO, _AROUND_DAYS = 2.0, 7
#: A day under this share of the median day is empty. Up to so many empty days in a row are a gap of the bill or a
#: credit, if under this share of the days looked at before was empty; more in a row is the new level. Chosen by hand.
_EMPTY_SHARE, _GAP_DAYS, _GAP_RARE, _GAP_LOOK_DAYS = 0.02, 7, 0.15, 28
#: Known days before a run of empty days, at least, to call it a gap: a week.
_MIN_LOOK_DAYS = 7
#: The first day of a series is left out when more than so many days are known: it rarely began at midnight.
_FIRST_DAY_COUNTS_UNTIL = 3


@dataclass(frozen=True)
class DailySpend:
    """Dollars per local day, shape (days,), without holes; NaN where nothing is known."""

    #: Days since 1 January 1970.
    first_day: int
    usd: Floats
    #: Share of each day that was seen, 0 to 1; None: every day that is not NaN was seen in whole.
    seen: Floats | None = None

    @property
    def end_day(self) -> int:
        """The day after the last one."""
        return self.first_day + len(self.usd)

    def until(self, end_day: int) -> DailySpend:
        """The days before `end_day`."""
        count = max(0, end_day - self.first_day)
        return DailySpend(self.first_day, self.usd[:count], None if self.seen is None else self.seen[:count])

    def between(self, first_day: int, end_day: int) -> Floats:
        """Dollars of the days from `first_day` to before `end_day` that are held."""
        return self.usd[max(0, first_day - self.first_day) : max(0, end_day - self.first_day)]

    @property
    def shares(self) -> Floats:
        """Share of each day that was seen; 0 for a day that is NaN."""
        seen = np.ones(len(self.usd)) if self.seen is None else self.seen
        return np.where(np.isnan(self.usd), 0.0, seen)

    @property
    def whole(self) -> Floats:
        """Dollars of the days of which enough was seen to compare them; NaN for the others."""
        return np.where(self.shares < WHOLE_SHARE, np.nan, self.usd)


@dataclass(frozen=True)
class CleanDays:
    """Days to learn from, and the fixed charge that is taken out of them."""

    #: Starts with the first day of spend; NaN for a day that says nothing about usual ones.
    first_day: int
    usd: Floats
    #: Dollars of the fixed charge on every first of a month.
    month_start_usd: float

    @property
    def end_day(self) -> int:
        """The day after the last one."""
        return self.first_day + len(self.usd)

    @property
    def known_days(self) -> int:
        """Number of days to learn from."""
        return int(np.sum(~np.isnan(self.usd)))


def day_of(day: int) -> date:
    """The calendar day of a count from 1 January 1970."""
    return _EPOCH + timedelta(days=day)


def number_of(day: date) -> int:
    """The count of a calendar day from 1 January 1970."""
    return (day - _EPOCH).days


def month_starts(first_day: int, end_day: int) -> list[int]:
    """Firsts of months from `first_day` to before `end_day`, as positions from `first_day`."""
    return [i for i in range(end_day - first_day) if day_of(first_day + i).day == 1]


def clean(days: DailySpend) -> CleanDays:
    """Take out credits, gaps of the bill and fixed charges.

    A credit (a negative day) does not say what days cost, and is not expected again. Days before the first spend are
    unknown, not empty.
    """
    spent = np.flatnonzero(days.usd > 0)
    if not len(spent):
        return CleanDays(days.end_day, np.zeros(0), 0.0)
    first = int(spent[0])
    if len(days.usd) - first > _FIRST_DAY_COUNTS_UNTIL:
        first += 1
    whole = days.whole[first:]
    usd = np.where(whole < 0, np.nan, whole)
    first_day = days.first_day + first
    usd[_gaps(usd)] = np.nan
    charges = []
    for at in month_starts(first_day, days.end_day):
        around = np.concatenate((usd[max(0, at - _AROUND_DAYS) : at], usd[at + 1 : at + 1 + _AROUND_DAYS]))
        around = around[~np.isnan(around)]
        if np.isnan(usd[at]) or len(around) < 3:
            continue
        usual, highest = float(np.median(around)), float(around.max())
        charge = usd[at] - usual if usd[at] > max(_CHARGE_RATIO * usual, 1.2 * highest) else 0.0
        charges.append(charge)
        usd[at] -= charge
    return CleanDays(first_day, usd, float(np.median(charges)) if charges else 0.0)


def _gaps(usd: Floats) -> NDArray[np.bool_]:
    """True for short runs of empty days in a series that is rarely empty. Later days change an earlier answer only
    within their run."""
    gaps = np.zeros(len(usd), np.bool_)
    at = 0
    while at < len(usd):
        before = usd[max(0, at - _GAP_LOOK_DAYS) : at][~gaps[max(0, at - _GAP_LOOK_DAYS) : at]]
        before = before[~np.isnan(before)]
        if len(before) < _MIN_LOOK_DAYS:
            at += 1
            continue
        limit = _EMPTY_SHARE * float(np.median(before))
        run = 0
        while at + run < len(usd) and usd[at + run] <= limit:
            run += 1
        if 0 < run <= _GAP_DAYS and np.mean(before <= limit) < _GAP_RARE:
            gaps[at : at + run] = True
        at += max(run, 1)
    return gaps
