"""Commands to operate an installation: run it, check its file, show its state, alerts and spend, halt and resume."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from curb.cli import offline, render
from curb.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    ask,
    load,
    load_figures,
    load_log,
    person,
    refuse_unknown_scope,
)
from curb.config.errors import ConfigErrors
from curb.config.file import CurbConfig
from curb.logs import setup
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.views.unit_costs import WantedUnitCost, resolve
from curb.wiring import certificate_faults, faults_of_own_kinds, load_prices

console = Console()


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; it then drains and commits everything it has read."""
    from curb.run import run_daemon

    loaded = load(config)
    setup(loaded.logging.level, loaded.logging.format)
    raise typer.Exit(asyncio.run(run_daemon(loaded)))


def check_config(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check a configuration and print every error with its YAML path and a hint. Exit code 2 on errors."""
    loaded = load(config)
    try:
        book = load_prices(loaded.prices)
    except PermanentError as error:
        typer.echo(f"{config}: {error}", err=True)
        raise typer.Exit(2) from None
    if faults := [*certificate_faults(loaded), *asyncio.run(faults_of_own_kinds(loaded, WallClock()))]:
        typer.echo(f"{config}: {ConfigErrors(faults)}", err=True)
        raise typer.Exit(2)
    render.config_summary(console, config, loaded, book)


def status(config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """Show the running daemon: freshness, top spenders, budgets, firing alerts, actions in force."""
    loaded = load(config)
    try:
        found = asyncio.run(offline.daemon_status(loaded))
    except offline.NotReachableError as error:
        typer.echo(f"{error}\nThe log can still be read: curb alerts, curb actions list.", err=True)
        raise typer.Exit(1) from None
    render.status(console, found, json_lines)


def alerts(
    config: ConfigOption = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", help="Also resolved alerts.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """List alerts on the log, most dollars at risk first; works with the daemon up or down."""
    view = ask(offline.load_view(load_log(config)))
    render.alerts(console, list(view.alerts.values()) if every else view.firing(), json_lines)


def spend(
    config: ConfigOption = DEFAULT_CONFIG,
    scope: Annotated[str | None, typer.Option("--scope", help="The scope to sum; default: key.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Tags to sum by, separated by commas, such as team.")] = None,
    unit: Annotated[
        str | None,
        typer.Option("--unit", help="Also dollars per requests, tokens (1,000), runs, or value of a tag (customer)."),
    ] = None,
    json_lines: JsonOption = False,
) -> None:
    """Sum dollars per series of a scope from the log; works with the daemon up or down.

    With --by and --unit: dollars per request, per 1,000 tokens, per customer, per run of a training job.
    """
    loaded = load_figures(config)
    if by is None and unit is None:
        rows = ask(offline.spend_totals(loaded, scope or "key"))
        if not rows:
            refuse_unknown_scope("spend", loaded, scope or "key")
        return render.spend(console, rows, json_lines)
    tags = tuple(tag.strip() for tag in (by or "team").split(",") if tag.strip())
    try:
        resolved = resolve(WantedUnitCost(by=tags or ("team",), unit=unit or "requests", scope=scope), loaded.detector)
    except ValueError as error:
        typer.echo(f"spend: {error}", err=True)
        raise typer.Exit(2) from None
    render.unit_costs(console, ask(offline.unit_costs(loaded, resolved)), resolved, json_lines)


def halt(
    config: ConfigOption = DEFAULT_CONFIG,
    reason: Annotated[str, typer.Option("--reason", help="Kept on the log.")] = "",
) -> None:
    """Stop new actions at once, also after a restart. Actions in force still end with their lease."""
    _command(load_log(config), "halt", {"reason": reason}, "halted: nothing new is throttled until `curb resume`")


def resume(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Allow new actions again after `curb halt`."""
    _command(load_log(config), "resume", {}, "resumed")


def _command(config: CurbConfig, kind: str, args: dict[str, str], said: str) -> None:
    ask(offline.send_command(config, kind, args, by=person()))
    typer.echo(said)
