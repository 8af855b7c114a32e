"""Budgets as a table: the tree, a bar with the even pace on it, and where each is going. Tags are never markup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.format import TOO_LITTLE_NOTE, tags_text
from curb.stream.money import chance, usd
from curb.stream.time import iso
from curb.views.budget_history import Crossing, WhatIf, caps

_BAR_CELLS = 10
#: Rows of one budget that are shown one by one unless all are asked for; one of keys may have thousands. By hand.
_MOST_OF_BUDGET = 5
#: Characters; a narrower output leaves the bar and what is left out, so that names stay whole.
_WIDE = 100


def show(console: Console, rows: Sequence[dict[str, Any]], now: float | None, *, every: bool = True) -> None:
    """The tree of budgets at `now` (epoch seconds); without `every` only rows that have spent something."""
    if not rows:
        console.print("no budget counts anything yet")
        return
    shown = [row for row in rows if every or row["spent_usd"]] or list(rows)
    table = Table(title="Budgets", title_justify="left", header_style="bold")
    wide = console.width >= _WIDE
    used = ["$ left", "used, | even pace"] if wide else ["used"]
    for name in ("budget", "$ spent", *used, "$ forecast", "over on (UTC)", "likely"):
        right = name.startswith("$")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "budget")
    tags_of = {row["id"]: row["tags"] for row in shown}
    parents = {row.get("parent_id") for row in shown}
    of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for depth, row in tree(shown):
        of[row["name"]].append(row)
        if not every and len(of[row["name"]]) > _MOST_OF_BUDGET and row["id"] not in parents:
            continue
        probability = row.get("breach_probability")
        table.add_row(
            Text("  " * depth) + _name(row, tags_of.get(row.get("parent_id"), {})),
            usd(row["spent_usd"]),
            *([usd(row["amount_usd"] - row["spent_usd"]), bar(row, now)] if wide else [_used(row)]),
            "–" if row.get("forecast_usd") is None else usd(row["forecast_usd"]),
            "" if row.get("breach_at") is None else iso(row["breach_at"])[5:16].replace("T", " "),
            "" if probability is None else chance(probability),
        )
    console.print(table)
    for name, found in of.items():
        rest = [row for row in found[_MOST_OF_BUDGET:] if row["id"] not in parents]
        if rest and not every:
            spent = usd(sum(row["spent_usd"] for row in rest))
            text = f"  {name}: {len(rest):,} more of {len(found):,}, {spent} spent together; see --all"
            console.print(Text(text), soft_wrap=True)
    if any(row.get("forecast_usd") is None for row in shown):
        console.print(f"  {TOO_LITTLE_NOTE}", soft_wrap=True)
    if len(shown) < len(rows):
        console.print(f"  {len(rows) - len(shown)} more have spent nothing; see --all")
    _notes(console, shown)


def _name(row: dict[str, Any], above: dict[str, str]) -> Text:
    """The budget, and the tags that differ from the row above."""
    own = {tag: value for tag, value in row["tags"].items() if above.get(tag) != value}
    return Text(row["name"], "bold") + Text(" (hard cap) " if row.get("hard") else " ") + tags_text(own)


def _notes(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        added = [
            f"{usd(row[key])} {what}"
            for key, what in (
                ("carried_usd", "carried over"),
                ("expanded_usd", "earned"),
                ("increased_usd", "added for a time"),
            )
            if row.get(key)
        ]
        if added:
            text = Text(f"  {row['name']} ") + tags_text(row["tags"]) + Text(f": {usd(row['amount_usd'])} with ")
            console.print(text + Text(", ".join(added)))
    for row in rows:
        if round(row.get("estimated_usd", 0.0), 2) > 0:
            counts = "counted for the hard cap" if row.get("hard") else "not counted"
            more = f": calls without usage cost about {usd(row['estimated_usd'])} more, an estimate, {counts}"
            console.print(Text(f"  {row['name']} ") + tags_text(row["tags"]) + Text(more))
    late = [row for row in rows if row.get("counted_from", 0.0) > row["period_start"]]
    if late:
        since = iso(min(row["counted_from"] for row in late))
        console.print(f"  {len(late)} of them count only since {since} or later, not from the start of their period")


def tree(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Depth and row: parents before their children, most dollars first. A row whose parent is not there is a root."""
    ids = {row["id"] for row in rows}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        parent = row.get("parent_id")
        below.setdefault(parent if parent in ids else None, []).append(row)

    def walk(parent: str | None, depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in sorted(below.get(parent, []), key=lambda each: -each["spent_usd"]):
            yield depth, row
            yield from walk(row["id"], depth + 1)

    return walk(None, 0)


def _used(row: dict[str, Any]) -> Text:
    share = row["spent_usd"] / row["amount_usd"]
    return Text(f"{share:.0%}", "red" if share >= 1 else "yellow" if share >= 0.8 else "green")


def bar(row: dict[str, Any], now: float | None) -> Text:
    """How much is used, and with `|` how much would be at an even pace."""
    used = row["spent_usd"] / row["amount_usd"]
    cells: list[str] = ["█" if cell < round(used * _BAR_CELLS) else "░" for cell in range(_BAR_CELLS)]
    if now is not None:
        passed = (now - row["period_start"]) / (row["period_end"] - row["period_start"])
        cells[min(_BAR_CELLS - 1, max(0, int(passed * _BAR_CELLS)))] = "|"
    style = "red" if used >= 1 else "yellow" if used >= 0.8 else "green"
    return Text("".join(cells), style) + Text(f" {used:.0%}", "")


def show_what_if(console: Console, found: WhatIf) -> None:
    """The alerts with the present amount, and with the other."""
    for title, crossings in (("as it is", found.now), (f"with {found.amount:,.2f} {found.currency}", found.then)):
        table = Table(title=f"{found.name} {title}", title_justify="left", header_style="bold")
        for name in ("period from", "who", "what", "tier", "fired", "$ spent then", "$ amount"):
            table.add_column(name, justify="right" if name.startswith("$") else "left", overflow="fold")
        for each in crossings:
            table.add_row(
                iso(each.period_start),
                tags_text(each.tags) if each.tags else Text("all together"),
                each.channel.removeprefix("budget/"),
                each.tier,
                iso(each.fired_at),
                usd(each.spent_usd),
                usd(each.amount_usd),
            )
        if crossings:
            console.print(table)
        console.print(f"{found.name} {title}: {summary(crossings)}")


def summary(crossings: Sequence[Crossing]) -> str:
    """How loud it would have been."""
    tiers = ", ".join(f"{sum(each.tier == tier for each in crossings)} {tier}" for tier in ("page", "notice", "digest"))
    over = caps(crossings)
    hours = sum(each.hours for each in over)
    times = f"a hard cap would have throttled {len(over)} times, {hours:,.1f} h in all"
    return f"{len(crossings)} crossings ({tiers}); {times}"
