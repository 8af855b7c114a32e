"""Commands on recorded usage: the demo, a replay, a back-test, `backfill` for history, `export` of the log."""

from __future__ import annotations

import asyncio
import gzip
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load, load_log
from curb.cli.offline import NotReachableError, daemon_status, run_replay
from curb.config.file import CurbConfig
from curb.logs import setup
from curb.stream.time import DAY_S

console = Console()


def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="A demo's trace and configuration; default: the ones shipped with Curb."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the results are written.")] = Path("demo-out"),
    speed: Annotated[
        float | None,
        typer.Option("--speed", min=10, max=1000, help="Event seconds per second; default: 240, or 600 with --quick."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less history and a shorter incident: checks an installation in seconds.")
    ] = False,
) -> None:
    """Show one incident from start to end on real traffic: an agent loop, the alert, the throttle, the restore."""
    from curb.demo.run import run_demo

    raise typer.Exit(asyncio.run(run_demo(directory, out, speed, console, quick=quick)))


def replay(
    source: Annotated[Path, typer.Argument(help="A usage file (.jsonl or .jsonl.gz), or a directory of them.")],
    config: ConfigOption = DEFAULT_CONFIG,
    form: Annotated[str, typer.Option("--format", help="`auto`, `curb` or `event_stream`.")] = "auto",
    notify: Annotated[bool, typer.Option("--notify", help="Send alerts to the configured notifiers.")] = False,
) -> None:
    """Feed recorded usage through the configured log, rollup and detector, in event time, then stop.

    A replay takes no action, and sends no message without --notify. Use it to try a configuration on recorded days;
    `curb backfill` gives an installation its history. It can be interrupted at any point and started again: it
    continues where it was, and no sum or alert is lost or doubled.
    """
    loaded = load(config)
    setup("warning", "text")
    raise typer.Exit(ask(run_replay(loaded, source, form, console, notify=notify)))


def backtest(
    directory: Annotated[
        Path,
        typer.Argument(
            help="A directory with events.jsonl.gz, or the file itself; or a bill: a folder per delivery, named by its "
            "time (2026-10-01T06-00-00Z), with the files as the vendor lays them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the alerts, one JSON object a line.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings to test; default: the shipped ones.")
    ] = None,
    bucket_s: Annotated[
        int,
        typer.Option(
            "--bucket-s",
            min=0,
            help="Seconds of a bucket; 0: the step of the stream, `detector.bucket_s` at least.",
        ),
    ] = 0,
) -> None:
    """Replay a recorded stream in memory, in arrival order, and write every alert Curb would have raised."""
    from curb.bill_backtest import deliveries, run_bill_backtest
    from curb.evaluate.backtest import run_backtest

    setup("error", "text")  # the summary counts unreadable lines
    loaded = load(config) if config else CurbConfig()
    try:
        if directory.is_dir() and deliveries(directory):
            run_bill_backtest(directory, out, loaded, console)
        else:
            run_backtest(directory, out, loaded.detector, bucket_s, console)
    except (OSError, ValueError) as error:
        typer.echo(f"backtest: {error}", err=True)
        raise typer.Exit(2) from None


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
            + (f"; {counts.refused:,} could not be read and are dead letters" if counts.refused else "")
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

    loaded = load_log(config)
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
