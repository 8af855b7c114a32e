"""Lengths of time in seconds, and moments as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

HOUR_S, DAY_S = 3600, 86_400


@overload
def iso(at: float, timespec: str = "seconds") -> str: ...


@overload
def iso(at: float | None, timespec: str = "seconds") -> str | None: ...


def iso(at: float | None, timespec: str = "seconds") -> str | None:
    """RFC 3339 in UTC of epoch seconds, such as 2026-03-01T18:00:00Z; None for None."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def utc(at: float) -> str:
    """A moment for people, to the minute, such as "2026-03-01 18:00 UTC"."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
