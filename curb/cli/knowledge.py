"""`curb plan`, `silence`, `increase`, `annotate` and `feedback`: people's knowledge, recorded and listed.

All are records on the log, as `curb halt` is: they work with the daemon up or down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from curb import wiring
from curb.cli import common as asking
from curb.cli.actions import plan
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.cli.offline import load_view
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.money import usd
from curb.stream.records import spend as records
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import Knowledge
from curb.stream.time import iso
from curb.views import knowledge_input as entries

#: Without a command of its own it shows what would be done now.
plan_app = typer.Typer()
plan_app.callback(invoke_without_command=True)(plan)
silence_app = typer.Typer(no_args_is_help=True, help="Mute matching alerts until a date.")
increase_app = typer.Typer(no_args_is_help=True, help="Raise a budget until a date.")
console = Console()

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_WHEN = "A time with a zone (2026-03-01T18:00:00Z), `now`, or from now: +30m, +8h, +7d."
IdArgument = Annotated[str, typer.Argument(help="The id from the list.")]
TagsOption = Annotated[list[str], typer.Option("--tags", "-t", help="name=value,name=value; may be repeated.")]


class Happening(StrEnum):
    """Kinds of annotations."""

    DEPLOY = "deploy"
    LAUNCH = "launch"
    NOTE = "note"


class AlertVerdict(StrEnum):
    """Verdicts on an alert."""

    REAL = "real"
    NOT_AN_ANOMALY = "not-an-anomaly"
    PLANNED = "planned"


# --- plans ------------------------------------------------------------------------------------------------------------


@plan_app.command("add")
def plan_add(
    tags: TagsOption,
    end: Annotated[str, typer.Option("--end", help=f"When it ends. {_WHEN}")],
    max_usd: Annotated[float, typer.Option("--max-usd", help="Dollars it may cost over the usual, in total.")],
    start: Annotated[str, typer.Option("--start", help=f"When it starts. {_WHEN}")] = "now",
    reason: Annotated[str, typer.Option("--reason", help="Shown beside the spend.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Announce work: spend with these tags may be higher by --max-usd. Nothing is muted: more raises alerts."""
    given = {"tags": _pairs(tags), "start": _time(start), "end": _time(end), "max_usd": max_usd, "reason": reason}
    _append_new(config, entries.PlanInput, given)


