"""Charges that come by the month: what to expect of a day, from the same day of the months before."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np

from curb.detector.state.columns import Floats, Ints

#: Days of charges that are looked at: three months, and a month ahead, for which a bill may charge already.
CHARGE_DAYS, AHEAD_DAYS = 128, 31
#: Months of which the charges of a day of the month are the mean, at most. By hand: prices of a year ago are others.
MONTHS = 3
#: Share of the expected charge of a day from which a known one stands for it. By hand: it came, at another price.
_CAME = 0.5
#: Least deviation of the charges to come, a share: of one month known, and of more. By hand: seats come and go.
_DOUBT_NEW, _DOUBT = 0.3, 0.1


def charges_to_come(of: Callable[[Ints], Floats], first: Ints, start: int, end: int) -> tuple[Floats, Floats]:
    """Charges that are still to come on the days from `start` until before `end` (days since 1970): dollars by day and
    row, and the deviation of all, by row.

    `of` gives those known of some days, shape (days, rows); each row is known from its `first` day on. What comes on a
    day is the mean of the same day of the last months, less what is known of it.
    """
    days = max(0, end - start)
    months = np.full((MONTHS, days, len(first)), np.nan)
    for at in range(days):
        for month, day in enumerate(_same_days(start + at, start)):
            months[month, at] = np.where(first <= day, of(np.array([day]))[0], np.nan)
    whole = np.isfinite(months)
    count = whole.sum(axis=0)
    usd = np.where(whole, months, 0.0).sum(axis=0) / np.maximum(count, 1)
    known = of(np.arange(start, max(start, end)))
    came = np.abs(known) >= _CAME * np.abs(usd)
    to_come: Floats = np.where(came, 0.0, usd - known)
    of_month = np.where(whole & ~came, months, 0.0).sum(axis=1)
    several = count.max(axis=0, initial=0) > 1
    spread = np.where(several, of_month.std(axis=0), 0.0)
    doubt = np.where(several, _DOUBT, _DOUBT_NEW)
    return to_come, np.maximum(spread, doubt * np.abs(to_come).sum(axis=0))


def _same_days(day: int, before: int) -> list[int]:
    """The same day of the last months, as days since 1970 before `before`; a short month has none of its own."""
    of, found = date(1970, 1, 1) + timedelta(days=day), []
    month = of.year * 12 + of.month - 1
    for back in range(1, MONTHS + 4):
        year, number = divmod(month - back, 12)
        if of.day <= monthrange(year, number + 1)[1]:
            same = (date(year, number + 1, of.day) - date(1970, 1, 1)).days
            if same < before and before - same < CHARGE_DAYS - AHEAD_DAYS:
                found.append(same)
    return found[:MONTHS]
