"""The `curb` command: names and help lines of its commands; each command's module is imported when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from curb.cli.lazy import LazyCommand, LazyGroup
from curb.logs import setup

#: In the order of `curb --help`. A test compares the help lines with those of the commands.
COMMANDS = {
    "init": LazyCommand(
        "curb.cli.init.command:init",
        "Write a first curb.yaml: ask for the gateway, the log, Slack and a budget, try each, and propose caps.",
    ),
    "run": LazyCommand(
        "curb.cli.operate:run",
        "Run the daemon until SIGTERM or Ctrl-C; it then drains and commits everything it has read.",
    ),
    "reaper": LazyCommand(
        "curb.cli.reaper:reaper",
        "Restore limits at the end of their lease, also while the daemon is dead. It never sets a limit of its own.",
    ),
    "check-config": LazyCommand(
        "curb.cli.operate:check_config",
        "Check a configuration and print every error with its YAML path and a hint. Exit code 2 on errors.",
    ),
    "demo": LazyCommand(
        "curb.cli.past:demo",
        "Show one incident from start to end on real traffic: an agent loop, the alert, the throttle, the restore.",
    ),
    "replay": LazyCommand(
        "curb.cli.past:replay",
        "Feed recorded usage through the configured log, rollup and detector, in event time, then stop.",
    ),
    "backtest": LazyCommand(
        "curb.cli.past:backtest",
        "Replay a recorded stream in memory, in arrival order, and write every alert Curb would have raised.",
    ),
    "status": LazyCommand(
        "curb.cli.operate:status",
        "Show the running daemon: freshness, top spenders, budgets, firing alerts, actions in force.",
    ),
    "alerts": LazyCommand(
        "curb.cli.operate:alerts",
        "List alerts on the log, most dollars at risk first; works with the daemon up or down.",
    ),
    "spend": LazyCommand(
        "curb.cli.operate:spend",
        "Sum dollars per series of a scope from the log; works with the daemon up or down.",
    ),
    "forecast": LazyCommand(
        "curb.cli.forecast:forecast",
        "Forecast the cost of each tag at the end of its period, with an interval, and when its budget is exceeded.",
    ),
    "preflight": LazyCommand(
        "curb.cli.preflight.command:preflight",
        "Ask whether a run fits its budgets before it starts: by dollars, GPU hours, calls of a model, or a manifest.",
    ),
    "halt": LazyCommand(
        "curb.cli.operate:halt",
        "Stop new actions at once, also after a restart. Actions in force still end with their lease.",
    ),
    "resume": LazyCommand(
        "curb.cli.operate:resume",
        "Allow new actions again after `curb halt`.",
    ),
    "reconcile": LazyCommand(
        "curb.cli.reconcile:reconcile",
        "Compare estimated and billed dollars per pair of sources: capture ratio, its bounds, expected bill.",
    ),
    "report": LazyCommand(
        "curb.cli.report:report",
        "Report spend of a week or month per tag: change, budgets, unit costs, untagged share, anomalies, savings.",
    ),
    "tune": LazyCommand(
        "curb.cli.tune:tune",
        "Tune the thresholds on your own history: inject incidents into it, back-test some settings, recommend one.",
    ),
    "annotate": LazyCommand(
        "curb.cli.knowledge:annotate",
        "Record a deploy or a launch; alerts that start within two hours of it name it.",
    ),
    "feedback": LazyCommand(
        "curb.cli.knowledge:feedback",
        "Give feedback on an alert. It changes what Curb learns and when it alerts again.",
    ),
    "backfill": LazyCommand(
        "curb.cli.past:backfill",
        "Read the past into the log and learn it: counted once, without alerts about the past.",
    ),
    "export": LazyCommand(
        "curb.cli.past:export",
        "Write the records of the log as JSON lines, in order of receipt, each once.",
    ),
    "forget": LazyCommand(
        "curb.cli.forget:forget_command",
        "Replace a value of a tag, such as a person, by a random name in all that Curb keeps. Stop every daemon first.",
    ),
    "explain": LazyCommand(
        "curb.cli.explain:explain",
        "Explain an alert: the deciding figures, its sources, similar alerts, and events around it.",
    ),
    "mcp": LazyCommand(
        "curb.cli.assistant.command:mcp",
        "Serve spend, alerts, budgets and leases to an assistant over MCP, read-only; its one verb proposes an action.",
    ),
    "drill": LazyCommand(
        "curb.cli.drill:drill",
        "Throttle a probe key or job of your own at the real gateway and give it back. Exit code 1 when a step fails.",
    ),
    "exposure": LazyCommand(
        "curb.cli.exposure:exposure",
        "Rank what every key could burn in an hour with the limits that are enforced now, no limit first.",
    ),
    "verify-limits": LazyCommand(
        "curb.cli.verify_limits:verify_limits",
        "Try whether LiteLLM enforces requests and tokens a minute and budgets, with real calls on keys of Curb's own.",
    ),
    "actions": LazyCommand(
        "curb.cli.actions:app",
        "Actions on the ledger: list, show, approve, undo.",
    ),
    "budgets": LazyCommand(
        "curb.cli.budgets:app",
        "Spent and forecast amounts of budgets, and the alerts of another amount.",
    ),
    "connectors": LazyCommand(
        "curb.cli.connectors:app",
        "The state of the sources of spend, and checks of their access.",
    ),
    "prices": LazyCommand(
        "curb.cli.prices:app",
        "Prices of models, and updates of the price book.",
    ),
    "plan": LazyCommand(
        "curb.cli.knowledge:plan_app",
        "Preview the actions for every firing alert: target, values before and after, rung, mode, or "
        "the reason for none.",
    ),
    "silence": LazyCommand(
        "curb.cli.knowledge:silence_app",
        "Mute matching alerts until a date.",
    ),
    "increase": LazyCommand(
        "curb.cli.knowledge:increase_app",
        "Raise a budget until a date.",
    ),
}


class _Curb(LazyGroup):
    table = COMMANDS


app = typer.Typer(
    name="curb",
    cls=_Curb,
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


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

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


def main() -> None:
    """Entry point of the `curb` command."""
    setup("warning", "text")
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
