"""`curb budgets`: spent and forecast amounts, and the alerts of another amount."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from curb import wiring
from curb.cli import budget_table, offline
from curb.cli import common as asking
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.config.file import CurbConfig
from curb.detector.settings import DetectorSettings
from curb.stream.clock import WallClock
from curb.views import budget_history

app = typer.Typer(
    invoke_without_command=True, help="Spent and forecast amounts of budgets, and the alerts of another amount."
)
FromOption = Annotated[
    Path | None, typer.Option("--from", help="A recorded directory (or file) instead of the daemon or its log.")
]


@app.callback()
def budgets(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    source: FromOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also rows without spend.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """List budgets as a tree: spent, left, pace, forecast, and the date and probability of exceeding them.

    Asks the running daemon. Without one, it is counted from the log: as far back as the log goes.
    """
    if context.invoked_subcommand is not None:
        return
    loaded = asking.load_figures(config)
    counted = asking.ask(_running(loaded)) if source is None else recorded(source, loaded.detector)
    if json_lines:
        for _, row in budget_table.tree(counted.rows):
            print(msgspec.json.encode(row).decode())
        return
    budget_table.show(Console(), counted.rows, counted.until, every=every)


@app.command("what-if")
def what_if(
    name: Annotated[str, typer.Argument(help="A configured budget.")],
    amount: Annotated[float, typer.Option("--amount", min=0.01, help="The other amount, in the budget's currency.")],
    config: ConfigOption = DEFAULT_CONFIG,
    source: FromOption = None,
    json_lines: JsonOption = False,
) -> None:
    """Show the alerts another amount would have raised on recorded spend; changes nothing and sends no message."""
    loaded = asking.load_figures(config)
    try:
        settings = budget_history.what_if_settings(loaded.detector, name, amount)
    except KeyError:
        names = ", ".join(each.name for each in loaded.detector.budgets) or "none"
        typer.echo(f"no budget {name}; configured: {names}", err=True)
        raise typer.Exit(2) from None
    counted = asking.ask(on_the_log(loaded, settings)) if source is None else recorded(source, settings)
    found = budget_history.what_if(settings, counted)
    if json_lines:
        print(msgspec.json.encode(found.as_data()).decode())
        return
    budget_table.show_what_if(Console(), found)


async def _running(config: CurbConfig) -> budget_history.Counted:
    """From the daemon, else from the log."""
    try:
        rows = (await offline.daemon_json(config, "/v1/budgets"))["budgets"]
    except offline.NotReachableError as error:
        typer.echo(f"{error}; counted from the log", err=True)
        return await on_the_log(config, config.detector)
    return budget_history.Counted(rows, {}, {}, WallClock().now())


async def on_the_log(config: CurbConfig, settings: DetectorSettings) -> budget_history.Counted:
    """Where the budgets of `settings` stand by the log. Raises TransientError or PermanentError."""
    async with wiring.open_log(config, WallClock()) as log:
        return await budget_history.from_log(log, settings)


def recorded(source: Path, settings: DetectorSettings) -> budget_history.Counted:
    """Where budgets stood at the end of a recording; exit code 2 when it cannot be read."""
    try:
        return budget_history.from_directory(source, settings)
    except (OSError, ValueError) as error:
        typer.echo(f"budgets: {error}", err=True)
        raise typer.Exit(2) from None
