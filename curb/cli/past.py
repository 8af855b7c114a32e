"""Commands on the past: `backfill` gives an installation its history, `export` writes what is on the log."""

from __future__ import annotations

import asyncio
import gzip
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load
from curb.cli.offline import NotReachableError, daemon_status
from curb.logs import setup
from curb.stream.time import DAY_S

console = Console()


def _moment(text: str | None, otherwise: float) -> float:
    if text is None:
        return otherwise
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date such as 2026-10-01 or 2026-10-01T12:00+00:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def backfill(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of the past: Curb's lines, an event stream, LiteLLM spend logs, FOCUS."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Connectors to ask; default without files: all that can.")
    ] = None,
    days: Annotated[float, typer.Option("--days", min=0.1, max=400, help="How far back.")] = 30.0,
    since: Annotated[str | None, typer.Option("--since", help="From this moment instead (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Up to this moment; default: now.")] = None,
    form: Annotated[
        str, typer.Option("--format", help="What the files are: auto, curb, event_stream, litellm or focus.")
    ] = "auto",
    like: Annotated[
        str | None, typer.Option("--like", help="Read the files with this connector's map, tags and name.")
    ] = None,
) -> None:
    """Read the past into the log and learn it: counted once, without alerts about the past.

    It runs before the first start or while the daemon does, which then learns it within minutes. It can be interrupted
    and started again: it continues where it was, and what is on the log is left out.
    """
    from curb.backfill import Span
    from curb.backfill import backfill as run

    loaded = load(config)
    setup("warning", "text")
    now = datetime.now(UTC).timestamp()
    span = Span(_moment(since, now - days * DAY_S), _moment(until, now))
    oldest = now - loaded.detector.max_age_days * DAY_S
    if span.since < oldest:
        console.print(f"only the last {loaded.detector.max_age_days:g} days are read (detector.max_age_days)")
        span = span._replace(since=oldest)
    missing = [path for path in files or [] if not path.exists()]
    if missing:
        typer.echo(f"backfill: {missing[0]} does not exist", err=True)
        raise typer.Exit(2)
    runs = _daemon_runs(loaded)
    done = ask(run(loaded, files or [], source or [], form, like, span, console, learn=not runs))
    for each in done:
        counts = each.counts
        console.print(
            f"{each.what}: {counts.records:,} records (${counts.usd:,.2f}) appended, {counts.known:,} were on the log, "
            f"{counts.outside:,} lay outside the span"
        )
    console.print("the running daemon learns them now" if runs else "learned: the daemon starts with this past")


def _daemon_runs(loaded: Any) -> bool:
    try:
        asyncio.run(daemon_status(loaded))
    except NotReachableError:
        return False
    return True


def export(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .jsonl or .jsonl.gz; default: standard output.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    since: Annotated[str | None, typer.Option("--since", help="From this moment of charge on (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Up to this moment.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only records with this tag: name=value; all that are given.")
    ] = None,
) -> None:
    """Write the records of the log as JSON lines, in order of receipt, each once.

    `curb backtest`, `curb replay` and the notebooks read them. Bills are left out: a back-test has no place for them.
    """
    from curb.export import export as run

    loaded = load(config)
    wanted = dict(_pair(each) for each in tag or [])
    span = (_moment(since, 0.0), _moment(until, float("inf")))
    if out is None:
        ask(run(loaded, span, wanted, sys.stdout.buffer))
        return
    opened: Any = gzip.open(out, "wb") if out.suffix == ".gz" else out.open("wb")  # noqa: SIM115 - closed below
    with opened as file:
        count = ask(run(loaded, span, wanted, file))
    console.print(f"{count:,} records written to {out}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not name=value")
    return name, value


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backfill)
    app.command()(export)
