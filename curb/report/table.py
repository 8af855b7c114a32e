"""A report in a terminal."""

from __future__ import annotations

import math
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.format import TOO_LITTLE_NOTE, printable, tags_text
from curb.report import wording
from curb.report.figures import SpendReport
from curb.stream.money import chance, usd

#: Anomalies that are shown one by one, most dollars first: enough for a screen. By hand.
_MOST_ANOMALIES = 10
#: Rows of one budget that are shown one by one, most dollars first; a budget of keys may have thousands. By hand.
_MOST_OF_BUDGET = 5
#: Characters; a narrower output leaves columns out, so that names stay whole.
_WIDE = 100


def show(console: Console, report: SpendReport, most: int) -> None:
    """The groups that spend most, budgets, anomalies, pairs and notes."""
    console.print(Text(f"Spend {report.first_day} to {report.last_day} ({report.time_zone})", "bold"))
    for line in wording.headline(report):
        console.print(Text(f"  {line}"), soft_wrap=True)
    wide = console.width >= _WIDE
    console.print(_groups(report, most, wide=wide))
    if not wide:
        console.print(
            f"  below {_WIDE} columns, share and $ / 1k tokens are left out; see --format csv", soft_wrap=True
        )
    if report.budgets:
        console.print(_budgets(report))
        if any(row.forecast_usd is None and not row.complete for row in report.budgets):
            console.print(f"  {TOO_LITTLE_NOTE}", soft_wrap=True)
    if report.anomalies:
        console.print(_anomalies(report))
        if len(report.anomalies) > _MOST_ANOMALIES:
            console.print(f"  {len(report.anomalies) - _MOST_ANOMALIES} more; see --format json")
    if report.budget_alerts:
        console.print(f"  {report.budget_alerts} alerts on budgets")
    if report.pairs:
        console.print(_pairs(report))
    for note in report.notes:
        console.print(Text(f"  {printable(note)}", "yellow"), soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        name = column.removeprefix(">")
        right = column != name
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return table


def _groups(report: SpendReport, most: int, *, wide: bool) -> Table:
    kpis = list(report.total.kpis)
    title = f"By {', '.join(map(printable, report.by))}"
    divided = any(row.shared_usd for row in report.groups)
    columns = [
        ">$ spend",
        *[">$ shared"] * divided,
        ">change",
        *[">share"] * wide,
        ">$ / request",
        *[">$ / 1k tokens"] * wide,
        *(f">$ / {printable(k)}" for k in kpis),
    ]
    table = _table(title, *map(printable, report.by), *columns, ">$ over")
    rows, others, rest = wording.shortened(report, most)
    shown = wording.cents([row.spend_usd for row in rows] + [rest] * bool(others), report.total.spend_usd)
    for row, cents in zip(rows, shown, strict=False):
        table.add_row(
            *(Text(wording.value_name(value)) for value in row.tags.values()),
            wording.dollars(cents),
            *[usd(row.shared_usd)] * divided,
            wording.change(row.change, before=row.before_usd, after=row.spend_usd),
            *[wording.percent(row.share)] * wide,
            wording.each(row.requests),
            *[wording.each(row.tokens)] * wide,
            *(wording.each(row.kpis.get(name)) for name in kpis),
            usd(row.excess_usd) if row.alerts else "",
        )
    blank = [""] * (len(report.by) - 1)
    if others:
        table.add_row(f"{others:,} others", *blank, wording.dollars(shown[-1]))
    total = report.total
    table.add_section()
    table.add_row(
        "all",
        *blank,
        usd(total.spend_usd) if report.groups else usd(0.0),
        *[usd(total.shared_usd)] * divided,
        wording.change(total.change, before=total.before_usd, after=total.spend_usd),
        *[""] * wide,
        wording.each(total.requests),
        *[wording.each(total.tokens)] * wide,
        *(wording.each(total.kpis[name]) for name in kpis),
        usd(total.excess_usd) if total.alerts else "",
        style="bold",
    )
    return table


def _spaced(text: Text) -> Text:
    return text + Text(" ") if text else text


def _budgets(report: SpendReport) -> Table:
    over, likely = (
        any(row.over for row in report.budgets),
        any(row.breach_probability is not None for row in report.budgets),
    )
    columns = [">$ budget", ">$ spent", ">used", *[">over"] * over, ">$ forecast", *[">likely over"] * likely]
    table = _table("Budgets", "budget", *columns)
    for _, group in groupby(report.budgets, key=lambda row: row.name):
        rows = list(group)
        for row in rows[:_MOST_OF_BUDGET]:
            periods = f"{row.periods} × {row.period}" if row.periods > 1 else row.period
            whole = "" if row.complete else ", running"
            none = "" if row.complete else "–"
            table.add_row(
                Text(f"{row.name} ") + _spaced(tags_text(row.tags)) + Text(f"({periods}{whole})", "dim"),
                usd(row.amount_usd),
                usd(row.spent_usd),
                wording.percent(row.spent_usd / row.amount_usd if row.amount_usd else None),
                *[f"{row.over}×" if row.over else ""] * over,
                none if row.forecast_usd is None else usd(row.forecast_usd),
                *["" if row.breach_probability is None else chance(row.breach_probability)] * likely,
            )
        if rest := rows[_MOST_OF_BUDGET:]:
            times = sum(row.over for row in rest)
            table.add_row(
                f"{rows[0].name}: {len(rest):,} more of {len(rows):,}",
                "",
                usd(math.fsum(row.spent_usd for row in rest)),
                "",
                *[f"{times}×" if times else ""] * over,
                "",
                *[""] * likely,
                style="dim",
            )
    return table


def _anomalies(report: SpendReport) -> Table:
    table = _table("Anomalies", "fired (UTC)", "tier", "kind", "whose", ">$ over", "verdict")
    for row in report.anomalies[:_MOST_ANOMALIES]:
        table.add_row(
            row.fired_at[:16].replace("T", " "),
            row.tier,
            row.kind,
            tags_text(row.tags),
            usd(row.excess_usd),
            (row.verdict or "").replace("_", " "),
        )
    return table


def _pairs(report: SpendReport) -> Table:
    table = _table("Estimated and billed", "pair", ">days", ">$ estimated", ">$ billed", ">ratio")
    for row in report.pairs:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        table.add_row(Text(printable(row.pair)), str(row.days), usd(row.estimated_usd), usd(row.billed_usd), ratio)
    return table
