"""How long a hard cap takes from the answer that accepts its event to its alert on the log, under a steady load.

Run `python -m benchmarks.caps --per-second 2000`. The daemon is a process of its own on a new embedded log. With
`--backlog` it finds usage on its log instead, from a source that has gone quiet, and the time until it is counted is
compared with the CPU until then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.daemon import TOKEN, counted, free_port, running, until_ready
from benchmarks.pipeline import COMBINATIONS, make_events
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE

#: Posts of the load a second, seconds between two keys that go over their cap, and those waited for the last alert.
_POSTS_PER_S, _EVERY_S, _LAST_S = 10, 0.3, 10.0
_HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def settings(directory: Path, port: int) -> dict[str, Any]:
    """A hard cap of a dollar a day on each key."""
    budget = {"name": "per-key", "scope": "key", "amount_usd": 1.0, "period": "day", "thresholds": [100], "hard": True}
    return {
        "log": {"kind": "embedded", "directory": str(directory / "data")},
        "http": {"port": port},
        "state_dir": str(directory / "data" / "connectors"),
        "connectors": [{"kind": "usage_jsonl", "name": name, "token": TOKEN} for name in ("meter", "load")],
        "detector": {"budgets": [budget]},
    }


def line(name: str, key: str, usd: float) -> str:
    """One event of now."""
    tags = {"team": "bench", "project": "p", "api_key": key}
    record = {"id": name, "charge_period_start": time.time(), "effective_cost": usd, "requests": 1, "tags": tags}
    return json.dumps(record)


async def load(http: aiohttp.ClientSession, per_second: int, until: float) -> None:
    """Cheap events of 200 keys on a timetable."""
    each, began, number = max(1, per_second // _POSTS_PER_S), time.monotonic(), 0
    while time.monotonic() < until:
        await asyncio.sleep(max(0.0, began + number / _POSTS_PER_S - time.monotonic()))
        lines = [line(f"load-{number}-{n}", f"key-{(number * each + n) % 200}", 1e-6) for n in range(each)]
        async with http.post("/v1/ingest/load", data="\n".join(lines), headers=_HEADERS) as answer:
            answer.raise_for_status()
        number += 1


async def over_caps(http: aiohttp.ClientSession, until: float) -> dict[str, float]:
    """One key after the other goes over its cap; when each event was accepted, epoch seconds."""
    accepted: dict[str, float] = {}
    while time.monotonic() < until:
        key = f"capped-{len(accepted)}"
        async with http.post("/v1/ingest/meter", data=line(key, key, 5.0), headers=_HEADERS) as answer:
            answer.raise_for_status()
        accepted[key] = time.time()
        await asyncio.sleep(_EVERY_S)
    return accepted


def delays(log: Path, accepted: dict[str, float]) -> list[float]:
    """Seconds from acceptance to the first alert of each key on the log. Raises SystemExit where one has none."""
    with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as database:
        rows = list(database.execute("SELECT value, at FROM messages WHERE topic = 'curb.alerts' ORDER BY at"))
    found = []
    for key, at in accepted.items():
        first = next((when for value, when in rows if f'"{key}"'.encode() in value), None)
        if first is None:
            raise SystemExit(f"no alert for {key}")
        found.append(max(0.0, first - at))
    return found


async def measure(per_second: int, seconds: float) -> list[float]:
    """The delays of all caps within so many seconds of load."""
    with tempfile.TemporaryDirectory(prefix="curb-bench-") as name:
        directory, port = Path(name), free_port()
        with running(directory, settings(directory, port)) as process:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                await until_ready(http, process)
                until = time.monotonic() + seconds
                _, accepted = await asyncio.gather(load(http, per_second, until), over_caps(http, until))
            await asyncio.sleep(_LAST_S)
        return delays(directory / "data" / "log.sqlite3", accepted)


def p99(times: Sequence[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def backlog(events: int) -> float:
    """Seconds from the start of a daemon until all that was on its log is counted, by its CPU seconds until then.

    The start is in both: a daemon that is ready has read a part of it.
    """
    with tempfile.TemporaryDirectory(prefix="curb-bench-") as name:
        directory, port = Path(name), free_port()
        (directory / "data").mkdir()
        records = make_events(events, 2_000.0)[COMBINATIONS:]
        log = EmbeddedLog(directory / "data", WallClock())
        await log.open()
        for at in range(0, len(records), 500):
            await log.append([Message(USAGE, encode_lines(records[at : at + 500]))])
        await log.close()
        began = time.monotonic()
        with running(directory, settings(directory, port)) as process:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                await until_ready(http, process)
                await counted(http, len({each.id for each in records}))
                return (time.monotonic() - began) / cpu_of(process.pid)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-second", type=int, default=2_000, help="events per second of the load")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--backlog", type=int, default=0, help="events that wait on the log instead")
    options = parser.parse_args()
    if options.backlog:
        print(f"{options.backlog:,} events: wall / CPU {asyncio.run(backlog(options.backlog)):.2f}")
        return
    found = asyncio.run(measure(options.per_second, options.seconds))
    print(
        f"{options.per_second:,} events/s, {len(found)} caps: median {statistics.median(found):.2f} s, "
        f"p99 {p99(found):.2f} s, longest {max(found):.2f} s"
    )


if __name__ == "__main__":
    main()
