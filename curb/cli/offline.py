"""Commands without a daemon of their own: read the log, append to it, or ask a running daemon."""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
from rich.console import Console

from curb import wiring
from curb.cli import render
from curb.config.file import CurbConfig
from curb.feed import feed
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines, encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, SPEND
from curb.stream.records.spend import Command, SpendMessage, SpendPartial
from curb.views.alerts_and_actions import LogView
from curb.views.unit_costs import Resolved, UnitSums


class NotReachableError(Exception):
    """No daemon answers where the configuration says it listens."""


async def load_view(config: CurbConfig) -> LogView:
    """Alerts and ledger as they are on the configured log."""
    async with wiring.open_log(config, WallClock()) as log:
        return await LogView().load(log)


async def run_replay(config: CurbConfig, source: Path, form: str, console: Console, *, notify: bool) -> int:
    """Replay `source` and print the alerts; returns 0 when everything was read, summed and scored."""
    if not source.exists():
        console.print(f"replay: {source} does not exist", style="red")
        return 2
    records = await feed(config, source, form, console, notify=notify)
    console.print(f"replayed {records:,} events")
    render.alerts(console, list((await load_view(config)).alerts.values()), json_lines=False)
    return 0


async def send_command(config: CurbConfig, kind: str, args: dict[str, str], *, by: str) -> None:
    """Append a command; the daemon that runs now, or the next one to start, carries it out."""
    async with wiring.open_log(config, WallClock()) as log:
        command = msgspec.convert(
            {"id": str(uuid.uuid4()), "kind": kind, "at": WallClock().now(), "by": by, "args": args}, Command
        )
        await log.append([Message(COMMANDS, encode(command), key=kind.encode())])


async def spend_totals(config: CurbConfig, scope: str) -> list[dict[str, Any]]:
    """Dollars and events per series of `scope`, summed without rounding from every part on the log."""
    parts: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    events: dict[tuple[tuple[str, str], ...], int] = defaultdict(int)
    async for record in partial_sums(config):
        if record.scope == scope:
            series = tuple(record.tags.items())
            parts[series].append(record.effective_cost)
            events[series] += record.events
    rows = [{"tags": dict(s), "total_usd": math.fsum(costs), "events": events[s]} for s, costs in parts.items()]
    return sorted(rows, key=lambda row: -cast(float, row["total_usd"]))


async def unit_costs(config: CurbConfig, resolved: Resolved) -> list[dict[str, Any]]:
    """Dollars per unit over everything on the log."""
    sums = UnitSums(resolved, run_gap_s=config.detector.jobs.gap_minutes * 60)
    async for record in partial_sums(config):
        sums.add(record)
    return sums.rows()


async def partial_sums(config: CurbConfig) -> AsyncIterator[SpendPartial]:
    """Every partial sum on the log."""
    async with wiring.open_log(config, WallClock()) as log:
        async for message in log.scan(SPEND):
            for record in decode_lines(message.value, cast(Any, SpendMessage), lambda *_: None):
                if isinstance(record, SpendPartial):
                    yield record


async def daemon_status(config: CurbConfig) -> dict[str, Any]:
    """/v1/status of the daemon the configuration describes. Raises NotReachableError."""
    return await daemon_json(config, "/v1/status")


async def daemon_json(
    config: CurbConfig, path: str, query: Mapping[str, str] | None = None, *, timeout_s: float = 5
) -> dict[str, Any]:
    """The answer of the configured daemon to GET `path`. Raises NotReachableError."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host
    url = f"http://{host}:{config.http.port}{path}"
    token = config.http.token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, params=query) as answer,
        ):
            if answer.status != 200:
                raise NotReachableError(f"{url} answered HTTP {answer.status}")
            return cast(dict[str, Any], await answer.json())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotReachableError(f"no daemon answers at {url} ({type(error).__name__})") from None
