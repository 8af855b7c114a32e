"""Dollars and chances as text."""

from __future__ import annotations

from decimal import Decimal

#: Dollars that are shown as more than none.
_LEAST = 1e-6


def usd(amount: float) -> str:
    """Dollars and cents for people, such as "-$1,234.50"; two digits of what is less than a cent, such as "$0.0012".

    Less than a millionth of a dollar is nothing.
    """
    sign, amount = "-" if amount < 0 else "", abs(amount)
    if _LEAST <= amount < 0.01:
        return f"{sign}${Decimal(f'{amount:.2g}'):f}"
    return f"{sign if amount >= _LEAST else ''}${amount:,.2f}"


def chance(probability: float) -> str:
    """A probability for people, such as "88%": what is not decided is neither "0%" nor "100%"."""
    if probability >= 1.0:
        return "100%"
    return "<1%" if probability < 0.01 else ">99%" if probability > 0.99 else f"{probability:.0%}"
