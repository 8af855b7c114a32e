"""CPU time of one tick of everything a shard does, and memory of a series: `python -m benchmarks.detection.tick`.

Times of a shared machine swing; how much one series costs among 100,000 beside one among 1,000 does not.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.columns import Columns
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial, SpendTick

SIZES = (1_000, 10_000, 100_000)
#: A Monday, midnight UTC; measured time begins before the full hour, so that an hour's work is in it.
_START = 1_740_960_000
_WARM_TICKS, _TICKS = 6, 10
_PER_MESSAGE = 2_000
#: What a hundred series stand for: keys alone, which every rule looks at, or a fleet as the default scopes see it.
MIXES: Mapping[str, Mapping[str, int]] = {
    "keys": {"key": 100},
    "fleet": {"key": 40, "origin": 50, "node": 9, "group": 1},
}


@dataclass(frozen=True)
class Load:
    """What is measured: length of a bucket, the share of the series with a sum in it, and which series there are."""

    bucket_s: int = 60
    active: float = 0.4
    mix: str = "keys"

    @property
    def settings(self) -> DetectorSettings:
        """The shipped ones, without waiting."""
        return DetectorSettings(bucket_s=self.bucket_s, grace_s=0)


@dataclass(frozen=True)
class Ticked:
    """One size. CPU milliseconds of an ordinary tick, best, median and range; what an hour adds to one tick."""

    series: int
    #: Reading the sums of the tick from the log.
    read_ms: float
    #: Closing the bucket: numbering the sums, scores, rules, alerts.
    close_ms: float
    close_range_ms: tuple[float, float]
    hour_ms: float
    #: Saving and restoring everything.
    save_ms: float
    restore_ms: float
    #: Arrays of state, and growth of the process, per series.
    state_bytes: float
    resident_bytes: float
    #: CPU milliseconds a tick of each part, as a profiler has them; empty unless asked for.
    parts_ms: dict[str, float] = field(default_factory=dict)

    @property
    def tick_ms(self) -> float:
        """A tick of everything: reading, closing."""
        return self.read_ms + self.close_ms


def tags_of(scope: str, number: int) -> dict[str, str]:
    """The tags of series `number` of a scope, of the numbers that come with it in other scopes."""
    if scope in {"key", "origin"}:
        key = number if scope == "key" else number * 4 // 5
        tags = {"team": f"team-{key % 50}", "project": f"project-{key % 400}", "api_key": f"{key:016x}"}
        return tags if scope == "key" else tags | {"model": f"model-{number % 5}", "region": "eu-west-1"}
    group = number if scope == "group" else number // 9
    tags = {"team": f"team-{group % 50}", "group": f"group-{group}"}
    return tags if scope == "group" else tags | {"node": f"node-{number}"}


def series_of(count: int, mix: str) -> list[tuple[str, dict[str, str]]]:
    """Scope and tags of `count` series, the scopes evenly mixed."""
    scopes = [scope for scope, share in MIXES[mix].items() for _ in range(share)]
    numbers = dict.fromkeys(MIXES[mix], 0)
    found = []
    for at in range(count):
        scope = scopes[at * 37 % 100]
        found.append((scope, tags_of(scope, numbers[scope])))
        numbers[scope] += 1
    return found


def messages(
    series: Sequence[tuple[str, dict[str, str]]], tick: int, load: Load, rng: np.random.Generator
) -> Iterator[Message]:
    """The sums of one bucket as the rollup writes them, then the tick that closes it. At first all series have one."""
    start = _START + 3600 - (_WARM_TICKS + _TICKS // 2 - tick) * load.bucket_s
    active = np.flatnonzero(rng.random(len(series)) < load.active) if tick else np.arange(len(series))
    cost = rng.gamma(1.0, 0.02, len(active)).tolist()
    for at in range(0, len(active), _PER_MESSAGE):
        lines: list[Any] = []
        for number, usd in zip(active[at : at + _PER_MESSAGE].tolist(), cost[at : at + _PER_MESSAGE], strict=True):
            scope, tags = series[number]
            counts: dict[str, Any] = {"requests": 30, "users": 20, "input_tokens": 30_000, "output_tokens": 6_000}
            if scope in {"node", "group"}:
                counts = {"gpu_samples": 8, "gpu_utilization": 400.0, "memory_used": 300.0}
            lines.append(
                SpendPartial(scope=scope, tags=tags, bucket_start=start, effective_cost=usd, events=3, **counts)
            )
        yield Message(SPEND, encode_lines(lines), key=b"usage/0", partition=0, offset=at)
    end = SpendTick(at=start + load.bucket_s, source="usage/0", live=True)
    yield Message(SPEND, encode_lines([end]), key=b"usage/0", partition=0, offset=len(series))


def measure(count: int, load: Load, parts: bool = False) -> Ticked:
    """A fresh shard; warm ticks first, then the measured ones, in the middle of which an hour ends."""
    rng, series = np.random.default_rng(1), series_of(count, load.mix)
    gc.collect()
    before = _resident()
    shard, profiler = Shard(load.settings), cProfile.Profile()
    read, close = [], []
    for tick in range(_WARM_TICKS + _TICKS):
        *sums, end = messages(series, tick, load, rng)
        if parts and tick >= _WARM_TICKS:
            profiler.enable()
        first = time.process_time()
        for message in sums:
            shard.process(message)
        second = time.process_time()
        shard.process(end)
        third = time.process_time()
        profiler.disable()
        if tick >= _WARM_TICKS:
            read.append(1000 * (second - first))
            close.append(1000 * (third - second))
        del sums, end
    closed = _START + 3600 + (_TICKS - _TICKS // 2) * load.bucket_s
    if (shard.series_count, shard.event_time) != (count, closed):
        raise SystemExit(f"{shard.series_count} series of {count} came, closed until {shard.event_time}, not {closed}")
    gc.collect()
    resident = (_resident() - before) / count
    typical = statistics.median(close)
    first = time.process_time()
    saved = shard.snapshot()
    second = time.process_time()
    Shard(load.settings).restore(saved)
    third = time.process_time()
    return Ticked(
        count,
        min(read),
        min(close),
        (typical, sorted(close)[-2]),
        max(close) - typical,
        1000 * (second - first),
        1000 * (third - second),
        state_bytes(shard) / count,
        resident,
        _parts(profiler) if parts else {},
    )


def _parts(profiler: cProfile.Profile) -> dict[str, float]:
    """CPU milliseconds a tick of what `Shard` and `Scoring` call of other modules of the detector, largest first."""
    found: dict[str, float] = {}
    # The profiler's figures have no types.
    stats: Any = pstats.Stats(profiler)
    for (file, _, name), (_, _, _, _, callers) in stats.stats.items():
        path = Path(file)
        if path.parent.name != "detector" or path.stem in {"shard", "scoring"}:
            continue
        for (caller, _, by), (_, _, _, seconds) in callers.items():
            if Path(caller).stem == "scoring" or (Path(caller).stem == "shard" and by != "process"):
                part = f"{path.stem}.{name}"
                found[part] = found.get(part, 0.0) + 1000 * seconds / _TICKS
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def state_bytes(holder: Any) -> float:
    """Bytes of the rows in use of all arrays over series that an object of the detector holds."""
    seen: set[int] = set()

    def of(value: Any) -> float:
        if id(value) in seen:
            return 0.0
        seen.add(id(value))
        if isinstance(value, Columns):
            return value.bytes_per_series * value.n
        if isinstance(value, np.ndarray):
            return float(value.nbytes)
        if isinstance(value, dict):
            return sum(of(each) for each in value.values()) if len(value) < 100 else 0.0
        if isinstance(value, (list, tuple)):
            return sum(of(each) for each in value) if len(value) < 100 else 0.0
        inside = type(value).__module__.startswith("detector.")
        return sum(of(each) for each in vars(value).values()) if inside and hasattr(value, "__dict__") else 0.0

    return of(holder)


def _resident() -> float:
    """Resident bytes of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        kib = next(line.split()[1] for line in status if line.startswith("VmRSS"))
    return 1024.0 * int(kib)


