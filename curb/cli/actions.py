"""`curb plan`, and `curb actions` with `approve`, `deny`, `extend`, `leave` and `restore-all`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.text import Text

from curb import wiring
from curb.actions.action import Action
from curb.actions.ledger.ledger import IN_FORCE, ActionState
from curb.actions.lifecycle.preview import PreviewLine, preview, read_memory
from curb.actions.lifecycle.reaper import Reaper
from curb.actions.notify import wording
from curb.cli import offline, render
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, ask, load, load_log, person
from curb.config.file import CurbConfig
from curb.format import tags_text
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import Command, LedgerEntry

app = typer.Typer(no_args_is_help=True, help="Actions on the ledger: list, show, approve, undo.")
console = Console()
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be restored; change nothing.")]


def plan(context: typer.Context, config: ConfigOption = DEFAULT_CONFIG, json_lines: JsonOption = False) -> None:
    """Preview the actions for every firing alert: target, values before and after, rung, mode, or the reason for none.

    Reads the log and the targets, with the daemon up or down, and changes neither. The commands below announce planned
    work, with the dollars it may cost.
    """
    if context.invoked_subcommand is not None:
        return
    lines = ask(_planned(load(config)))
    if json_lines:
        for line in lines:
            print(msgspec.json.encode(_as_json(line)).decode())
        return
    _show(lines)


@app.command("list")
def actions_list(
    config: ConfigOption = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", help="Also finished actions.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """List actions in force or planned; with --all every action on the ledger."""
    view = ask(offline.load_view(load_log(config)))
    entries = [e[-1] for e in view.actions.values() if every or e[-1].state in render.OPEN_STATES]
    render.actions(console, entries, json_lines)


@app.command("show")
def actions_show(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_lines: JsonOption = False,
) -> None:
    """Show the history of one action: plan, values before and after, lease, effect, people."""
    view = ask(offline.load_view(load_log(config)))
    if action_id not in view.actions:
        typer.echo(f"no action {action_id} on the ledger; see: curb actions list --all", err=True)
        raise typer.Exit(1)
    render.action_life(console, view.actions[action_id], json_lines)


@app.command("undo")
def actions_undo(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
) -> None:
    """Undo an action now. Only values that are still Curb's are restored; anything else is reported as drift."""
    loaded = load_log(config)
    view = ask(offline.load_view(loaded))
    if action_id not in view.actions:
        typer.echo(f"no action {action_id} on the ledger; see: curb actions list --all", err=True)
        raise typer.Exit(1)
    if dry_run:
        state = ActionState(view.actions[action_id])
        is_held = state.is_held
        said = would_restore(state.last) if is_held else f"nothing to undo: it is {state.last.state}"
        return console.print(said, soft_wrap=True)
    ask(offline.send_command(loaded, "undo", {"action_id": action_id}, by=person()))
    typer.echo("undo requested; a running daemon carries it out at once")


