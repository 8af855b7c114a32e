"""CPU time of one tick of everything a shard does, and memory of a series: `python -m benchmarks.detection.tick`.

Times of a shared machine swing; how much one series costs among 100,000 beside one among 1,000 does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from detector.columns import Columns
from detector.scopes import Scope
from detector.settings import DetectorSettings
from detector.shard import Shard
from stream.codec import encode_lines
from stream.log import Message
from stream.records import SpendPartial, SpendTick
from stream.topics import SPEND

SIZES = (1_000, 10_000, 100_000)
#: A Monday, midnight UTC; measured time begins before the full hour, so that an hour's work is in it.
_START, _BUCKET_S = 1_740_960_000, 60
_WARM_TICKS, _TICKS = 6, 10
_ACTIVE = 0.9
_PER_MESSAGE = 2_000
_SETTINGS = DetectorSettings(scopes=(Scope(name="key", group_by=("team", "api_key")),), bucket_s=_BUCKET_S, grace_s=0)


@dataclass(frozen=True)
class Ticked:
    """One size. CPU milliseconds of an ordinary tick, median and range over ticks; what an hour adds to one tick."""

    series: int
    #: Reading the sums of the tick from the log.
    read_ms: float
    #: Closing the bucket: numbering the sums, scores, rules, alerts.
    close_ms: float
    close_range_ms: tuple[float, float]
    hour_ms: float
    #: Arrays of state, and growth of the process, per series.
    state_bytes: float
    resident_bytes: float

    @property
    def tick_ms(self) -> float:
        """A tick of everything with its share of the hour's work."""
        return self.close_ms + self.hour_ms / 60


def messages(series: int, tick: int, rng: np.random.Generator) -> Iterator[Message]:
    """The sums of one bucket, most series having one, as the rollup writes them."""
    start = _START + 3600 - (_WARM_TICKS + _TICKS // 2 - tick) * _BUCKET_S
    active = np.flatnonzero(rng.random(series) < _ACTIVE) if tick else np.arange(series)
    cost = rng.gamma(1.0, 0.02, len(active)).tolist()
    for at in range(0, len(active), _PER_MESSAGE):
        lines: list[Any] = [
            SpendPartial(
                scope="key",
                tags={"team": f"team-{number % 50}", "api_key": f"{number:016x}"},
                bucket_start=start,
                effective_cost=usd,
                events=3,
                requests=3,
                input_tokens=3_000,
                output_tokens=600,
            )
            for number, usd in zip(active[at : at + _PER_MESSAGE].tolist(), cost[at : at + _PER_MESSAGE], strict=True)
        ]
        yield Message(SPEND, encode_lines(lines), key=b"usage/0", partition=0, offset=at)
    end = SpendTick(at=start + _BUCKET_S, source="usage/0", live=True)
    yield Message(SPEND, encode_lines([end]), key=b"usage/0", partition=0, offset=series)


def measure(series: int, rng: np.random.Generator) -> Ticked:
    """A fresh shard; warm ticks first, then the measured ones, in the middle of which an hour ends."""
    gc.collect()
    before = _resident()
    shard = Shard(_SETTINGS)
    read, close = [], []
    for tick in range(_WARM_TICKS + _TICKS):
        *sums, end = messages(series, tick, rng)
        first = time.process_time()
        for message in sums:
            shard.process(message)
        second = time.process_time()
        shard.process(end)
        if tick >= _WARM_TICKS:
            read.append(1000 * (second - first))
            close.append(1000 * (time.process_time() - second))
        del sums, end
    closed = _START + 3600 + (_TICKS - _TICKS // 2) * _BUCKET_S
    if (shard.series_count, shard.event_time) != (series, closed):
        raise SystemExit(f"{shard.series_count} series of {series} came, closed until {shard.event_time}, not {closed}")
    gc.collect()
    typical = statistics.median(close)
    return Ticked(
        series,
        statistics.median(read),
        typical,
        (min(close), sorted(close)[-2]),
        max(close) - typical,
        state_bytes(shard),
        (_resident() - before) / series,
    )


def state_bytes(holder: Any) -> float:
    """Bytes per series in all arrays over series that an object of the detector holds."""
    seen: set[int] = set()

    def of(value: Any) -> float:
        if id(value) in seen:
            return 0.0
        seen.add(id(value))
        if isinstance(value, Columns):
            return value.bytes_per_series
        if isinstance(value, dict):
            return sum(of(each) for each in value.values())
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


def table(results: Sequence[Ticked]) -> Table:
    """What people see."""
    shown = Table(title="CPU of one tick; nothing but the shard runs")
    for name in ("series", "read ms", "close ms (range)", "once an hour ms", "tick ms", "µs/series", "x of first"):
        shown.add_column(name)
    shown.add_column("state B/series")
    shown.add_column("resident B/series")
    first = results[0].tick_ms / results[0].series
    for each in results:
        per_series = each.tick_ms / each.series
        low, high = each.close_range_ms
        shown.add_row(
            f"{each.series:,}",
            f"{each.read_ms:.1f}",
            f"{each.close_ms:.1f} ({low:.1f} to {high:.1f})",
            f"{each.hour_ms:.1f}",
            f"{each.tick_ms:.1f}",
            f"{1000 * per_series:.1f}",
            f"{per_series / first:.2f}",
            f"{each.state_bytes:,.0f}",
            f"{each.resident_bytes:,.0f}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.tick", description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    rng, results = np.random.default_rng(1), []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for series in progress.track(options.series, description="ticking"):
            results.append(measure(series, rng))
    if options.json:
        print(json.dumps([asdict(each) | {"tick_ms": each.tick_ms} for each in results], indent=1))
        return
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table(results))


if __name__ == "__main__":
    main()
