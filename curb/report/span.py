"""The days a report is about, and the days it is compared with."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from curb.stream.time import period_around

ReportPeriod = Literal["week", "month"]


class ReportSpan(NamedTuple):
    """From `start` up to `end` (epoch seconds, exclusive), in whole or part days of `zone`."""

    start: float
    end: float
    zone: ZoneInfo

    @property
    def first_day(self) -> date:
        return datetime.fromtimestamp(self.start, self.zone).date()

    @property
    def last_day(self) -> date:
        return datetime.fromtimestamp(self.end - 1e-3, self.zone).date()

    @property
    def days(self) -> list[date]:
        """Every local day of it."""
        return [self.first_day + timedelta(days=n) for n in range((self.last_day - self.first_day).days + 1)]

    @property
    def before(self) -> ReportSpan:
        """The span of the same kind that ends where this one starts: the calendar period, else as many days."""
        for period in ("month", "week"):
            if period_around(self.start, period, self.zone) == (self.start, self.end):
                return ReportSpan(*period_around(self.start - 1, period, self.zone), self.zone)
        start = datetime.fromtimestamp(self.start, self.zone) - timedelta(days=len(self.days))
        return ReportSpan(start.timestamp(), self.start, self.zone)

    def day_of(self, at: float) -> date:
        """The local day of a moment (epoch seconds)."""
        return datetime.fromtimestamp(at, self.zone).date()

    def __str__(self) -> str:
        return f"{self.first_day} to {self.last_day}"


def midnight(day: date, zone: ZoneInfo) -> float:
    """Epoch seconds of the start of a local day."""
    return datetime.combine(day, time(), zone).timestamp()


def span_of(period: ReportPeriod, since: str | None, until: str | None, now: float, zone: ZoneInfo) -> ReportSpan:
    """The span that is asked for; by default the last full `period` before `now` (epoch seconds).

    `since` and `until` are local days, or moments with a zone; `until` is not included. With one of them the other is
    the edge of its period. Raises ValueError for text that is no date, and for an empty span.
    """
    if since is None and until is None:
        this_one, _ = period_around(now, period, zone)
        return ReportSpan(*period_around(this_one - 1, period, zone), zone)
    start = None if since is None else _moment(since, zone)
    end = None if until is None else _moment(until, zone)
    if start is None:
        assert end is not None
        start = period_around(end - 1, period, zone)[0]
    if end is None:
        end = period_around(start, period, zone)[1]
    if not start < end:
        raise ValueError(f"--from {since} is not before --to {until}")
    return ReportSpan(start, end, zone)


def _moment(text: str, zone: ZoneInfo) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date such as 2026-10-01 or 2026-10-01T12:00+00:00") from None
    try:
        at = (found if found.tzinfo else found.replace(tzinfo=zone)).timestamp()
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} is out of range") from None
    if not datetime(2000, 1, 1, tzinfo=UTC).timestamp() <= at <= datetime(2096, 1, 1, tzinfo=UTC).timestamp():
        raise ValueError(f"{text!r} is out of range")
    return at