@app.command()
def approve(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Approve a proposed action. `actions.approvers` lists who may, by user name."""
    _answer(load_log(config), action_id, "approve")


@app.command()
def deny(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Deny a proposed action; Curb does not propose it again for this alert."""
    _answer(load_log(config), action_id, "deny")


@app.command()
def extend(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Extend an action in force by one more lease of its length, from now. What was approved takes an approver."""
    loaded = load_log(config)
    entries = ask(offline.load_view(loaded)).actions.get(action_id)
    if entries is None or entries[-1].state not in IN_FORCE:
        typer.echo(f"{action_id} is not in force; see: curb actions list", err=True)
        raise typer.Exit(1)
    by = person()
    ask(offline.send_command(loaded, "extend", {"action_id": action_id}, by=by))
    typer.echo(f"extend by {by} is on the log; see the result: curb actions show {action_id}")


@app.command()
def leave(
    action_id: Annotated[str, typer.Argument(help="The id from `curb actions list`.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Leave an action's change in force for good: Curb no longer tries to give it back, and never undoes it.

    For what cannot be given back, with the daemon up or down. Nothing is changed at the gateway.
    """
    entry = ask(_leave(load_log(config), action_id, person()))
    if entry is None:
        typer.echo(f"{action_id} is not in force; see: curb actions list", err=True)
        raise typer.Exit(1)
    console.print(Text(f"{entry.action_id}  {entry.detail}"))


@app.command("restore-all")
def restore_all(
    config: ConfigOption = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Restore every limit that Curb holds, now, with the daemon up or down. Exit code 1 when one is left.

    Only values that are still Curb's are restored; anything else is reported as drift. A running daemon may act on new
    alerts: `curb halt` stops that.
    """
    loaded = load(config)
    held = ask(_held(loaded))
    if not held:
        typer.echo("nothing is held")
        return
    for entry in held:
        console.print(would_restore(entry))
    if dry_run:
        return
    if not yes and not typer.confirm(f"Restore {len(held)}?"):
        raise typer.Exit(1)
    ended, left = ask(_restore(loaded, person()))
    for entry in ended:
        console.print(Text(f"{entry.action_id}  {entry.state}: {entry.detail}"))
    for entry in left:
        why = entry.refusal or "it could not be reached"
        console.print(Text(f"{entry.action_id}  still held: {entry.plan.target}: {why}", "red"))
    if left:
        typer.echo("some limits are not restored; a running daemon or reaper goes on trying", err=True)
        raise typer.Exit(1)


def would_restore(entry: LedgerEntry) -> Text:
    """The changes that an undo makes, from the ledger."""
    return Text(f"{entry.action_id}  {entry.plan.target}  {entry.plan.after} → {entry.plan.before}")


# --- plan -----------------------------------------------------------------------------------------------------------


async def _planned(config: CurbConfig) -> list[PreviewLine]:
    async with opened(config) as of:
        memory = await read_memory(of.log, of.clock)
        return [line async for line in preview(memory, config.actions, of.actions, of.clock)]


def _as_json(line: PreviewLine) -> dict[str, Any]:
    alert = line.alert
    return {
        "alert_id": alert.alert_id,
        "tags": alert.tags,
        "usd_per_hour": alert.usd_per_hour,
        "dollars_at_risk": alert.dollars_at_risk,
        **{key: value for key, value in line._asdict().items() if key != "alert"},
    }


def _show(lines: list[PreviewLine]) -> None:
    if not lines:
        console.print("no firing alert; nothing to do")
    alert_id = ""
    for line in lines:
        alert = line.alert
        if alert.alert_id != alert_id:
            alert_id = alert.alert_id
            head = Text(f"{alert.tier} {alert.kind} ", "bold") + tags_text(alert.tags)
            console.print(head + Text(f" {wording.money(alert)}  {alert_id}"), soft_wrap=True)
        console.print(_described(line), soft_wrap=True)
    count = sum(_is_done(line) for line in lines)
    if lines:
        console.print(f"{count} to change now, {sum(_is_proposed(line) for line in lines)} to propose")


def _described(line: PreviewLine) -> Text:
    rung = f"rung {line.rung} of {line.rungs}, {line.do}, {line.mode}: " if line.rung else ""
    if line.plan is None:
        return Text(f"    {rung}{line.why_not}", "dim")
    sign = "~" if _is_done(line) else "?" if _is_proposed(line) else " "
    text = Text(f"  {sign} {line.plan.target}  ", "bold" if sign != " " else "dim")
    fields = ", ".join(f"{key} {_value(line.plan.before.get(key))} → {_value(v)}" for key, v in line.plan.after.items())
    text += Text(f"{fields}\n      {rung}{line.plan.summary}" + (f"; {line.why}" if line.why else ""))
    if line.plan.warning:
        text += Text(f"\n      warning: {line.plan.warning}", "yellow")
    return text + (Text(f"\n      not now: {line.why_not}", "dim") if line.why_not else Text(""))


def _value(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _is_done(line: PreviewLine) -> bool:
    return line.plan is not None and not line.why_not and line.mode == "auto"


def _is_proposed(line: PreviewLine) -> bool:
    return line.plan is not None and not line.why_not and line.mode == "approve"


# --- answering and restoring ------------------------------------------------------------------------------------------


def _answer(config: CurbConfig, action_id: str, kind: str) -> None:
    entries = ask(offline.load_view(config)).actions.get(action_id)
    if entries is None:
        typer.echo(f"no action {action_id} on the ledger; see: curb actions list --all", err=True)
        raise typer.Exit(1)
    last = entries[-1]
    if last.state != "proposed":
        typer.echo(f"{action_id} is not a proposal any more, it is {last.state}: {last.detail}", err=True)
        raise typer.Exit(1)
    by = person()
    ask(offline.send_command(config, kind, {"action_id": action_id}, by=by))
    typer.echo(f"{kind} by {by} is on the log; see the result: curb actions show {action_id}")


class OpenedActions(NamedTuple):
    """The log and the configured actions, opened."""

    log: Log
    clock: WallClock
    actions: dict[str, Action]


@contextlib.asynccontextmanager
async def opened(config: CurbConfig) -> AsyncIterator[OpenedActions]:
    clock = WallClock()
    log = wiring.make_log(config, clock)
    await log.open()
    try:
        async with aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
            actions = wiring.make_action_map(config, clock, http)
            yield OpenedActions(log, clock, actions)
            for action in actions.values():
                await action.close()
    finally:
        await log.close()


async def _held(config: CurbConfig) -> list[LedgerEntry]:
    async with opened(config) as of:
        return await Reaper(of.log, of.clock, of.actions).held()


async def _restore(config: CurbConfig, by: str) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    """The newest entry of each that is over now, and of each that is not."""
    async with opened(config) as of:
        reaper = Reaper(of.log, of.clock, of.actions)
        before = await reaper.held()
        now = of.clock.now()
        # The commands come first, as for any other undo: were this killed after the undo and before them, the daemon
        # would continue with actions that are over.
        asked = [
            Command(id=f"{e.action_id}/{now}", kind="undo", at=now, by=by, args={"action_id": e.action_id})
            for e in before
        ]
        await of.log.append([Message(COMMANDS, encode(command), key=b"undo") for command in asked])
        left = set(await reaper.restore_all(by))
        newest = await reaper.newest(before)
        return [e for e in newest if e.action_id not in left], [e for e in newest if e.action_id in left]


async def _leave(config: CurbConfig, action_id: str, by: str) -> LedgerEntry | None:
    """The newest entry after it; None when nothing was in force."""
    clock = WallClock()
    async with wiring.open_log(config, clock) as log:
        now = clock.now()
        command = Command(id=f"leave/{action_id}/{now}", kind="leave", at=now, by=by, args={"action_id": action_id})
        await log.append([Message(COMMANDS, encode(command), key=b"leave")])
        return await Reaper(log, clock, {}).leave(action_id, by)