def table(results: Sequence[Ticked], load: Load) -> Table:
    """What people see."""
    title = f"CPU of one tick ({load.mix}, {load.bucket_s} s, {load.active:.0%} active); nothing but the shard runs"
    shown = Table(title=title)
    for name in ("series", "read ms", "close ms (median, max)", "hour ms", "tick ms", "µs/series", "x of first"):
        shown.add_column(name)
    for name in ("save ms", "restore ms", "state B/series", "resident B/series"):
        shown.add_column(name)
    first = results[0].tick_ms / results[0].series
    for each in results:
        per_series = each.tick_ms / each.series
        middle, high = each.close_range_ms
        shown.add_row(
            f"{each.series:,}",
            f"{each.read_ms:.1f}",
            f"{each.close_ms:.1f} ({middle:.1f}, {high:.1f})",
            f"{each.hour_ms:.1f}",
            f"{each.tick_ms:.1f}",
            f"{1000 * per_series:.1f}",
            f"{per_series / first:.2f}",
            f"{each.save_ms:.0f}",
            f"{each.restore_ms:.0f}",
            f"{each.state_bytes:,.0f}",
            f"{each.resident_bytes:,.0f}",
        )
    return shown


def resident_mib(count: int) -> float:
    """Memory of a process with a shard of so many series, a few ticks old. Call it in a process of its own."""
    load, rng, series = Load(), np.random.default_rng(1), series_of(count, "keys")
    shard = Shard(load.settings)
    for tick in range(3):
        for message in messages(series, tick, load, rng):
            shard.process(message)
    if shard.series_count != count:
        raise SystemExit(f"{shard.series_count} series of {count} came")
    del series
    gc.collect()
    return _resident() / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.tick", description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--bucket-s", type=int, default=60)
    parser.add_argument("--active", type=float, default=0.4, help="share of the series that spend in a bucket")
    parser.add_argument("--mix", choices=sorted(MIXES), default="keys")
    parser.add_argument("--parts", action="store_true", help="cost of each rule as well, which slows the rest down")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    load = Load(options.bucket_s, options.active, options.mix)
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for count in progress.track(options.series, description="ticking"):
            results.append(measure(count, load, options.parts))
    if options.json:
        print(json.dumps([asdict(each) | {"tick_ms": each.tick_ms} for each in results], indent=1))
        return
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table(results, load))
    for each in results if options.parts else ():
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in each.parts_ms.items() if ms >= 0.02)
        console.print(
            f"{each.series:,} series, ms a tick, the hour's work shared by {_TICKS}: {parts}", highlight=False
        )


if __name__ == "__main__":
    main()
