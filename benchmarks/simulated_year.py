"""Disk and memory over a simulated year: a daemon's parts on a clock that is moved from hour to hour.

Run `python -m benchmarks.simulated_year`. Keys spend in daily and weekly rhythm, some are new and some end; now and
then a key runs away, is limited at a small gateway of this script, and is given back. Rollup, detector, actions, view
and embedded log are those of `curb run`; only what passes time is this script. Everything ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from aiohttp.test_utils import TestServer

from benchmarks.port_under_attack import Gateway
from curb.config.file import CurbConfig, load_text
from curb.daemon import Daemon
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE
from curb.stream.records.spend import UsageRecord

HOUR_S, DAY_S = 3600.0, 86400.0
#: A Monday, 2026-01-05 00:00 UTC.
START = 1_767_571_200.0
#: Days a month of the table has.
MONTH_DAYS = 30
#: A key runs away for so many hours, every so many days.
RUNAWAY_H, RUNAWAY_EVERY_DAYS = 5, 4
#: Every so many days a key ends and a new one comes.
RENEWED_DAYS = 3
#: Longest wait (seconds) for one simulated hour.
GIVE_UP_S = 300.0


class Size(NamedTuple):
    """What is there at one moment."""

    day: int
    rss_mib: float
    log_mib: float
    disk_mib: float
    files: int
    alerts: int
    actions: int
    series: int

    def row(self) -> str:
        numbers = f"{self.rss_mib:>8.0f} {self.log_mib:>8.1f} {self.disk_mib:>8.1f} {self.files:>6}"
        return f"{self.day:>5} {numbers} {self.alerts:>7} {self.actions:>8} {self.series:>7}"


HEAD = (
    f"{'day':>5} {'RSS MiB':>8} {'log MiB':>8} {'disk MiB':>8} {'files':>6} {'alerts':>7} {'actions':>8} {'series':>7}"
)


def config_of(directory: Path, gateway: str, retention_days: float) -> CurbConfig:
    """Every part of a daemon but a connector; what it writes is the same."""
    lever = {"kind": "litellm_limits", "name": "limits", "base_url": gateway, "api_key": "k"}
    budget = {"name": "per-key", "scope": "key", "amount_usd": 400.0, "period": "month", "thresholds": [80, 100]}
    return load_text(
        yaml.safe_dump(
            {
                "log": {"kind": "embedded", "directory": str(directory / "data"), "retention_days": retention_days},
                "state_dir": str(directory / "data" / "connectors"),
                "http": {"port": 0},
                "commit_interval_s": 0.01,
                # By the wall clock, as both intervals are: one at every commit, so that sizes do not follow it.
                "snapshot_interval_s": 0.01,
                "detector": {"bucket_s": 3600, "grace_s": 60, "budgets": [budget]},
                "actions": {
                    "mode": "auto",
                    "actions": [lever],
                    "routes": [{"match": {}, "act": ["limits"], "lease_minutes": 120}],
                    "limits": {"max_percent_of_traffic": 100, "criticality": [{"match": {}, "is": "non_critical"}]},
                },
            }
        )
    )


class Traffic:
    """Records of keys by the hour, each with a rhythm of day and week."""

    def __init__(self, keys: int, records: int, seed: int) -> None:
        self._keys, self._records = keys, records
        self._random = random.Random(seed)

    def hour(self, number: int) -> list[UsageRecord]:
        """Of the hour that many hours after the start."""
        begin, day = START + number * HOUR_S, number // 24
        rhythm = 1.0 + 0.6 * math.sin((number % 24 - 8) * math.pi / 12) - (0.4 if day % 7 >= 5 else 0.0)
        found = []
        for place in range(self._keys):
            # Which person has the place; each goes one day and another comes.
            key = f"k{place}-{(day + place * RENEWED_DAYS) // (RENEWED_DAYS * self._keys)}"
            runs_away = (day // RUNAWAY_EVERY_DAYS) % self._keys == place and day % RUNAWAY_EVERY_DAYS == 2
            times = 60.0 if runs_away and 10 <= number % 24 < 10 + RUNAWAY_H else 1.0
            for n in range(self._records):
                usd = 0.02 * (1 + place % 5) * rhythm * times * self._random.uniform(0.8, 1.2)
                found.append(
                    UsageRecord(
                        id=f"{number}-{place}-{n}",
                        source="year",
                        charge_period_start=begin + (n + 0.5) * HOUR_S / self._records,
                        received_at=begin + HOUR_S,
                        effective_cost=usd,
                        requests=max(1, int(usd * 100)),
                        input_tokens=int(usd * 10_000),
                        tags={"team": f"t{place % 5}", "project": "p", "api_key": key, "model": "m1"},
                    )
                )
        return found


class Year:
    """A daemon and its clock."""

    def __init__(self, daemon: Daemon, clock: ManualClock, directory: Path, retention_s: float) -> None:
        self._daemon, self._clock, self._directory, self._retention_s = daemon, clock, directory, retention_s

    async def pass_hour(self, records: list[UsageRecord]) -> None:
        """The hour passes, then what was spent in it comes, and every part answers it."""
        await self._clock.advance(HOUR_S)
        await self._daemon.log.append([Message(USAGE, encode_lines(records), key=b"year")])
        for worker in (self._daemon.rollup, self._daemon.detector):
            rounds = worker.rounds
            await _until(lambda worker=worker, rounds=rounds: worker.rounds >= rounds + 2)  # type: ignore[misc]

    async def clean_up(self) -> None:
        """What the daemon does every hour."""
        assert isinstance(self._daemon.log, EmbeddedLog)
        await self._daemon.log.prune(self._clock.now() - self._retention_s)

    def size(self, day: int) -> Size:
        """As it is now."""
        gc.collect()
        files = [each for each in self._directory.rglob("*") if each.is_file()]
        log = sum(each.stat().st_size for each in files if each.name.startswith("log.sqlite3"))
        return Size(
            day,
            _resident_mib(),
            log / 2**20,
            sum(each.stat().st_size for each in files) / 2**20,
            len(files),
            len(self._daemon.view.alerts),
            len(self._daemon.view.actions),
            sum(shard.series_count for shard in self._daemon.shards()),
        )


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not done():  # noqa: ASYNC110 - workers count their rounds and have no event
            await asyncio.sleep(0.002)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def started(directory: Path, retention_days: float) -> Any:
    """A running daemon on a clock that stands still, and its gateway."""
    clock = ManualClock(START)
    async with TestServer(Gateway().app()) as server:
        config = config_of(directory, str(server.make_url("/")), retention_days)
        daemon = Daemon(config, clock)
        await daemon.open()
        running = asyncio.create_task(daemon.run())
        try:
            await _until(lambda: all(daemon.caught_up().values()))
            yield Year(daemon, clock, directory, retention_days * DAY_S)
        finally:
            daemon.stop()
            await running
            await daemon.close()


async def simulate(directory: Path, days: int, *, keys: int, records: int, retention_days: float) -> Any:
    """Yields the size after each day."""
    traffic = Traffic(keys, records, seed=1)
    async with started(directory, retention_days) as year:
        for day in range(days):
            for hour in range(24):
                await year.pass_hour(traffic.hour(day * 24 + hour))
            await year.clean_up()
            yield year.size(day + 1)


def _months(days: int) -> Iterator[int]:
    yield from range(MONTH_DAYS, days + 1, MONTH_DAYS)
    if days % MONTH_DAYS:
        yield days


async def measure(args: argparse.Namespace) -> None:
    """A line a month, and progress in between."""
    print(HEAD, flush=True)
    began, shown = time.monotonic(), set(_months(args.days))
    with tempfile.TemporaryDirectory() as name:
        sizes = simulate(
            Path(name), args.days, keys=args.keys, records=args.records, retention_days=args.retention_days
        )
        async for size in sizes:
            if size.day in shown:
                print(size.row(), flush=True)
            elif sys.stderr.isatty():
                left_s = (time.monotonic() - began) / size.day * (args.days - size.day)
                print(f"day {size.day} of {args.days}, {left_s:.0f} s left   ", end="\r", file=sys.stderr, flush=True)
    print(f"{args.days} days in {time.monotonic() - began:.0f} s, {time.process_time():.0f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--keys", type=int, default=20, help="keys at a time")
    parser.add_argument("--records", type=int, default=12, help="records of each key an hour")
    parser.add_argument("--retention-days", type=float, default=14.0, help="as log.retention_days")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
