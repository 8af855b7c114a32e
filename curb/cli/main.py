"""The `curb` command: one function a command, each thin; the work is elsewhere."""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from curb.actions.ledger.ledger import ActionState
from curb.cli import actions as acting
from curb.cli import explain, knowledge, offline, past, render
from curb.cli.budgets import app as budgets_app
from curb.cli.common import ConfigOption, JsonOption, ask, load, person
from curb.cli.connectors import app as connectors_app
from curb.cli.drill import drill
from curb.cli.exposure import exposure
from curb.cli.init.command import init
from curb.cli.preflight.command import preflight
from curb.cli.prices import app as prices_app
from curb.cli.reconcile import reconcile
from curb.cli.report import report
from curb.cli.tune import tune
from curb.config.file import CurbConfig
from curb.logs import setup
from curb.stream.errors import PermanentError, TransientError
from curb.views.unit_costs import WantedUnitCost, resolve

app = typer.Typer(
    name="curb",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Watches AI and cloud spend as it streams in, and throttles runaway keys.

Start here: [bold]curb demo[/bold] shows one incident from start to end on real traffic in about a minute.
Then: [bold]curb init[/bold] writes curb.yaml for your gateway, [bold]curb run -c curb.yaml[/bold] starts Curb, and from
another terminal [bold]curb status[/bold], [bold]curb alerts[/bold], [bold]curb actions list[/bold].

Curb starts in shadow mode: it reports its plans and changes nothing until you set `actions.mode`.
If anything looks wrong: [bold]curb halt[/bold] stops new actions at once; leases still end and limits are restored.""",
)
actions_app = typer.Typer(no_args_is_help=True, help="Actions on the ledger: list, show, approve, undo.")
app.add_typer(actions_app, name="actions")
app.add_typer(budgets_app, name="budgets")
app.add_typer(connectors_app, name="connectors")
app.add_typer(prices_app, name="prices")

console = Console()
_DEFAULT = Path("curb.yaml")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"curb {metadata.version('curbd')}")
    except metadata.PackageNotFoundError:
        typer.echo("curb from a checkout that is not installed; see: make setup")
    raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options before any command."""


app.command()(init)


@app.command()
def run(config: ConfigOption = _DEFAULT) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; it then drains and commits everything it has read."""
    from curb.run import run_daemon

    loaded = load(config)
    setup(loaded.logging.level, loaded.logging.format)
    raise typer.Exit(asyncio.run(run_daemon(loaded)))


@app.command()
def reaper(
    config: ConfigOption = _DEFAULT,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two checks of the ledger.")] = 30.0,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds to wait after a lease; a running daemon is faster."),
    ] = 120.0,
    once: Annotated[
        bool, typer.Option("--once", help="Check once, for cron; exit code 1 when a lease is still overdue.")
    ] = False,
    dry_run: acting.DryRunOption = False,
) -> None:
    """Restore limits at the end of their lease, also while the daemon is dead. It never sets a limit of its own.

    Run it beside the daemon, with the same configuration, where the same fault does not stop both. It needs the log
    and the gateways. With --dry-run it checks once and lists overdue leases; exit code 1 when there is one.
    """
    from curb.cli.reaper import overdue, run_reaper

    loaded = load(config)
    if dry_run:
        found = ask(overdue(loaded, grace_s=grace))
        for entry in found:
            console.print(acting.would_restore(entry), soft_wrap=True)
        raise typer.Exit(1 if found else 0)
    setup(loaded.logging.level, loaded.logging.format)
    raise typer.Exit(asyncio.run(run_reaper(loaded, every_s=every, grace_s=grace, once=once)))


@app.command("check-config")
def check_config(config: ConfigOption = _DEFAULT) -> None:
    """Check a configuration and print every error with its YAML path and a hint. Exit code 2 on errors."""
    from curb.wiring import load_prices

    loaded = load(config)
    try:
        book = load_prices(loaded.prices)
    except PermanentError as error:
        typer.echo(f"{config}: {error}", err=True)
        raise typer.Exit(2) from None
    render.config_summary(console, config, loaded, book)


@app.command()
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


@app.command()
def replay(
    source: Annotated[Path, typer.Argument(help="A usage file (.jsonl or .jsonl.gz), or a directory of them.")],
    config: ConfigOption = _DEFAULT,
    form: Annotated[str, typer.Option("--format", help="`auto`, `curb` or `event_stream`.")] = "auto",
    notify: Annotated[bool, typer.Option("--notify", help="Send alerts to the configured notifiers.")] = False,
) -> None:
    """Feed recorded usage through the configured log, rollup and detector, in event time, then stop.

    A replay takes no action, and sends no message without --notify. Use it to try a configuration on recorded days;
    `curb backfill` gives an installation its history. It can be interrupted at any point and started again: it
    continues where it was, and no sum or alert is lost or doubled.
    """
    from curb.cli.offline import run_replay

    loaded = load(config)
    setup("warning", "text")
    raise typer.Exit(ask(run_replay(loaded, source, form, console, notify=notify)))


@app.command()
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
        int, typer.Option("--bucket-s", min=0, help="Bucket length in seconds; 0 takes the step of the stream.")
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


@app.command()
def status(config: ConfigOption = _DEFAULT, json_lines: JsonOption = False) -> None:
    """Show the running daemon: freshness, top spenders, budgets, firing alerts, actions in force."""
    loaded = load(config)
    try:
        found = asyncio.run(offline.daemon_status(loaded))
    except offline.NotReachableError as error:
        typer.echo(f"{error}\nThe log can still be read: curb alerts, curb actions list.", err=True)
        raise typer.Exit(1) from None
    render.status(console, found, json_lines)


@app.command()
def alerts(
    config: ConfigOption = _DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Also resolved alerts.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """List alerts on the log, most dollars at risk first; works with the daemon up or down."""
    view = ask(offline.load_view(load(config)))
    render.alerts(console, list(view.alerts.values()) if every else view.firing(), json_lines)


@app.command()
def spend(
    config: ConfigOption = _DEFAULT,
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
    loaded = load(config)
    if by is None and unit is None:
        return render.spend(console, ask(offline.spend_totals(loaded, scope or "key")), json_lines)
    tags = tuple(tag.strip() for tag in (by or "team").split(",") if tag.strip())
    try:
        resolved = resolve(WantedUnitCost(by=tags or ("team",), unit=unit or "requests", scope=scope), loaded.detector)
    except ValueError as error:
        typer.echo(f"spend: {error}", err=True)
        raise typer.Exit(2) from None
    render.unit_costs(console, ask(offline.unit_costs(loaded, resolved)), resolved, json_lines)


@actions_app.command("list")
def actions_list(
    config: ConfigOption = _DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Also finished actions.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """List actions in force or planned; with --all every action on the ledger."""
    view = ask(offline.load_view(load(config)))
    entries = [e[-1] for e in view.actions.values() if every or e[-1].state in render.OPEN_STATES]
    render.actions(console, entries, json_lines)


@actions_app.command("show")
def actions_show(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = _DEFAULT,
    json_lines: JsonOption = False,
) -> None:
    """Show the history of one action: plan, values before and after, lease, effect, people."""
    view = ask(offline.load_view(load(config)))
    if action_id not in view.actions:
        typer.echo(f"no action {action_id} on the ledger; see: curb actions list --all", err=True)
        raise typer.Exit(1)
    render.action_life(console, view.actions[action_id], json_lines)


@actions_app.command("undo")
def actions_undo(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = _DEFAULT,
    dry_run: acting.DryRunOption = False,
) -> None:
    """Undo an action now. Only values that are still Curb's are restored; anything else is reported as drift."""
    loaded = load(config)
    view = ask(offline.load_view(loaded))
    if action_id not in view.actions:
        typer.echo(f"no action {action_id} on the ledger; see: curb actions list --all", err=True)
        raise typer.Exit(1)
    if dry_run:
        state = ActionState(view.actions[action_id])
        is_held = state.is_held
        said = acting.would_restore(state.last) if is_held else f"nothing to undo: it is {state.last.state}"
        return console.print(said, soft_wrap=True)
    _command(loaded, "undo", {"action_id": action_id}, "undo requested; a running daemon carries it out at once")


@app.command()
def forecast(
    source: Annotated[
        Path | None,
        typer.Argument(help="Recorded events, a directory or a file. Default: the running daemon, or its log."),
    ] = None,
    config: ConfigOption = _DEFAULT,
    scope: Annotated[str, typer.Option("--scope", help="The scope whose series to forecast.")] = "team",
    top: Annotated[int, typer.Option("--top", min=1, help="Number of series, most dollars first.")] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="No fits (Holt-Winters, Prophet): a fast answer.")] = False,
    chart: Annotated[Path | None, typer.Option("--chart", help="Write a PNG of the first four here.")] = None,
    json_lines: JsonOption = False,
) -> None:
    """Forecast the cost of each tag at the end of its period, with an interval, and when its budget is exceeded."""
    from curb.cli.forecast import run_forecast

    loaded = CurbConfig() if source is not None and not config.exists() else load(config)
    try:
        code = run_forecast(
            loaded, source, scope=scope, top=top, quick=quick, chart=chart, json_lines=json_lines, console=console
        )
    except (OSError, PermanentError, TransientError) as error:
        typer.echo(f"forecast: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


app.command()(preflight)


@app.command()
def halt(
    config: ConfigOption = _DEFAULT,
    reason: Annotated[str, typer.Option("--reason", help="Kept on the log.")] = "",
) -> None:
    """Stop new actions at once, also after a restart. Actions in force still end with their lease."""
    _command(load(config), "halt", {"reason": reason}, "halted: nothing new is throttled until `curb resume`")


@app.command()
def resume(config: ConfigOption = _DEFAULT) -> None:
    """Allow new actions again after `curb halt`."""
    _command(load(config), "resume", {}, "resumed")


def _command(config: CurbConfig, kind: str, args: dict[str, str], said: str) -> None:
    ask(offline.send_command(config, kind, args, by=person()))
    typer.echo(said)


app.command()(reconcile)
app.command()(report)
app.command()(tune)
knowledge.register(app)
past.register(app)
explain.register(app)
acting.register(knowledge.plan_app, actions_app)
app.command()(drill)
app.command()(exposure)


def main() -> None:
    """Entry point of the `curb` command."""
    setup("warning", "text")
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
