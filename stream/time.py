"""Lengths of time in seconds, moments as text, and the calendar periods of a time zone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal, overload
from zoneinfo import ZoneInfo

HOUR_S, DAY_S = 3600, 86_400

#: Epoch seconds of the first and the last moment shown: a day inside the years 1 to 9999, which datetime ends at, so
#: that every time zone can show them.
_FIRST_S, _LAST_S = -62_135_510_400.0, 253_402_214_400.0

Period = Literal["day", "week", "month", "quarter", "custom"]


def moment(at: float, zone: tzinfo = UTC) -> datetime:
    """Epoch seconds on the clock of `zone`, for any number: what lies outside the years 1 to 9999 is their end.

    Times come from others, who may send milliseconds or NaN; showing them must not fail. NaN is the first moment.
    """
    return datetime.fromtimestamp(min(at, _LAST_S) if at > _FIRST_S else _FIRST_S, zone)


@overload
def iso(at: float, timespec: str = "seconds") -> str: ...


@overload
def iso(at: float | None, timespec: str = "seconds") -> str | None: ...


def iso(at: float | None, timespec: str = "seconds") -> str | None:
    """RFC 3339 in UTC of epoch seconds, such as 2026-03-01T18:00:00Z; None for None. Any number has a text."""
    return None if at is None else moment(at).isoformat(timespec=timespec).replace("+00:00", "Z")


def utc(at: float) -> str:
    """A moment for people, to the minute, such as "2026-03-01 18:00 UTC"."""
    return moment(at).strftime("%Y-%m-%d %H:%M UTC")


def period_around(
    at: float, period: Period, zone: ZoneInfo, length_days: int | None = None, anchor: date | None = None
) -> tuple[float, float]:
    """Start and end (epoch seconds) of the period that `at` falls into; the end is the start of the next.

    A custom period is `length_days` long and one starts on `anchor`; the others take neither.
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


def grid_of(starts: Iterable[float]) -> int:
    """The largest step in seconds on which all of some times lie, wherever it begins.

    0 where fewer than two differ, or where one is no whole second: those are moments.
    """
    distinct = sorted(set(starts))
    if any(start % 1 for start in distinct):
        return 0
    return math.gcd(*(int(start - distinct[0]) for start in distinct))
