"""Days, weeks, months, quarters and custom periods of a time zone, as epoch seconds."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from curb.detector.budgets.budget import Period


def period_around(
    at: float, period: Period, zone: ZoneInfo, length_days: int | None = None, anchor: date | None = None
) -> tuple[float, float]:
    """Begin and end of the period that `at` falls into; the end is the begin of the next.

    A custom period is `length_days` long and one begins on `anchor`; the others take neither.
    """
    day = datetime.fromtimestamp(at, zone).date()
    if period == "custom":
        if length_days is None or anchor is None:
            raise ValueError("a custom period needs length_days and anchor")
        start = day - timedelta(days=(day - anchor).days % length_days)
        end = start + timedelta(days=length_days)
    elif period == "day":
        start, end = day, day + timedelta(days=1)
    elif period == "week":
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        months = 1 if period == "month" else 3
        start = day.replace(day=1, month=day.month - (day.month - 1) % months)
        # The first of the month that is `months` later, whatever the months' lengths.
        after = start.year * 12 + start.month - 1 + months
        end = date(after // 12, after % 12 + 1, 1)
    return _midnight(start, zone), _midnight(end, zone)


@lru_cache(maxsize=4096)
def _midnight(day: date, zone: ZoneInfo) -> float:
    # Arithmetic above is on the calendar; each end finds its own offset from UTC.
    return datetime.combine(day, time(), zone).timestamp()
