"""Days of spend made fit for forecasting: fixed charges of the month's first day, credits and odd gaps set apart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EPOCH = date(1970, 1, 1)
#: A first of the month carries a fixed charge when it is this many times a usual day of the days around it.
_CHARGE_RATIO = 2.0
_AROUND_DAYS = 7
#: A day under this share of a usual day is empty. So many empty days in a row may be a gap of the bill or a credit,
#: when fewer than the given share of the days before were empty; more in a row is how it is now.
_EMPTY_SHARE, _GAP_DAYS, _GAP_RARE, _GAP_LOOK_DAYS = 0.02, 7, 0.15, 28
_MIN_LOOK_DAYS = 7
#: A day of which less was seen is not compared with others.
_WHOLE_SHARE = 0.75
#: With so many days after it, a series' first day is left out: it rarely began at midnight.
_FIRST_DAY_COUNTS_UNTIL = 3


@dataclass(frozen=True)
class DailySpend:
    """Dollars per local day, without holes; NaN where nothing is known."""

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
        """The days of which enough was seen to be compared with others, the rest NaN."""
        return np.where(self.shares < _WHOLE_SHARE, np.nan, self.usd)


@dataclass(frozen=True)
class CleanDays:
    """What methods learn from, and what they must not know."""

    #: Begins with the first day of spend; NaN where a day says nothing about usual ones.
    first_day: int
    usd: Floats
    #: Dollars that every first of a month costs besides.
    month_start_usd: float

    @property
    def end_day(self) -> int:
        """The day after the last one."""
        return self.first_day + len(self.usd)

    @property
    def known_days(self) -> int:
        """How many days there are to learn from."""
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
    """Take credits, gaps of the bill and fixed charges out.

    A credit (a negative day) is no sign of what days cost, and is not expected again. Days before the first spend are
    not days without spend.
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
    """Short runs of empty days in a series that is hardly ever empty. What comes later changes no earlier verdict
    except within the run."""
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
