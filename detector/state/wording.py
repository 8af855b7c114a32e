"""Alerts in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from curb.stream.money import usd
from curb.stream.records.spend import UNTAGGED

#: Longer tag values, such as hashes of keys, are shown by their first characters.
_SHOWN = 16


def duration(seconds: float) -> str:
    """A duration in minutes, hours or days, whichever is shortest."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def days(seconds: float) -> str:
    """A duration in whole days, at least one."""
    count = max(1, round(seconds / 86400))
    return "1 day" if count == 1 else f"{count} days"


def rate(usd_per_hour: float, *, by_day: bool) -> str:
    """Such as "$2.74/h", of a bill "$65.76 a day"."""
    return f"{usd(24 * usd_per_hour)} a day" if by_day else f"{usd(usd_per_hour)}/h"


def billed_until(at: float) -> str:
    """How far a bill is known."""
    return f"Billed, data up to {datetime.fromtimestamp(at, UTC):%A, %Y-%m-%d %H:%M} UTC."


def subject(scope: str, tags: Mapping[str, str]) -> str:
    """The series in words: the last tag it carries names it, the others follow in brackets."""
    carried = [(tag, short(value)) for tag, value in tags.items() if value != UNTAGGED]
    if not carried:
        return f"{scope} without tags"
    *others, (_, name) = carried
    return f"{scope} {name}" + (f" ({', '.join(f'{tag} {value}' for tag, value in others)})" if others else "")


def pricing(model: str, source: str, requests: int, tokens: int, fallback_usd: float) -> str:
    """Use of a model without a price."""
    return (
        f"model {short(model, 64) or '(unnamed)'} is in no price book: {tokens:,} tokens in {requests:,} requests "
        f"from {source or 'an unnamed source'} were priced by the fallback at {usd(fallback_usd)}."
    )


def gpu_pricing(model: str, source: str, gpu_hours: float, fallback_usd: float) -> str:
    """Use of GPUs without a price."""
    return (
        f"GPU {short(model, 64) or '(unnamed)'} is in no price list: {gpu_hours:,.1f} GPU hours "
        f"from {source or 'an unnamed source'} were priced by the fallback at {usd(fallback_usd)}."
    )


def short(value: str, shown: int = _SHOWN) -> str:
    """A tag value in a form fit for display."""
    clean = "".join(each if each.isprintable() else "?" for each in value)
    return clean if len(clean) <= shown + 4 else clean[:shown] + "…"
