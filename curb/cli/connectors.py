"""`curb connectors`: the state of the sources, and checks of their access."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb import wiring
from curb.cli import common as asking
from curb.cli import offline, render
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.config.bills import hollow, promise
from curb.config.file import CurbConfig
from curb.connectors.connector import (
    Check,
    Checkable,
    Connector,
    ConnectorConfig,
    Pull,
    Push,
    PushWithBackfill,
    open_source,
)
from curb.serve import connector_rows
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError

app = typer.Typer(no_args_is_help=True, help="The state of the sources of spend, and checks of their access.")
_CHECK_TIMEOUT_S = 60.0
_CURSOR_CHARS = 60


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """List every connector: last contact, newest data, cursor and errors.

    Asks the running daemon, or else reads last records, cursors and dead letters from the log.
    """
    rows, refused = asking.ask(_rows(asking.load(config)))
    if json_lines:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return
    if not rows:
        typer.echo("no connector is configured")
        return
    table = Table(title="Connectors", title_justify="left", header_style="bold")
    for name in ("name", "kind", "lag", "data up to (UTC)", "records", "dead"):
        table.add_column(name, justify="right" if name in ("lag", "records", "dead") else "left", overflow="fold")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            Text(row["kind"]),
            _duration(row["lag_s"]),
            (row["newest_charge"] or "").replace("T", " ").removesuffix("Z"),
            f"{row['records']:,}",
            f"{row['dead_letters']:,}",
        )
    console = Console()
    console.print(table)
    render.refused_posts(console, refused)
    for row in rows:
        if row["cursor"]:
            console.print(Text(f"  {row['name']} goes on at {_short(row['cursor'])}"))
        if errors := _errors(row):
            console.print(Text(f"  {row['name']}: {errors}", "red"))
        for note in row["notes"]:
            console.print(Text(f"  {row['name']}: {note}", "yellow"))
        if row.get("last_24_h"):
            console.print(Text(f"  {row['name']}: {render.feed_line(row['last_24_h'])}"))
        for problem in row.get("problems", ()):
            console.print(Text(f"  {problem}", "yellow"), soft_wrap=True)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A configured connector.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_lines: JsonOption = False,
) -> None:
    """Test credentials and permissions with a few cheap read-only calls, and report missing ones.

    Exit code 1 when a test fails. It reads nothing into Curb and moves no cursor, so it may run beside the daemon.
    """
    loaded = asking.load(config)
    settings = next((each for each in loaded.connectors if each.name == name), None)
    if settings is None:
        names = ", ".join(each.name for each in loaded.connectors) or "none"
        typer.echo(f"no connector {name}; configured: {names}", err=True)
        raise typer.Exit(2)
    checks = asyncio.run(run_checks(loaded, settings))
    if settings.reads_bills:
        checks.append(Check("what becomes of it", True, "; ".join([promise(settings), *hollow(loaded)])))
    for each in checks:
        if json_lines:
            print(msgspec.json.encode(each._asdict()).decode())
        else:
            _show(each)
    raise typer.Exit(0 if all(each.ok for each in checks) else 1)


async def run_checks(config: CurbConfig, settings: ConnectorConfig) -> list[Check]:
    """The connector's own checks, and where data are pushed whether the daemon listens."""
    timeout = aiohttp.ClientTimeout(total=30, connect=10)
    async with aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "curb"}) as http:
        try:
            source = open_source(settings, wiring.connector_context(config, WallClock(), http))
        except (PermanentError, TransientError, OSError, ValueError, ImportError) as error:
            return [Check("build the connector", False, str(error))]
        checks: list[Check] = []
        match source:
            case Pull(connector):
                checks += await _tried_and_closed(connector)
            case Push(pushed):
                checks += [await _listens(config, settings.name), *await _tried(pushed)]
            case PushWithBackfill(Push(pushed), Pull(connector)):
                checks += [await _listens(config, settings.name), *await _tried(pushed)]
                checks += await _tried_and_closed(connector)
    return checks or [Check("build the connector", True, f"the kind {settings.kind} has nothing else to try")]


async def _tried_and_closed(connector: Connector) -> list[Check]:
    try:
        return await _tried(connector)
    finally:
        await connector.close()


async def _tried(part: object) -> list[Check]:
    if not isinstance(part, Checkable):
        return []
    try:
        return await asyncio.wait_for(part.check(), _CHECK_TIMEOUT_S)
    except (PermanentError, TransientError) as error:
        return [Check("reach the source", False, str(error))]
    except TimeoutError:
        return [Check("reach the source", False, f"no answer within {_CHECK_TIMEOUT_S:g} s")]


async def _listens(config: CurbConfig, name: str) -> Check:
    what = f"POST /v1/ingest/{name} is open"
    try:
        found = await offline.daemon_json(config, "/v1/connectors")
    except offline.NotReachableError as error:
        return Check(what, False, f"{error}; start it with `curb run`")
    row = next((each for each in found["connectors"] if each["name"] == name), None)
    if row is None:
        return Check(what, False, "the running daemon does not know it: restart it with this configuration")
    refused = [each["says"] for each in found.get("refused_posts", ())]
    heard = row["last_heard"] or "never: nothing was posted yet with its token"
    return Check(what, True, "; ".join([f"last heard {heard}", *(refused if row["last_heard"] is None else [])]))


async def _rows(config: CurbConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every connector, and what reached none, which only the daemon knows."""
    try:
        found = await offline.daemon_json(config, "/v1/connectors")
        return found["connectors"], found.get("refused_posts", [])
    except offline.NotReachableError as error:
        typer.echo(f"{error}; read from the log", err=True)
        return await connector_rows.of_log(config), []


def _show(check: Check) -> None:
    text = Text("ok   " if check.ok else "FAIL ", "green" if check.ok else "bold red") + Text(check.what, "")
    if check.detail:
        text += Text(f": {check.detail}", "")
    if check.permission and not check.ok:
        text += Text(f" (needs {check.permission})", "")
    Console(soft_wrap=True).print(text)


def _errors(row: dict[str, Any]) -> str:
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(row["errors"].items()))
    last = f"{row['last_error_at'] or ''} {row['last_error']}".strip() if row["last_error"] else ""
    return "; ".join(each for each in (counted, last) if each)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "never heard"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _short(cursor: str) -> str:
    return cursor if len(cursor) <= _CURSOR_CHARS else cursor[: _CURSOR_CHARS - 1] + "…"