@plan_app.command("list")
def plan_list(config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """List current and future plans."""
    _list(config, records.PlannedActivity, ("tags", "start", "end", "max_usd", "reason"), json_lines)


@plan_app.command("cancel")
def plan_cancel(plan_id: IdArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Cancel a plan, from now on."""
    _end(config, records.PlannedActivity, plan_id)


# --- silences ---------------------------------------------------------------------------------------------------------


@silence_app.command("add")
def silence_add(
    matchers: Annotated[
        list[str],
        typer.Option("--match", "-m", help="name=pattern,name=pattern; all must match; * and ? are wildcards."),
    ],
    until: Annotated[str, typer.Option("--until", help=f"When it ends. {_WHEN}")],
    reason: Annotated[str, typer.Option("--reason", help="Shown in the muted alerts.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Send matching alerts to the digest: no messages and no actions. The alerts stay on record."""
    _append_new(config, entries.SilenceInput, {"matchers": _pairs(matchers), "until": _time(until), "reason": reason})


@silence_app.command("list")
def silence_list(config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """List silences in force."""
    _list(config, records.Silence, ("matchers", "until", "reason"), json_lines)


@silence_app.command("lift")
def silence_lift(silence_id: IdArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """End a silence now."""
    _end(config, records.Silence, silence_id)


# --- budget increases -------------------------------------------------------------------------------------------------


@increase_app.command("add")
def increase_add(
    budget: Annotated[str, typer.Argument(help="Name of the budget in the configuration.")],
    amount_usd: Annotated[float, typer.Option("--amount-usd", help="Dollars on top of its amount.")],
    expires: Annotated[str, typer.Option("--expires", help=f"When it ends. {_WHEN}")],
    match: Annotated[
        list[str] | None, typer.Option("--match", "-m", help="Only where these tags match; name=pattern, repeatable.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Raise a budget until a date; it falls back by itself."""
    loaded = asking.load_figures(config)
    known = sorted(each.name for each in loaded.detector.budgets)
    if budget not in known:
        _refuse(f"no budget {budget!r}; there are: {', '.join(known) or 'none'}")
    given = {"budget": budget, "amount_usd": amount_usd, "expires_at": _time(expires), "match": _pairs(match or [])}
    _append_new(config, entries.IncreaseInput, given)


@increase_app.command("list")
def increase_list(config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """List increases in force."""
    _list(config, records.BudgetIncrease, ("budget", "match", "amount_usd", "expires_at"), json_lines)


@increase_app.command("cancel")
def increase_cancel(increase_id: IdArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """End an increase now."""
    _end(config, records.BudgetIncrease, increase_id)


# --- annotations and verdicts -----------------------------------------------------------------------------------------


def annotate(
    kind: Annotated[Happening, typer.Argument(help="What happened.")],
    text: Annotated[str, typer.Argument(help="What happened, in a few words.")] = "",
    tags: Annotated[
        list[str] | None,
        typer.Option("--tags", "-t", help="The subject; name=value, repeatable. None: everything."),
    ] = None,
    at: Annotated[str, typer.Option("--at", help="When it happened: a time with a zone, or `now`.")] = "now",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Record a deploy or a launch; alerts that start within two hours of it name it."""
    given: dict[str, Any] = {"kind": kind.value, "text": text, "tags": _pairs(tags or [])}
    _append_new(config, entries.AnnotationInput, given if at == "now" else given | {"at": _time(at)})


def feedback(
    alert_id: Annotated[str, typer.Argument(help="The id from `curb alerts`.")],
    verdict: Annotated[AlertVerdict, typer.Argument(help="What it was.")],
    note: Annotated[str, typer.Option("--note", help="Kept with the verdict.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Give feedback on an alert. It changes what Curb learns and when it alerts again."""
    if alert_id not in asking.ask(load_view(asking.load_log(config))).alerts:
        typer.echo(f"no alert {alert_id} on the log yet; the feedback is kept", err=True)
    _append_new(
        config, entries.FeedbackInput, {"alert_id": alert_id, "verdict": verdict.value.replace("-", "_"), "note": note}
    )


# --- the log ----------------------------------------------------------------------------------------------------------


def _append_new(config: Any, kind: type[entries.Input], given: dict[str, Any]) -> None:
    try:
        record = entries.accept(kind, given, at=WallClock().now(), by=asking.person())
    except entries.NotAcceptedError as error:
        _refuse(str(error))
    asking.ask(_append(asking.load_log(config), record))
    typer.echo(record.id)


def _end(config: Any, kind: type[Any], record_id: str) -> None:
    loaded, now = asking.load_log(config), WallClock().now()
    found = asking.ask(_known(loaded, kind, now))
    record = next((each for each in found if each.id == record_id), None)
    if record is None:
        _refuse(f"nothing with the id {record_id} is in force")
    asking.ask(_append(loaded, entries.withdrawn(record, now, asking.person())))
    typer.echo(f"ended {record_id}")


def _list(config: Any, kind: type[Any], columns: Sequence[str], json_lines: bool) -> None:
    found = asking.ask(_known(asking.load_log(config), kind, WallClock().now()))
    if json_lines:
        for record in found:
            typer.echo(msgspec.json.encode(record).decode())
        return
    table = Table(Column("id", no_wrap=True))
    for title in (*columns, "by"):
        table.add_column(title.replace("_", " "), overflow="fold")
    for record in found:
        table.add_row(*(escape(_shown(name, getattr(record, name))) for name in ("id", *columns, "by")))
    console.print(table if found else "nothing in force")


async def _append(config: CurbConfig, record: Knowledge) -> None:
    async with wiring.open_log(config, WallClock()) as log:
        await log.append([knowledge_message(record)])


async def _known(config: CurbConfig, kind: type[Any], now: float) -> list[Any]:
    async with wiring.open_log(config, WallClock()) as log:
        return await entries.known(log, kind, now)


# --- text -------------------------------------------------------------------------------------------------------------


def _refuse(why: str) -> NoReturn:
    typer.echo(f"curb: {why}", err=True)
    raise typer.Exit(2)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """name=value pairs, separated by commas."""
    pairs: dict[str, str] = {}
    for pair in (part for each in given for part in each.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            _refuse(f"{pair!r} is not name=value")
        if pairs.setdefault(name.strip(), value.strip()) != value.strip():
            _refuse(f"{name.strip()} is given twice")
    return pairs


def _time(given: str) -> str:
    """RFC 3339 of a time, of `now`, or of +30m, +8h, +7d from now; anything else is left for the check to refuse."""
    now = datetime.fromtimestamp(WallClock().now(), UTC)
    relative = re.fullmatch(r"\+(\d{1,4})([mhd])", given)
    if given == "now" or relative is None:
        return now.isoformat() if given == "now" else given
    return (now + timedelta(seconds=int(relative[1]) * _UNITS[relative[2]])).isoformat()


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "everything"
    if name.endswith("_usd"):
        return usd(value)
    return iso(value) or "" if isinstance(value, float) else str(value)
