"""Days, weeks, months and quarters of a time zone, as epoch seconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from detector.settings import Period


def period_around(at: float, period: Period, zone: ZoneInfo) -> tuple[float, float]:
    """Begin and end of the period that `at` falls into; the end is the begin of the next."""
    day = datetime.fromtimestamp(at, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "day":
        start, end = day, day + timedelta(days=1)
    elif period == "week":
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        months = 1 if period == "month" else 3
        start = day.replace(day=1, month=day.month - (day.month - 1) % months)
        end = (start + timedelta(days=31 * months)).replace(day=1)
        if period == "quarter" and (end.month - 1) % 3:
            end = end.replace(month=end.month - (end.month - 1) % 3)
    # Arithmetic above is on the wall; each end finds its own offset from UTC.
    return start.timestamp(), end.timestamp()
