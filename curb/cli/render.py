"""How the command line shows things: rich tables for people, JSON lines for programs. Tag values are never markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.actions.notify import wording
from curb.actions.policy.guards import anything_marked
from curb.config.bills import bills_alone, hollow, promises
from curb.config.file import CurbConfig
from curb.connectors.pricing.book import PriceBook
from curb.detector.day_one import abilities
from curb.detector.forecast.prophet import advice, missing
from curb.detector.state.wording import duration
from curb.format import tags_text
from curb.stream.money import usd
from curb.stream.records.spend import Alert, LedgerEntry
from curb.stream.time import iso
from curb.views.unit_costs import Resolved, untagged_percent

#: Ledger states of actions that wait for an answer, or hold or may still hold something.
OPEN_STATES = ("proposed", "planned", "applied", "effective", "ineffective", "drift", "failed")
#: Faults of the price book that are shown one by one: enough to see what is wrong, few enough for a screen.
_LEFT_OUT_SHOWN = 5
#: Characters of a field's value in a table. By hand: a token bucket of Envoy does not fit into a column.
_LONGEST_VALUE = 60
_TIER_STYLE = {"page": "bold red", "notice": "yellow", "digest": "dim", "soft": "cyan"}


def _json_lines(values: Sequence[Any]) -> None:
    for value in values:
        print(msgspec.json.encode(value).decode())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, justify="right" if column.startswith("$") else "left", overflow="fold")
    return table


def config_summary(console: Console, path: Path, config: CurbConfig, book: PriceBook) -> None:
    """A summary of a valid configuration."""

    def names(items: Sequence[Any]) -> str:
        return ", ".join(f"{item.name} ({item.kind})" for item in items) or "none"

    console.print(f"{path}: ok", style="green")
    console.print(f"  log         {config.log.kind}")
    console.print(f"  connectors  {names(config.connectors)}")
    console.print(f"  budgets     {', '.join(b.name for b in config.detector.budgets) or 'none'}")
    console.print(f"  notifiers   {names(config.actions.notifiers)}")
    console.print(f"  actions     {names(config.actions.actions)}; mode {config.actions.mode}")
    console.print(f"  prices      {len(book):,} models, book {book.hash} of {book.as_of}", highlight=False)
    for label, what in judged(config):
        console.print(f"  {label:<11} {what}", markup=False, highlight=False, soft_wrap=True)
    for sentence in promises(config):
        console.print(f"  bill        {sentence}", markup=False, highlight=False, soft_wrap=True)
    for sentence in hollow(config):
        console.print(f"  empty       {sentence}", style="yellow", markup=False, soft_wrap=True)
    for sentence in left_out(book):
        console.print(f"  left out    {sentence}", style="yellow", markup=False, soft_wrap=True)
    if config.actions.actions and not anything_marked(config.actions.limits):
        hint = "Curb touches only objects that carry a mark; see limits.criticality and limits.shave_unmarked"
        console.print(f"  marks       none: {hint}", style="yellow", soft_wrap=True)
    for sentence in _missing_extras(config):
        console.print(f"  missing     {sentence}", style="yellow", markup=False, soft_wrap=True)


def judged(config: CurbConfig) -> list[tuple[str, str]]:
    """(from when on, what) a new installation can judge; the history that teaches it may be replayed.

    A bill brings its own history: of bills alone nothing else is said.
    """
    found: dict[str, list[str]] = {}
    for each in () if bills_alone(config) else abilities(config.detector):
        label = f"after {duration(each.needs_s)}" if each.needs_s else "at once"
        found.setdefault(label, []).append(each.what)
    return [(label, "; ".join(what)) for label, what in found.items()]


def left_out(book: PriceBook) -> list[str]:
    """One sentence for each of the first entries that the price book could not read, and the number of the others."""
    found = list(book.left_out.values())
    more = (
        [f"and {len(found) - _LEFT_OUT_SHOWN} more entries of the price book"] if len(found) > _LEFT_OUT_SHOWN else []
    )
    return [*found[:_LEFT_OUT_SHOWN], *more]


def _missing_extras(config: CurbConfig) -> list[str]:
    """One sentence for each thing that works less well without a library; what cannot work at all is a ConfigError."""
    found = [advice(gone)] if (gone := missing()) else []
    if find_spec("matplotlib") is None and any(each.kind == "slack" for each in config.actions.notifiers):
        found.append("incidents in Slack have no pictures: install curbd[charts]")
    return found


def alerts(console: Console, found: Sequence[Alert], json_lines: bool) -> None:
    """Alerts, three short lines each: what and since when, the money, the id."""
    if json_lines:
        return _json_lines(found)
    if not found:
        console.print("no alerts")
    for alert in found:
        state = "firing" if alert.status == "firing" else "resolved"
        head = Text(f"{alert.tier} {alert.kind} ", _TIER_STYLE[alert.tier]) + tags_text(alert.tags)
        began = alert.started_at
        since = wording.shown_time(alert, began) if wording.is_by_day(alert) else iso(began)
        console.print(head + Text(f"  {state}, since {since}", "dim"), soft_wrap=True)
        console.print(Text(f"  {wording.money(alert)}"), soft_wrap=True)
        console.print(Text(f"  {alert.alert_id}", "dim"), soft_wrap=True)
    return None


def actions(console: Console, entries: Sequence[LedgerEntry], json_lines: bool) -> None:
    """Actions as a table, one line each."""
    if json_lines:
        return _json_lines(entries)
    if not entries:
        console.print("no actions")
        return None
    table = _table("Actions", "id", "state", "what", "original", "now", "ends")
    for entry in entries:
        plan, tried = entry.plan, f"\ntried {entry.tries}×" if entry.tries else ""
        policy = f"ceiling of {entry.standing}" if entry.standing else ""
        about = [plan.summary, plan.target, policy, f"by {entry.approved_by or entry.by}", entry.detail]
        table.add_row(
            entry.action_id,
            Text(entry.state + tried),
            Text("\n".join(line for line in about if line)),
            Text(_values(plan.before, plan.after)),
            Text(_values(plan.after, plan.after)),
            iso(entry.lease_expires_at) or "",
        )
    return console.print(table)


def _values(values: Mapping[str, Any], fields: Iterable[str]) -> str:
    """Such as "rpm 500, tpm none"."""
    shown = (f"{field} {'none' if values.get(field) is None else values[field]}" for field in fields)
    return ", ".join(text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…" for text in shown)


def action_life(console: Console, entries: Sequence[LedgerEntry], json_lines: bool) -> None:
    """Every ledger entry of one action, and above them why, who, what before, what after and what it saved."""
    if json_lines:
        return _json_lines(entries)
    first, last = entries[0], entries[-1]
    plan = last.plan
    console.print(Text(f"{plan.action} on {plan.target}: {plan.summary}", "bold"))
    for label, text in _facts(first, last):
        console.print(Text(f"  {label:<9}", "dim") + Text(text), soft_wrap=True)
    table = _table("", "at", "state", "by", "lease ends", "$ / h before", "$ / h after", "$ saved", "detail")
    for entry in entries:
        table.add_row(
            iso(entry.at) or "",
            entry.state,
            Text(entry.by),
            iso(entry.lease_expires_at) or "",
            "" if entry.usd_per_hour_before is None else usd(entry.usd_per_hour_before),
            "" if entry.usd_per_hour_after is None else usd(entry.usd_per_hour_after),
            "" if entry.saved_usd is None else usd(entry.saved_usd),
            Text(entry.detail),
        )
    return console.print(table)


def _facts(first: LedgerEntry, last: LedgerEntry) -> list[tuple[str, str]]:
    """(label, text) of what people ask for first."""
    plan = last.plan
    who = f"approved by {last.approved_by}" if last.approved_by else "Curb, by itself"
    if first.state == "proposed" and not last.approved_by:
        who = f"nobody yet; may approve: {', '.join(first.approvers) or 'nobody'}"
    tags = tags_text(first.tags).plain
    found = [
        ("why", f"alert {first.alert_id}  {tags}; rung {last.rung} {last.do}" + (f": {last.why}" if last.why else "")),
        ("who", who),
        ("before", str(plan.before)),
        ("after", str(plan.after)),
    ]
    if plan.warning:
        found.append(("warning", plan.warning))
    if last.state == "proposed":
        found.append(("answer", f"counts until {iso(last.answer_by) or 'the alert is over'}"))
    if last.saved_usd is not None:
        found.append(("saved", usd(last.saved_usd)))
    if last.rejected is not None:
        found.append(("rejected", f"{last.rejected:,} requests"))
    return found


def spend(console: Console, rows: Sequence[dict[str, Any]], json_lines: bool) -> None:
    """Totals per series."""
    if json_lines:
        return _json_lines(rows)
    table = _table("Spend on the log", "series", "$ total", "events")
    for row in rows:
        table.add_row(tags_text(row["tags"]), usd(row["total_usd"]), f"{row['events']:,}")
    console.print(table)
    return _untagged(console, rows)


def unit_costs(console: Console, rows: Sequence[dict[str, Any]], resolved: Resolved, json_lines: bool) -> None:
    """Dollars per unit."""
    if json_lines:
        return _json_lines(rows)
    unit = {"requests": "request", "tokens": "1,000 tokens", "runs": "run"}.get(resolved.wanted.unit)
    unit = unit or resolved.wanted.unit
    table = _table(f"Spend on the log, scope {resolved.scope.name}", "series", "$ total", "units", f"$ per {unit}")
    for row in rows:
        each = row["usd_per_unit"]
        table.add_row(
            tags_text(row["tags"]),
            usd(row["total_usd"]),
            f"{row['units']:,.6g}",
            "-" if each is None else f"{each:,.6g}",
        )
    console.print(table)
    return _untagged(console, rows)


def _untagged(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    for tag, percent in untagged_percent(rows).items():
        console.print(Text(f"  {percent:.1f} % of the dollars have no {tag}"))


def next_steps(console: Console, steps: Iterable[Mapping[str, str]], title: str = "No spend yet. Next:") -> None:
    """What to do while there is no spend; nothing where there are no steps."""
    for number, step in enumerate(steps):
        if not number:
            console.print(title, style="bold")
        console.print(Text(f"  {step['what']}"), soft_wrap=True)
        if step["command"]:
            console.print(Text(f"    {step['command']}", "cyan"), soft_wrap=True)


def feed_line(day: dict[str, Any]) -> str:
    """What became of the records of a source in the last 24 hours, without what did not happen."""
    refused = ", ".join(f"{count:,} {reason}" for reason, count in sorted(day["refused"].items()))
    ignored = ", ".join(f"{count:,} {name}" for name, count in sorted(day["ignored"].items()))
    parts = [
        f"{day['received']:,} records ({usd(day['received_usd'])}) in 24 h",
        f"{day['counted']:,} counted ({usd(day['counted_usd'])})",
        f"{day['scored']:,.0f} scored",
        f"{day['late']:,} of them late" if day["late"] else "",
        f"{day['not_scored']:,.0f} not scored ({usd(day['not_scored_usd'])})" if day["not_scored"] else "",
        f"{day['duplicates']:,} duplicate" if day["duplicates"] else "",
        f"refused: {refused}" if refused else "",
        f"ignored: {ignored}" if ignored else "",
        f"{day['fallback']:,} priced by fallback ({usd(day['fallback_usd'])})" if day["fallback"] else "",
        f"{day['usage_missing']:,} without usage" if day["usage_missing"] else "",
        f"{day['skewed']:,} dated up to {day['skew_s']:,.0f} s ahead" if day["skewed"] else "",
        f"{day['lost_percent']:.1f} % lost" if day["lost_percent"] else "",
    ]
    return "; ".join(part for part in parts if part)


def refused_posts(console: Console, found: Iterable[Mapping[str, Any]]) -> None:
    """What senders posted that no connector took."""
    for each in found:
        console.print(Text(f"  {each['says']}", "yellow"), soft_wrap=True)


def status(console: Console, found: dict[str, Any], json_lines: bool) -> None:
    """The daemon's status: one paragraph and three small tables."""
    if json_lines:
        return _json_lines([found])
    halted = f"  HALTED: no new actions (by {found.get('halted_by', '')})" if found["halted"] else ""
    ready = "ready" if found["ready"] else "not ready" if "log" in found["problems"] else "catching up"
    console.print(f"{found['instance']}: {ready}, mode {found['mode']}{halted}", markup=False)
    first_in_s = found.get("first_bucket_in_s")
    closed = f"data closed up to {found['event_time']}" if found["event_time"] else "nothing yet"
    if first_in_s is not None:
        closed = f"spend received; the first bucket closes in {first_in_s:.0f} s"
    console.print(f"now {found['now']}, {closed}, {found['series']} series")
    next_steps(console, found.get("next_steps", ()))
    for name, last in found["connectors"].items():
        console.print(f"  connector {name}: last heard {last or 'never'}")
        for note in found.get("notes", {}).get(name, ()):
            console.print(Text(f"    {note}", "yellow"))
    refused_posts(console, found.get("refused_posts", ()))
    for feed in found.get("feeds", ()):
        console.print(Text(f"  source {feed['source'] or 'without a name'}: {feed_line(feed['last_24_h'])}"))
    for row in (*found.get("feeds", ()), *found.get("scopes", ())):
        for sentence in row["problems"]:
            console.print(Text(f"  {sentence}", "yellow"), soft_wrap=True)
    for subject, problem in found["problems"].items():
        console.print(Text(f"  {subject}: {problem}", "red"), soft_wrap=True)
    waiting = f", {len(found['proposed'])} wait for an approval" if found.get("proposed") else ""
    standing = f", {found['ceilings']} ceilings in force" if found.get("ceilings") else ""
    console.print(f"{found['firing']} alerts firing, {len(found['leases'])} leases open{standing}{waiting}")
    later = [each for each in found.get("judged", ()) if each["in_s"] > 0]
    for each in later:
        console.print(Text(f"  judged in {duration(each['in_s'])}: {each['what']}", "dim"), soft_wrap=True)
    for row in found.get("watching", ()):
        head = Text("  watching: ") + tags_text(row["tags"])
        burn = f" burns {usd(row['usd_per_hour'])}/h, expected {usd(row['expected_usd_per_hour'])}/h; no alert yet: "
        console.print(head + Text(burn + row["why"]), soft_wrap=True)
    table = _table("Top spenders", "scope", "series", "$ / h", "$ / h expected")
    for row in found["top"]:
        table.add_row(row["scope"], tags_text(row["tags"]), usd(row["usd_per_hour"]), usd(row["expected_usd_per_hour"]))
    console.print(table)
    budgets = _table("Budgets", "name", "series", "$ spent", "$ budget", "used")
    for row in found["budgets"]:
        used = row["spent_usd"] / row["amount_usd"]
        budgets.add_row(
            row["name"], tags_text(row["tags"]), usd(row["spent_usd"]), usd(row["amount_usd"]), f"{used:.0%}"
        )
    return console.print(budgets)
