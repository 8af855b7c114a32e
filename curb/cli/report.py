"""`curb report`: spend of a week or a month per tag, for the terminal, as a page, or for the finance team's tools."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.console import Console

from curb.actions.notify.protocol import NotifierConfig
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load, load_figures
from curb.config.file import CurbConfig
from curb.report import sheets, table
from curb.report.charges import Charges, Money
from curb.report.figures import SpendReport, make_report
from curb.report.kpi import Kpi, read_kpi
from curb.report.span import ReportPeriod, span_of
from curb.stream.clock import WallClock

#: Columns of a table that is written to a file, which has no width of its own. By hand.
_WIDTH = 140
ReportFormat = Literal["table", "html", "csv", "json", "focus"]


_MONEY_HELP = "Estimated from usage and GPUs, billed, or both added up. Default: estimated where there are any."
FromDay = Annotated[
    str | None, typer.Option("--from", help="First day instead, such as 2026-10-01, in the detector's time zone.")
]
ToDay = Annotated[
    str | None, typer.Option("--to", help="The day after the last; default: the end of the period of --from.")
]
ByTags = Annotated[
    list[str] | None,
    typer.Option("--by", help="Tags to report by, separated by commas or repeated: team, customer, model."),
]
KpiFiles = Annotated[
    list[Path] | None,
    typer.Option("--kpi", help="CSV of a business figure: day, tags, and value (summed) or level (averaged)."),
]


def report(
    config: ConfigOption = DEFAULT_CONFIG,
    period: Annotated[ReportPeriod, typer.Option("--period", help="The last full week or month.")] = "month",
    since: FromDay = None,
    until: ToDay = None,
    by: ByTags = None,
    money: Annotated[Money | None, typer.Option("--money", help=_MONEY_HELP)] = None,
    kpi: KpiFiles = None,
    form: Annotated[ReportFormat, typer.Option("--format", help="How the report is written.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file instead of standard output.")] = None,
    send: Annotated[
        list[str] | None,
        typer.Option("--send", help="A notifier that gets it, with the page as a file; may be repeated."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table, most dollars first.")] = 20,
) -> None:
    """Report spend of a week or month per tag: change, budgets, unit costs, untagged share, anomalies, savings.

    Reads the log, with the daemon up or down. The rows of every format add up to the total of the log. `focus` writes
    the charges themselves as FOCUS 1.2: a row per day, provider, model or service, and tags.
    """
    loaded = load(config) if send else load_figures(config)
    tags = list(dict.fromkeys(tag.strip() for each in by or ["team"] for tag in each.split(",") if tag.strip()))
    try:
        kpis = [read_kpi(path) for path in kpi or []]
        span = span_of(period, since, until, WallClock().now(), ZoneInfo(loaded.detector.time_zone))
        if not tags:
            raise ValueError("--by names no tag")
        _unique(kpis)
        channels = _channels(loaded, send or [])
    except (OSError, ValueError) as error:
        typer.echo(f"report: {error}", err=True)
        raise typer.Exit(2) from None
    made, charges = ask(make_report(loaded, span, tags, kpis, money, lines=form == "focus"))
    if channels:
        _send(made, channels)
    if channels and out is None:
        return
    if form == "table" and out is None:
        table.show(Console(), made, top)
        return
    text = _text(form, made, charges, top)
    if out is None:
        # As bytes: line ends of a CSV are the file's own.
        typer.get_binary_stream("stdout").write(text.encode())
        return
    try:
        _write(out, text)
    except OSError as error:
        typer.echo(f"report: {out}: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"report of {span} written to {out}", err=True)
    for note in made.notes:
        typer.echo(f"  {note}", err=True)


def _channels(loaded: CurbConfig, names: Sequence[str]) -> list[NotifierConfig]:
    """The notifiers of these names. Raises ValueError for a name that there is not."""
    configs = {each.name: each for each in loaded.actions.notifiers}
    if missing := [name for name in dict.fromkeys(names) if name not in configs]:
        known = ", ".join(configs) or "none"
        raise ValueError(f"--send: no notifier is called {', '.join(missing)}; there are: {known}")
    return [configs[name] for name in dict.fromkeys(names)]


def _send(made: SpendReport, channels: Sequence[NotifierConfig]) -> None:
    """Exit code 1 when a channel did not get it."""
    from curb.report.letter import send_report

    failed = asyncio.run(send_report(made, channels, WallClock()))
    for channel in channels:
        said = f"not sent to {channel.name}: {failed[channel.name]}" if channel.name in failed else ""
        typer.echo(f"report: {said}" if said else f"report sent to {channel.name}", err=True)
    if failed:
        raise typer.Exit(1)


def _unique(kpis: list[Kpi]) -> None:
    names = [each.name for each in kpis]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two files of --kpi are called {', '.join(twice)}: the name of a file is the figure's")


def _text(form: ReportFormat, made: SpendReport, charges: Charges, top: int) -> str:
    match form:
        case "html":
            from curb.report import page  # Jinja takes a tenth of a second, which other commands need not wait for

            return page.page(made)
        case "csv":
            return sheets.group_csv(made)
        case "focus":
            return sheets.focus_csv(made, charges)
        case "json":
            return msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n"
        case "table":
            shown = io.StringIO()
            table.show(Console(file=shown, width=_WIDTH), made, top)
            return shown.getvalue()


def _write(path: Path, text: str) -> None:
    """The whole file or none of it: nobody reads a half-written report."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
