"""Hours of the business day and week in a local time zone, right across clock changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

#: A day of which a smaller share was seen is not compared with others. Chosen by hand.
WHOLE_SHARE = 0.75


@dataclass(frozen=True)
class LocalHour:
    """The local hour that holds a moment."""

    #: Epoch seconds of the start of the hour; it differs for the two 2 o'clocks of an autumn night.
    start: int
    #: Hour of the week, 0 to 167 from Monday midnight.
    of_week: int
    #: Days since 1970-01-01, local.
    day: int
    #: How far into the hour the moment is, 0 to 1.
    fraction: float

    @property
    def of_day(self) -> int:
        """Hour of the day, 0 to 23."""
        return self.of_week % 24


@lru_cache(maxsize=64)  # every part asks for the same moments of a bucket
def local_hour(at: int, zone: ZoneInfo) -> LocalHour:
    """The local hour of `at` (epoch seconds)."""
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    local = at + (int(offset.total_seconds()) if offset is not None else 0)
    # 1 January 1970 was a Thursday, hour 72 of its week.
    return LocalHour(at - local % 3600, (local // 3600 + 72) % 168, local // 86400, (local % 3600) / 3600)
