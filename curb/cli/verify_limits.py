"""`curb verify-limits`: whether the gateway enforces the limits it shows, tried on keys that Curb makes and deletes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, NamedTuple

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.actions.levers.litellm_limits import Config as LitellmConfig
from curb.actions.levers.litellm_probe import Limit, LitellmProbe, ProbeError, Tried
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError

#: Exit codes: something could not be tried; a limit is not enforced, or late.
_UNKNOWN, _NOT_HELD = 1, 3
_STYLES = {"enforced": "green", "late": "yellow", "early": "yellow", "unknown": "yellow", "not_enforced": "red"}
_ADVICE = {
    "late": "Several workers of a proxy count apart unless they share Redis, and budgets are added up some seconds"
    " after a call: count on that much more.",
    "not_enforced": "A limit that is not enforced stops nothing, whoever has set it.",
}


class _Options(NamedTuple):
    model: str
    calls: int
    wait_s: float


def verify_limits(
    model: Annotated[str, typer.Option("--model", help="A model that the gateway serves; a cheap one, or a mock.")],
    config: ConfigOption = DEFAULT_CONFIG,
    action: Annotated[
        str | None,
        typer.Option("--action", help="The `litellm_limits` action whose gateway is tried; default: the first."),
    ] = None,
    calls: Annotated[int, typer.Option("--calls", min=5, max=100, help="Most calls for each limit.")] = 12,
    wait_s: Annotated[
        float, typer.Option("--wait", min=1, max=600, help="Seconds over which the calls for the budget are spread.")
    ] = 60.0,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object a limit.")] = False,
) -> None:
    """Try whether LiteLLM enforces requests and tokens a minute and budgets, with real calls on keys of Curb's own.

    Each limit gets a key with a small limit, which is deleted again, also after Ctrl-C; nothing else is changed. Exit
    code 0: every limit is enforced. 3: one is not, or late. 1: one could not be tried, or a key not deleted.
    """
    levers = [each for each in load(config).actions.actions if isinstance(each, LitellmConfig)]
    chosen = [each for each in levers if action in (None, each.name)]
    if not chosen:
        known = ", ".join(each.name for each in levers) or "none"
        typer.echo(f"verify-limits: no such action of kind litellm_limits; there is: {known}", err=True)
        raise typer.Exit(2)
    host = chosen[0].base_url.host
    question = f"Make three keys at {host}, call {model} up to {3 * calls} times with them, and delete the keys?"
    if not yes and not typer.confirm(question):
        raise typer.Exit(_UNKNOWN)
    raise typer.Exit(ask(_run(chosen[0], _Options(model, calls, wait_s), json_lines=json_lines)))


async def _run(lever: LitellmConfig, options: _Options, *, json_lines: bool) -> int:
    """The exit code. SIGTERM ends it as Ctrl-C does: the key in use is deleted first."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        key = lever.api_key.get_secret_value()
        probe = LitellmProbe(str(lever.base_url), key, options.model, http, WallClock(), lever.timeout_s)
        found = await try_all(probe, options.calls, options.wait_s)
    if json_lines:
        for each in found:
            print(msgspec.json.encode(each._asdict()).decode())
    else:
        _print(found)
    verdicts = {each.verdict for each in found}
    if verdicts & {"late", "not_enforced"}:
        return _NOT_HELD
    return _UNKNOWN if verdicts - {"enforced"} else 0


async def try_all(probe: LitellmProbe, calls: int, wait_s: float) -> list[Tried]:
    """Every limit, one after the other; what fails is unknown. Raises ProbeError when a key could not be deleted."""
    steps: list[tuple[Limit, Callable[[], Awaitable[Tried]]]] = [
        ("requests", lambda: probe.requests(calls)),
        ("tokens", lambda: probe.tokens(calls)),
        ("budget", lambda: probe.budget(calls, wait_s)),
    ]
    found = []
    for limit, step in steps:
        try:
            found.append(await step())
        except ProbeError:
            raise
        except (TransientError, PermanentError) as error:
            found.append(Tried(limit, "", "unknown", 0, 0, 0, str(error)))
    return found


def _print(found: Sequence[Tried]) -> None:
    console, table = Console(), Table(box=None)
    for name in ("limit", "set to", "result", "what happened"):
        table.add_column(name)
    for each in found:
        result = Text(each.verdict.replace("_", " "), _STYLES[each.verdict])
        table.add_row(each.limit, each.set_to, result, Text(each.why))
    console.print(table)
    for verdict in dict.fromkeys(each.verdict for each in found if each.verdict in _ADVICE):
        console.print(Text(_ADVICE[verdict]), soft_wrap=True)
    console.print("The probe keys are deleted.")
