"""Figures of a report as text: cents that add up, changes, unit costs, names of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from curb.format import printable
from curb.report.figures import GroupRow, Quotient, SpendReport
from curb.stream.money import usd
from curb.stream.records.spend import OTHER, UNTAGGED

#: The kinds of money for people.
_MONEY = {
    "estimated": "estimated from usage",
    "billed": "billed",
    "both": "estimated and billed, added up",
}
#: What stands for the values that are no names.
_VALUES = {UNTAGGED: "untagged", OTHER: "other"}


def cents(amounts: Sequence[float], total: float) -> list[int]:
    """Whole cents of each amount that add up to the cents of `total`: those with the largest rest are rounded up."""
    whole = [math.floor(amount * 100) for amount in amounts]
    missing = int(Decimal(f"{total:.2f}") * 100) - sum(whole)
    order = sorted(range(len(amounts)), key=lambda i: whole[i] - amounts[i] * 100)
    for place in range(missing):
        whole[order[place % len(order)]] += 1
    return whole


def dollars(cents: int) -> str:
    """Such as "-$1,234.50"."""
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def amount(number: float) -> str:
    """A number for programs: exact to ten digits after the point, never with an exponent."""
    text = f"{number:.10f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def change(part: float | None, *, before: float | None = None, after: float = 1.0) -> str:
    """Such as "+12 %"; "new" for what cost nothing before; empty where nothing is compared."""
    if part is None:
        return "new" if before == 0 and after > 0 else ""
    return f"{part:+.0%}".replace("%", " %") if abs(part) < 10 else f"×{1 + part:,.0f}"


def percent(part: float | None) -> str:
    """Such as "12.3 %"; empty for None."""
    return "" if part is None else f"{part:.1%}".replace("%", " %")


def each(quotient: Quotient | None) -> str:
    """Dollars for one unit with the change, such as "$0.012 +4 %"; mills where that is less than a dollar."""
    if quotient is None or quotient.usd_each is None:
        return ""
    cost = quotient.usd_each
    shown = f"{'-' if cost < 0 else ''}${abs(cost):.3f}" if 0.01 <= abs(cost) < 1 else usd(cost)
    return f"{shown} {change(quotient.change)}".strip()


def value_name(value: str) -> str:
    """A value of a tag for people."""
    return printable(_VALUES.get(value, value))


def name_of(tags: Mapping[str, str]) -> str:
    """The values of a group in one line."""
    return " · ".join(map(value_name, tags.values())) or "all"


def tag_line(tags: Mapping[str, str]) -> str:
    """Tags as `key=value`."""
    return printable(" ".join(f"{key}={value}" for key, value in tags.items()))


def shortened(report: SpendReport, most: int) -> tuple[list[GroupRow], int, float]:
    """The first `most` groups, how many others there are, and their dollars."""
    rest = report.groups[most:]
    return report.groups[:most], len(rest), math.fsum(row.spend_usd for row in rest)


def headline(report: SpendReport) -> list[str]:
    """The report in a few sentences."""
    total = report.total
    against = f" ({change(total.change)} against {report.before_first_day} to {report.before_last_day})"
    lines = [f"{usd(total.spend_usd)} {_MONEY[report.money]}" + (against if total.change is not None else "")]
    lines += [f"{percent(part)} of it has no {printable(tag)}" for tag, part in report.untagged.items() if part]
    if report.corrections_usd:
        lines.append(f"it includes {usd(report.corrections_usd)} of credits and corrections")
    if report.late_usd:
        lines.append(f"{usd(report.late_usd)} of it arrived after the period")
    if report.anomalies:
        lines.append(f"{len(report.anomalies)} anomalies, {usd(total.excess_usd)} over the expected")
    if total.saved_usd or total.refused:
        lines.append(f"Curb's actions saved {usd(total.saved_usd)} and refused {total.refused:,} requests")
    return lines
