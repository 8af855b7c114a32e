"""A report as one HTML file that prints well: no scripts, nothing from elsewhere, light and dark."""

from __future__ import annotations

import math
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape

from curb.format import printable
from curb.report import wording
from curb.report.figures import DayRow, SpendReport
from curb.stream.money import usd

#: Groups and budgets in their tables; the file stays under a megabyte, and the CSV has all. By hand.
_MOST_GROUPS = 500
#: Anomalies in the table, most dollars first. By hand.
_MOST_ANOMALIES = 100
#: Pixels of the chart: as wide as the page, and the room for its axes.
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 960.0, 220.0, 64.0, 12.0, 24.0
#: Steps of the money axis that are round numbers, and how many lines there are at most.
_ROUND, _MOST_LINES = (1, 2, 2.5, 5, 10), 5
#: Days with a label below, at most.
_MOST_LABELS = 10


class Bar(NamedTuple):
    """One day of the chart, in pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str
    label: str


class SpendBars(NamedTuple):
    """The chart: bars, and the lines of the money axis with their labels."""

    bars: list[Bar]
    lines: list[tuple[float, str]]
    width: float
    height: float
    left: float


def page(report: SpendReport) -> str:
    """The file. Every value of a tag is escaped."""
    rows, others, rest = wording.shortened(report, _MOST_GROUPS)
    cents = wording.cents([row.spend_usd for row in rows] + [rest] * bool(others), report.total.spend_usd)
    template = _environment().get_template("report.html")
    return template.render(
        report=report,
        rows=list(zip(rows, cents, strict=False)),
        others=(others, cents[-1] if others else 0),
        kpis=list(report.total.kpis),
        budgets=report.budgets[:_MOST_GROUPS],
        anomalies=report.anomalies[:_MOST_ANOMALIES],
        headline=wording.headline(report),
        chart=chart(report.days),
    )


def _environment() -> Environment:
    made = Environment(loader=PackageLoader("curb.report"), autoescape=select_autoescape(), trim_blocks=True)
    made.filters |= {
        "usd": usd,
        "cents": wording.dollars,
        "percent": wording.percent,
        "each": wording.each,
        "value": wording.value_name,
        "tags": wording.tag_line,
        "printable": printable,
    }
    made.globals["change"] = wording.change
    return made


def chart(days: list[DayRow]) -> SpendBars:
    """Dollars of every day as bars; credits go below the line."""
    top = max([0.0, *(day.spend_usd for day in days)])
    bottom = min([0.0, *(day.spend_usd for day in days)])
    step = _step((top - bottom) or 1.0)
    low, high = math.floor(bottom / step) * step, math.ceil((top or step) / step) * step
    scale = (_HEIGHT - _TOP - _BOTTOM) / (high - low)
    slot = (_WIDTH - _LEFT) / max(1, len(days))
    apart = max(1, math.ceil(len(days) / _MOST_LABELS))

    def y(value: float) -> float:
        return round(_TOP + (high - value) * scale, 1)

    bars = [
        Bar(
            x=round(_LEFT + number * slot + slot * 0.1, 1),
            y=y(max(day.spend_usd, 0.0)),
            width=round(slot * 0.8, 1),
            height=round(abs(day.spend_usd) * scale, 1),
            title=f"{day.day}: {usd(day.spend_usd)}",
            label=day.day[5:] if number % apart == 0 else "",
        )
        for number, day in enumerate(days)
    ]
    count = round((high - low) / step)
    lines = [(y(low + n * step), usd(low + n * step).removesuffix(".00")) for n in range(count + 1)]
    return SpendBars(bars, lines, _WIDTH, _HEIGHT, _LEFT)


def _step(span: float) -> float:
    """A round number of dollars that parts `span` into few lines."""
    power = 10.0 ** math.floor(math.log10(span / _MOST_LINES))
    return float(next(power * each for each in _ROUND if power * each * _MOST_LINES >= span))
