"""Follows daemons that judge rows, and what they found, in the form in which a back-test is compared with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from curb.daemon import Daemon
from curb.stream.log.protocol import Log
from curb.stream.log.topics import ALERTS
from curb.stream.records.spend import Alert


class Found(NamedTuple):
    """An alert as people see it."""

    alert_id: str
    key: str
    kind: str
    tier: str
    excess_usd: float


def found_in(alerts: Iterable[Alert]) -> list[Found]:
    """The newest revision of each alert on spend; what is said of the feed itself is no part of the stream."""
    newest = {alert.alert_id: alert for alert in alerts if alert.kind != "feed"}
    return sorted(
        Found(each.alert_id, each.tags.get("api_key", ""), each.kind, each.tier, round(each.excess_usd, 4))
        for each in newest.values()
    )


async def on_log(log: Log) -> list[Alert]:
    """Every revision, in order."""
    return [msgspec.json.decode(message.value, type=Alert) async for message in log.scan(ALERTS)]


async def until(done: Callable[[], bool]) -> None:
    """Fails after two minutes."""
    async with asyncio.timeout(120):
        while not done():
            await asyncio.sleep(0.002)


async def answered(*daemons: Daemon) -> None:
    """Wait until all have answered what is on the log, also where a part is made again meanwhile."""
    for _ in daemons:  # what one detector reads may come of another's rollup
        for each in daemons:
            for part in ("rollup", "detector"):
                worker, rounds = getattr(each, part), getattr(each, part).rounds
                await until(lambda: getattr(each, part) is not worker or worker.rounds >= rounds + 2)  # noqa: B023
    await until(lambda: all(all(each.caught_up().values()) for each in daemons))
