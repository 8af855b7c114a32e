"""An explanation as people read it in a terminal. Tag values and what people wrote are text, never markup."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.actions.notify import wording
from curb.format import tags_text
from curb.stream.money import usd
from curb.stream.records.spend import Alert
from curb.stream.time import iso
from curb.views.explanation import Explanation, words_of

_BAR_CELLS = 24
_TIER_STYLE = {"page": "bold red", "notice": "yellow", "digest": "dim", "soft": "cyan"}


def show(console: Console, found: Explanation) -> None:
    """The sentence, the money, what decided, where it comes from, what was before, what is known around it."""
    alert = found.alert
    head = Text(f"{alert.tier} {alert.kind} ", _TIER_STYLE[alert.tier]) + tags_text(alert.tags)
    console.print(head, soft_wrap=True)
    console.print(_text(alert.explanation), soft_wrap=True)
    console.print(_money(alert))
    _decided(console, found)
    _causes(console, alert)
    _similar(console, found)
    _around(console, found)


def _text(words: str, style: str = "") -> Text:
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words), style)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, justify="right" if column.startswith("$") else "left", overflow="fold")
    return table


def _money(alert: Alert) -> Table:
    if not wording.has_rate(alert):
        table = Table.grid(padding=(0, 2))
        for label, value in wording.figures(alert):
            table.add_row(_text(label, "bold"), _text(value))
        return table
    table = _table("", "", "$ expected", "$ actual", "$ over")
    by_day, began = wording.is_by_day(alert), alert.started_at
    unit, hours = ("day", 24) if by_day else ("hour", 1)
    expected, actual = hours * alert.expected_usd_per_hour, hours * alert.usd_per_hour
    table.add_row(f"per {unit}, now", usd(expected), usd(actual), usd(actual - expected))
    since = f"since {wording.shown_time(alert, began) if by_day else iso(began)}"
    table.add_row(since, usd(alert.expected_usd), usd(alert.actual_usd), usd(alert.excess_usd))
    if alert.status == "firing":
        table.add_row("at risk", "", "", usd(alert.dollars_at_risk))
    return table


def _decided(console: Console, found: Explanation) -> None:
    alert = found.alert
    window = f", over the {found.window} window" if found.window else ""
    sure = f", confidence {alert.confidence:.0%}" if alert.confidence else ""
    console.print()
    console.print(_text(f"Decided by {alert.channel}{window}: score {alert.score:.1f}{sure}", "bold"))
    if alert.baseline is not None:
        usual = wording.per_time(alert, alert.baseline.expected_usd_per_hour)
        console.print(f"known for {alert.baseline.known_days:.1f} days, {usual} expected at firing")
    if not found.settings:
        return
    lines = Table.grid(padding=(0, 2))
    for each in found.settings:
        value = f"{each.value:g}" if isinstance(each.value, float) else str(each.value)
        key = each.key.rpartition(".")[2]
        lines.add_row(Text(key, "cyan"), Text(value), Text(each.meaning, "dim"))
    console.print(Text(f"{found.settings[0].key.rpartition('.')[0]}:", "dim"))
    console.print(lines)


def _causes(console: Console, alert: Alert) -> None:
    if not alert.causes:
        return
    console.print(Text("\nSources", "bold"))
    lines = Table.grid(padding=(0, 2))
    for cause in alert.causes:
        own = {tag: value for tag, value in cause.tags.items() if alert.tags.get(tag) != value}
        bar = "█" * max(1, round(_BAR_CELLS * cause.share))
        part = tags_text(own) if own else Text("everything: no part stands out")
        lines.add_row(Text(f"{cause.share:.0%}", justify="right"), Text(bar, "blue"), Text(usd(cause.excess_usd)), part)
    console.print(lines)


def _similar(console: Console, found: Explanation) -> None:
    for feedback in found.said:
        console.print(_text(f"Feedback: {words_of(feedback)}"))
    console.print(Text("\nSimilar alerts" if found.similar else "\nNo similar alert", "bold"))
    for each in found.similar:
        how = "same series and rule" if each.same == "fingerprint" else "same kind"
        console.print(Text(f"{iso(each.fired_at)}  {each.tier} {each.kind} ") + tags_text(each.tags), soft_wrap=True)
        said_words = "; ".join(each.said) or "no feedback"
        done = "; ".join(each.done) or "no action"
        over = f"{each.over}; " if each.over else ""
        console.print(_text(f"  {how}; {over}{said_words}; {done}", "dim"), soft_wrap=True)


def _around(console: Console, found: Explanation) -> None:
    console.print(Text("\nEvents", "bold"))
    table = Table.grid(padding=(0, 2))
    for mark in found.marks:
        table.add_row(iso(mark.at) or "", _text(mark.text))
    for plan in found.plans:
        by = f" by {plan.by}" if plan.by else ""
        words = f"planned until {iso(plan.end)}{by}, up to {usd(plan.max_usd)}: {plan.reason or 'no reason given'}"
        table.add_row(iso(plan.start) or "", _text(words))
    console.print(table)
    if found.budgets:
        budgets = _table("Budgets that count it", "name", "series", "$ spent", "$ budget", "used")
        for line in found.budgets:
            each = line.budget
            used = f"{each.spent_usd / each.amount_usd:.0%}" if each.amount_usd > 0 else ""
            budgets.add_row(_text(each.name), tags_text(line.tags), usd(each.spent_usd), usd(each.amount_usd), used)
        console.print(budgets)
