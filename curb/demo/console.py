"""The demo on the console: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from curb.demo.stage import Stage
from curb.detector.state.registry import SeriesStatus
from curb.format import tags_text
from curb.serve.running import Running
from curb.stream.money import usd
from curb.stream.records.spend import Alert, LedgerEntry, NoticeEntry

_STATE_STYLE = {
    "planned": "cyan",
    "applied": "bold cyan",
    "effective": "bold green",
    "ineffective": "bold red",
    "restored": "bold green",
    "failed": "bold red",
    "drift": "yellow",
}
_PLAIN_EVERY_S = 900.0


def clock_time(at: float) -> str:
    """Hours and minutes of event time."""
    return datetime.fromtimestamp(at, UTC).strftime("%a %H:%M")


class DemoConsole:
    """A context that shows the daemon while it works. `say` adds a line to the story."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console, self._stage = console, stage
        self._story: deque[Text] = deque(maxlen=12)
        self._seen: set[tuple[str, str]] = set()
        self._live = Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None
        self._plain_at = stage.live_start

    def __enter__(self) -> DemoConsole:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def say(self, at: float, text: str, style: str = "") -> None:
        """One line of the story, with its event time."""
        line = Text(f"{clock_time(at)}  ", "dim") + Text(text, style)
        self._story.append(line)
        if not self._live:
            self._console.print(line, soft_wrap=True)

    def record(self, record: Alert | LedgerEntry | NoticeEntry) -> None:
        """Show a new record, once per change of state."""
        if isinstance(record, Alert):
            self._alert(record)
        elif isinstance(record, LedgerEntry) and self._new(record.action_id, record.state):
            self.say(record.at, _ledger_line(record), _STATE_STYLE.get(record.state, ""))

    def _alert(self, alert: Alert) -> None:
        if alert.updated_at < self._stage.live_start or not self._new(alert.alert_id, alert.status + alert.tier):
            return
        if alert.status == "resolved":
            self.say(alert.updated_at, f"resolved: {alert.kind} {_subject(alert)}", "green")
        else:
            style = {"page": "bold red", "notice": "yellow"}.get(alert.tier, "dim")
            self.say(alert.updated_at, f"{alert.tier}: {alert.explanation}", style)

    def _new(self, name: str, state: str) -> bool:
        known = (name, state) in self._seen
        self._seen.add((name, state))
        return not known

    def show(self, daemon: Running) -> None:
        """Draw the state of things now."""
        now = daemon.clock.now()
        rows = [row for shard in daemon.shards() for row in shard.top(50)]
        if self._live:
            self._live.update(self._screen(daemon, rows, now))
        elif now >= self._plain_at:
            total, expected = _sum(rows, "team")
            if not total:
                return  # nothing is scored yet
            self._plain_at = now + _PLAIN_EVERY_S
            self.say(now, f"fleet burns {usd(total)}/h, expected {usd(expected)}/h", "dim")

    def _screen(self, daemon: Running, rows: list[SeriesStatus], now: float) -> RenderableType:
        head = Text(f"Curb demo  {clock_time(now)} event time", "bold")
        return Group(head, _spend_table(rows), _budget_table(daemon), Text("What happened", "bold"), *self._story)


def _subject(alert: Alert) -> str:
    return alert.tags.get("api_key") or " ".join(f"{k}={v}" for k, v in alert.tags.items())


def _ledger_line(entry: LedgerEntry) -> str:
    burn = ""
    if entry.usd_per_hour_before is not None and entry.usd_per_hour_after is not None:
        burn = f": burn {usd(entry.usd_per_hour_before)}/h → {usd(entry.usd_per_hour_after)}/h"
    until = clock_time(entry.lease_expires_at or 0)
    what = {
        "planned": f"plan: {entry.plan.summary}",
        "applied": f"applied until {until}: {_change(entry.plan.before, entry.plan.after)}",
        "effective": f"verified: the limit holds and works{burn}",
        "restored": f"restored, {entry.detail}: {_change(entry.plan.after, entry.plan.before)}",
    }.get(entry.state)
    return what or " ".join(filter(None, (f"{entry.state}:", entry.plan.summary, entry.detail)))


def _change(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(f"{name} {old.get(name)} → {value}" for name, value in new.items())


def _sum(rows: list[SeriesStatus], scope: str) -> tuple[float, float]:
    chosen = [row for row in rows if row.scope == scope]
    return sum(r.usd_per_hour for r in chosen), sum(r.expected_usd_per_hour for r in chosen)


def _spend_table(rows: list[SeriesStatus]) -> Table:
    table = Table(expand=False, header_style="bold")
    for column, justify in (
        ("scope", "left"),
        ("who", "left"),
        ("$ / h", "right"),
        ("expected", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    keys = sorted((r for r in rows if r.scope == "key"), key=lambda r: -r.usd_per_hour)[:4]
    teams = sorted((r for r in rows if r.scope == "team"), key=lambda r: -r.usd_per_hour)[:4]
    for row in [*teams, *keys]:
        burn, expected = row.usd_per_hour, row.expected_usd_per_hour
        high = burn > 2 * expected + 1
        bar = Text("█" * min(30, round(burn * 2)), "red" if high else "green")
        table.add_row(row.scope, tags_text(row.tags), Text(usd(burn), "red" if high else ""), usd(expected), bar)
    return table


def _budget_table(daemon: Running) -> Table:
    table = Table(expand=False, header_style="bold", show_edge=False)
    for column in ("budget", "who", "spent", "of", ""):
        table.add_column(column)
    for tags, budget in (each for shard in daemon.shards() for each in shard.budgets()):
        bar = ProgressBar(total=budget.amount_usd, completed=min(budget.spent_usd, budget.amount_usd), width=24)
        table.add_row(budget.name, tags_text(tags), usd(budget.spent_usd), usd(budget.amount_usd), bar)
    return table
