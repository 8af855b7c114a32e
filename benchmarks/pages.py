"""How long each page and answer takes on a daemon with many series while spend comes in: `python -m benchmarks.pages`.

The daemon is a process of its own on a new embedded log, with a budget on every key; one key goes over it, so that
there is an alert. A steady load is posted, whatever the pages do. All is on loopback and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.daemon import TOKEN, free_port, resident_mib, running, until_ready

#: What people and programs open; {key} is a key with spend, {alert} the alert that fires.
PATHS = (
    "/",
    "/?scope=key&range=7d",
    "/series?scope=key",
    "/series?scope=key&q=key-0099",
    "/series/one?scope=key&{tags}",
    "/alerts",
    "/alerts/{alert}",
    "/actions",
    "/models",
    "/exposure",
    "/config",
    "/v1/status",
    "/v1/spend?limit=1000",
    "/v1/alerts",
    "/metrics",
)
#: Seconds in which a page is asked to answer.
_ASKED_S = 0.2
#: Lines of a post, and of the steady load a second.
_LINES, _PER_S = 2_000, 1_000
#: Series of a scope that may come at once: all of them do.
_MOST_SERIES = 1_000_000
#: Seconds that the detector has to close the first bucket.
_PATIENCE_S = 240.0
_BUDGET = {"name": "keys", "scope": "key", "amount_usd": 50, "period": "month", "burn_rate": {"enabled": False}}


def tags_of(number: int) -> dict[str, str]:
    """Of one key."""
    return {"team": f"team-{number % 40}", "project": f"project-{number % 400}", "api_key": f"key-{number:06}"}


def body(numbers: list[int], at: float, what: str, usd: float = 0.001) -> bytes:
    """A call of each of these keys."""
    lines = [
        {"id": f"{what}-{n}", "charge_period_start": at, "effective_cost": usd, "input_tokens": 900, "tags": tags_of(n)}
        for n in numbers
    ]
    return b"\n".join(map(msgspec.json.encode, lines)) + b"\n"


class Spend:
    """Posts calls, the keys one after the other."""

    def __init__(self, http: aiohttp.ClientSession, keys: int) -> None:
        self._http, self._keys, self._next = http, keys, 0

    async def post(self, lines: bytes) -> None:
        """Again while Curb is too busy."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        while True:
            async with self._http.post("/v1/ingest/meter", data=lines, headers=headers) as answer:
                if answer.status == 200:
                    return
                if answer.status != 503:
                    raise SystemExit(f"a post was answered {answer.status} {await answer.text()}")
            await asyncio.sleep(0.5)

    async def go_on(self) -> None:
        """A steady load until it is cancelled."""
        due = time.monotonic()
        while True:
            numbers = [(self._next + n) % self._keys for n in range(_PER_S // 10)]
            self._next += len(numbers)
            await self.post(body(numbers, time.time(), f"load-{self._next}"))
            due += 0.1
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def an_alert(http: aiohttp.ClientSession, keys: int) -> str:
    """The id of the alert, once all keys are series."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        async with http.get("/v1/status") as answer:
            series = (await answer.json())["series"]
        async with http.get("/v1/alerts") as answer:
            found = await answer.json()
        if series >= keys and (budget := [each["alert_id"] for each in found if each["kind"] == "budget"]):
            return str(budget[0])
        await asyncio.sleep(2.0)
    raise SystemExit(f"no alert, or not all series, within {_PATIENCE_S:.0f} s")


async def measure(http: aiohttp.ClientSession, path: str, rounds: int) -> tuple[list[float], int]:
    """Seconds of each answer, and the bytes of the last."""
    took, size = [], 0
    for _ in range(rounds):
        start = time.monotonic()
        async with http.get(path) as answer:
            size = len(await answer.read())
            if answer.status != 200:
                raise SystemExit(f"{path} was answered {answer.status}")
        took.append(time.monotonic() - start)
        await asyncio.sleep(0.05)
    return sorted(took), size


async def run(port: int, process: Popen[bytes], keys: int, rounds: int) -> None:
    """Fill, load, measure, print."""
    console = Console(width=110)
    base, limit = f"http://127.0.0.1:{port}", aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(base, timeout=limit) as http:
        await until_ready(http, process)
        spend = Spend(http, keys)
        for first in track(range(0, keys, _LINES), "keys", console=console):
            await spend.post(body(list(range(first, min(keys, first + _LINES))), time.time(), "first"))
        await spend.post(body([7], time.time(), "over", usd=90.0))
        load = asyncio.create_task(spend.go_on())
        alert = await an_alert(http, keys)
        tags = "&".join(f"tag={name}%3D{value}" for name, value in tags_of(7).items())
        table = Table(title=f"{keys:,} keys, {_PER_S:,} calls a second come in, load average {os.getloadavg()[0]:.1f}")
        for column in ("path", "p50 ms", "p95 ms", "p99 ms", "most ms", "> 200 ms", "kB"):
            table.add_column(column, justify="left" if column == "path" else "right")
        for path in track(PATHS, "pages", console=console):
            took, size = await measure(http, path.format(alert=alert, tags=tags), rounds)
            p95, p99 = (took[min(len(took) - 1, int(len(took) * part))] for part in (0.95, 0.99))
            row = (statistics.median(took), p95, p99, took[-1])
            slow = sum(each > _ASKED_S for each in took)
            table.add_row(path, *(f"{1000 * each:,.0f}" for each in row), str(slow), f"{size / 1000:,.0f}")
        if load.done():
            load.result()
        load.cancel()
        console.print(table)
        console.print(f"memory of the daemon: {resident_mib(process.pid):,.0f} MiB")


def settings(directory: Path, port: int) -> dict[str, Any]:
    """Of the daemon."""
    return {
        "log": {"kind": "embedded", "directory": str(directory / "data")},
        "http": {"port": port},
        "connectors": [{"kind": "usage_jsonl", "name": "meter", "token": TOKEN}],
        "detector": {
            "grace_s": 5,
            "budgets": [_BUDGET],
            "guard": {"first_series": _MOST_SERIES, "max_series": _MOST_SERIES},
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        with running(Path(name), settings(Path(name), port)) as process:
            asyncio.run(run(port, process, asked.keys, asked.rounds))


if __name__ == "__main__":
    main()
