"""`curb exposure`: what every key could burn in an hour with the limits its gateway enforces now, no limit first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from curb.actions.notify.wording import clean
from curb.cli import offline
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.money import usd
from curb.views.exposure import Exposure, ExposureReader, held_by_curb, rate_actions, sentence, total


def exposure(
    config: ConfigOption = DEFAULT_CONFIG,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of keys to show.")] = 30,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object with every key.")] = False,
) -> None:
    """Rank what every key could burn in an hour with the limits that are enforced now, no limit first.

    On LiteLLM limits are those of the key, its budget tier, team, membership, user and organisation. On Envoy, HAProxy,
    Kong and kind http, every key that has spent is looked at. A request costs what the key's requests cost on average
    on the log. It only reads. Exit code 1 when a gateway or the log cannot be read.
    """
    loaded = load(config)
    if not rate_actions(loaded.actions):
        typer.echo("exposure: no action limits a rate of requests, so no gateway is known", err=True)
        raise typer.Exit(2)
    console = Console(stderr=json_lines)
    found = ask(read_exposures(loaded, console))
    if json_lines:
        print(msgspec.json.encode({"total": total(found), "keys": [each.as_data() for each in found]}).decode())
        return
    console.print(_table(found[:top], gateways=len({each.gateway for each in found}) > 1))
    if len(found) > top:
        console.print(f"  {len(found) - top} more keys; see --top or --json")
    console.print(Text(sentence(found)), soft_wrap=True)


async def read_exposures(config: CurbConfig, console: Console | None = None) -> list[Exposure]:
    """Every key of every gateway, the most exposed first; with a console its progress.

    Raises TransientError or PermanentError.
    """
    async with aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        reader = ExposureReader(config.actions, config.detector, http, WallClock())
        async for part in offline.partial_sums(config):
            reader.add(part)
        held = held_by_curb((await offline.load_view(config)).actions)
        with Progress(console=console or Console(quiet=True), transient=True) as progress:
            tasks: dict[str, TaskID] = {}

            def report(what: str, done: int, total: int) -> None:
                task = tasks[what] if what in tasks else progress.add_task(what, total=None)
                tasks[what] = task
                progress.update(task, completed=done, total=total)

            return await reader.read(held, report)


def _table(found: Sequence[Exposure], *, gateways: bool) -> Table:
    table = Table(title="Exposure in an hour", title_justify="left", header_style="bold")
    names = ("key", "team", "$ could burn", "because of", "limits", "$ most in an hour so far")
    for name in (*names, *(("gateway",) if gateways else ())):
        table.add_column(name, justify="right" if name.startswith("$") else "left", overflow="fold")
    for each in found:
        style = {"none": "bold red", "unknown": "yellow"}.get(each.bound, "")
        table.add_row(
            Text(clean(each.key.name, 40)),
            Text(clean(each.team, 40)),
            Text("no limit" if each.bound == "none" else "?" if each.usd is None else usd(each.usd), style),
            Text("" if each.bound == "none" else clean(each.why, 120)),
            Text(clean(each.limit_words, 80)),
            usd(each.top_hour_usd),
            *((each.gateway,) if gateways else ()),
        )
    return table
