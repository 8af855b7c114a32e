"""Connectors as rows: from the running daemon, or without one from what they left on the log."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import msgspec

from curb import wiring
from curb.config.file import CurbConfig
from curb.connectors.intake.health import Health
from curb.serve.running import Running
from curb.serve.status import feeds as feeds_of
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log
from curb.stream.log.topics import CURSORS, DEAD_LETTER, RAW_TOPICS
from curb.stream.records.spend import INTAKE_REPORT, DeadLetter, SpendRecord
from curb.stream.time import iso


def of_daemon(daemon: Running) -> list[dict[str, Any]]:
    """Every connector of this process."""
    now, kinds = daemon.clock.now(), _kinds(daemon.config)
    feeds = {row["source"]: row for row in feeds_of(daemon)}
    rows: list[dict[str, Any]] = []
    for runner in daemon.connectors.runners:
        row = _row(runner.name, kinds, now, runner.last_success, runner.health)
        rows.append({**row, "cursor": runner.cursor, "way": "pulls", "notes": list(runner.notes())})
    for source in daemon.connectors.sources.values():
        row = _row(source.name, kinds, now, source.last_success, source.health)
        rows.append({**row, "cursor": None, "way": "is pushed to", "notes": list(source.notes())})
    for row in rows:
        feed = feeds.get(row["name"])
        if feed is not None:
            row |= {key: feed[key] for key in ("this_hour", "last_24_h", "delay_s", "problems")}
    return sorted(rows, key=lambda row: str(row["name"]))


async def of_log(config: CurbConfig) -> list[dict[str, Any]]:
    """Every configured connector, by its cursor, its newest records and its dead letters on the log."""
    clock = WallClock()
    log = wiring.make_log(config, clock)
    await log.open()
    try:
        cursors = await log.table(CURSORS)
        health, received = await _records(log)
        await _letters(log, health)
    finally:
        await log.close()
    kinds, now = _kinds(config), clock.now()
    # The backfill of a push source has a cursor of its own.
    names = {*kinds, *(f"{name}/backfill" for name in kinds if f"{name}/backfill".encode() in cursors)}
    rows = []
    for name in sorted(names):
        cursor = cursors.get(name.encode())
        row = _row(name, kinds, now, received.get(name), health.get(name, Health()))
        rows.append({**row, "cursor": msgspec.json.decode(cursor) if cursor else None, "way": None})
    return rows


async def _records(log: Log) -> tuple[dict[str, Health], dict[str, float]]:
    """Records and newest times by source. Only the last message of a source and partition is read whole."""
    health: dict[str, Health] = {}
    received: dict[str, float] = {}
    for topic in RAW_TOPICS:
        last: dict[tuple[bytes, int | None], bytes] = {}
        async for message in log.scan(topic):
            if message.value.startswith(INTAKE_REPORT):
                continue
            last[message.key, message.partition] = message.value
            health.setdefault(message.key.decode(), Health()).records += message.value.count(b"\n")
        for (key, _), value in last.items():
            name = key.decode()
            found = decode_lines(value, cast(Any, SpendRecord), lambda *_: None)
            health[name].heard(max((each.charge_period_start for each in found), default=None), 0, 0)
            received[name] = max([received.get(name, 0.0), *(record.received_at for record in found)])
    return health, received


async def _letters(log: Log, health: dict[str, Health]) -> None:
    async for message in log.scan(DEAD_LETTER):
        for letter in decode_lines(message.value, DeadLetter, lambda *_: None):
            found = health.setdefault(letter.source, Health())
            found.dead += 1
            found.last_error, found.last_error_at = f"{letter.reason}: {letter.detail}", letter.at


def _row(name: str, kinds: dict[str, str], now: float, heard: float | None, health: Health) -> dict[str, Any]:
    newest = health.newest_charge_at
    return {
        "name": name,
        "kind": kinds.get(name.partition("/")[0], ""),
        "last_heard": iso(heard),
        #: Seconds since it last brought something, or was read without error.
        "lag_s": None if heard is None else round(max(0.0, now - heard), 1),
        "newest_charge": iso(newest),
        "records": health.records,
        "dead_letters": health.dead,
        "errors": dict(Counter(health.errors)),
        "last_error": health.last_error or None,
        "last_error_at": iso(health.last_error_at),
        # What arrived and was not counted, and how far a bill is known; only the running daemon knows it.
        "notes": [],
        # What became of its records by hour of receipt, and what is wrong now; of the running daemon alone.
        "this_hour": None,
        "last_24_h": None,
        "delay_s": None,
        "problems": [],
    }


def _kinds(config: CurbConfig) -> dict[str, str]:
    return {each.name: each.kind for each in config.connectors}
