"""Hours of the week in which a provider charges its off-peak prices."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

_MINUTES = 24 * 60
_SPAN = re.compile(r"^([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)$")
_WEEK = frozenset(range(1, 8))


class _Window(NamedTuple):
    #: ISO weekdays, Monday is 1.
    weekdays: frozenset[int]
    #: Minutes of the day, from and until.
    start: int
    end: int


class Hours(NamedTuple):
    """A set of spans of the week."""

    windows: tuple[_Window, ...]
    #: Where the weekdays are counted; the hours are UTC.
    zone: str = "UTC"

    @classmethod
    def of(cls, windows: Any, zone: str = "UTC") -> Hours:
        """From a list of `{"hours_utc": "HH:MM-HH:MM" or a list of them, "weekdays": [1..7]}`.

        "00:00" as an end is midnight, an end before its start lies on the next day. Raises ValueError.
        """
        if not isinstance(windows, list):
            raise ValueError("a list of `windows` is needed")
        try:
            ZoneInfo(zone)
        except (OSError, ValueError, KeyError):
            raise ValueError(f"no time zone {zone}") from None
        found: list[_Window] = []
        for each in windows:
            spans = each.get("hours_utc") if isinstance(each, dict) else None
            days = each.get("weekdays", sorted(_WEEK)) if isinstance(each, dict) else None
            if not isinstance(days, list) or not _WEEK.issuperset(day for day in days if isinstance(day, int)):
                raise ValueError("`weekdays` must be numbers from 1 (Monday) to 7")
            for span in [spans] if isinstance(spans, str) else spans or ():
                found += _windows(frozenset(days), span)
        return cls(tuple(found), zone)

    def hold(self, time: float) -> bool:
        """True at a time, in epoch seconds."""
        moment = datetime.fromtimestamp(time, UTC)
        minute, day = moment.hour * 60 + moment.minute, moment.astimezone(ZoneInfo(self.zone)).isoweekday()
        return any(day in each.weekdays and each.start <= minute < each.end for each in self.windows)


def _windows(weekdays: frozenset[int], span: Any) -> list[_Window]:
    read = _SPAN.match(span) if isinstance(span, str) else None
    if read is None:
        raise ValueError("`hours_utc` must be spans such as 16:30-00:30")
    hour, minute, end_hour, end_minute = map(int, read.groups())
    start, end = hour * 60 + minute, end_hour * 60 + end_minute
    if end > start:
        return [_Window(weekdays, start, end)]
    rest = frozenset(day % 7 + 1 for day in weekdays)
    return [_Window(weekdays, start, _MINUTES), *([_Window(rest, 0, end)] if end else [])]
