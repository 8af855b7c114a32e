"""Dollars as text."""

from __future__ import annotations


def usd(amount: float) -> str:
    """Dollars and cents for people, such as "-$1,234.50"; two digits of what is less than a cent, such as "$0.0012"."""
    sign, amount = "-" if amount < 0 else "", abs(amount)
    return f"{sign}${amount:.2g}" if 0 < amount < 0.01 else f"{sign}${amount:,.2f}"
