"""Alerts in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping

from stream.records import UNTAGGED

#: Longer tag values, such as hashes of keys, are shown by their first characters.
_SHOWN = 16


def usd(amount: float) -> str:
    """Dollars as people write them."""
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    if 0 < amount < 0.01:
        return f"{sign}${amount:.2g}"
    return f"{sign}${amount:,.2f}"


def duration(seconds: float) -> str:
    """Minutes, hours or days, whichever says it shortest."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def subject(scope: str, tags: Mapping[str, str]) -> str:
    """The series in words: the last tag it carries names it, the others follow in brackets."""
    carried = [(tag, _short(value)) for tag, value in tags.items() if value != UNTAGGED]
    if not carried:
        return f"{scope} without tags"
    *others, (_, name) = carried
    return f"{scope} {name}" + (f" ({', '.join(f'{tag} {value}' for tag, value in others)})" if others else "")


def runaway(who: str, rate: float, expected_rate: float, lasting_s: float, excess_usd: float, window: str) -> str:
    """Rates in $/h."""
    return (
        f"{who} burns {usd(rate)}/h, expected {usd(expected_rate)}/h, for {duration(lasting_s)}: "
        f"{usd(excess_usd)} over expected; decided by the {window} window."
    )


def new_principal(who: str, rate: float, spent_usd: float, age_s: float, limit_usd: float) -> str:
    """`age_s` since it was first seen."""
    return (
        f"{who} was never seen before and has spent {usd(spent_usd)} in its first {duration(age_s)} "
        f"(limit {usd(limit_usd)}); it burns {usd(rate)}/h."
    )


def budget(who: str, name: str, spent_usd: float, amount_usd: float, period: str, rate: float, left_s: float) -> str:
    """`left_s` is what remains of the period."""
    return (
        f"{who} has spent {usd(spent_usd)} of the {usd(amount_usd)} of budget {name} for this {period} "
        f"({100 * spent_usd / amount_usd:.0f} %) with {duration(left_s)} to go; it burns {usd(rate)}/h."
    )


def pricing(model: str, source: str, requests: int, tokens: int, fallback_usd: float) -> str:
    """What a model without a price has used so far."""
    return (
        f"model {_short(model, 64) or '(unnamed)'} is in no price book: {tokens:,} tokens in {requests:,} requests "
        f"from {source or 'an unnamed source'} were priced by the fallback at {usd(fallback_usd)}."
    )


def _short(value: str, shown: int = _SHOWN) -> str:
    clean = "".join(each if each.isprintable() else "?" for each in value)
    return clean if len(clean) <= shown + 4 else clean[:shown] + "…"
