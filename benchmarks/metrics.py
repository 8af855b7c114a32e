"""How large a scrape of /metrics and all of /v1/budgets are, and how long they take: `python -m benchmarks.metrics`.

A shard of two scopes with that many series each, a budget on every key, and alerts that fire.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console
from rich.progress import track

from curb.config.file import CurbConfig
from curb.detector.shard import Shard
from curb.serve.api import budgets_json
from curb.serve.money_metrics import MoneyMetrics
from curb.serve.running import Running
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial, SpendTick
from curb.views.alerts_and_actions import LogView

#: A Monday, midnight UTC.
_START = 1_740_960_000
_PER_MESSAGE = 2_000
_ROUNDS = 15
#: Keys and models with names as long as those of gateways.
_KEY = "sk-{:06}-0f8fad5b-d9cb-469f-a165-70867728950e"
_BUDGET = {"name": "keys", "scope": "key", "amount_usd": 50, "period": "month", "burn_rate": {"enabled": False}}


def a_shard(config: CurbConfig, series: int) -> Shard:
    """A shard with `series` keys and as many series of their models, two closed buckets old."""
    shard = Shard(config.detector)
    for bucket in range(2):
        start = _START + 60 * bucket
        for first in track(range(0, series, _PER_MESSAGE), f"bucket {bucket + 1}"):
            parts = [part for n in range(first, min(series, first + _PER_MESSAGE)) for part in _parts(n, start)]
            shard.process(Message(SPEND, encode_lines(parts), partition=0, offset=first))
        shard.process(Message(SPEND, encode_lines([SpendTick(at=start + 300.0)]), partition=0, offset=series))
    return shard


def _parts(number: int, start: int) -> list[SpendPartial]:
    tags = {"team": f"team-{number % 40}", "project": f"project-{number % 400}", "api_key": _KEY.format(number)}
    usd = 0.001 * (1 + number % 97)
    of = {"key": tags, "origin": {**tags, "model": f"model-{number % 9}", "region": "us-east-1"}}
    return [
        SpendPartial(scope=scope, tags=each, bucket_start=start, effective_cost=usd, events=1, requests=1)
        for scope, each in of.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    config = CurbConfig.model_validate({"detector": {"budgets": [_BUDGET]}})
    shard = a_shard(config, series := parser.parse_args().series)
    daemon: Any = SimpleNamespace(
        config=config,
        clock=WallClock(),
        view=LogView(),
        shards=lambda: [shard],
        caught_up=lambda: {"detector": True},
        lag_s=dict,
        log_problem=str,
    )
    subject = MoneyMetrics(cast(Running, daemon))
    Console().print(f"{series:,} keys, {shard.series_count:,} series")
    _measure("/metrics", subject.text)
    _measure("/v1/budgets", lambda: budgets_json(shard.budgets()))


def _measure(path: str, answer: Callable[[], bytes]) -> None:
    wall, cpu, size = [], [], 0
    for _ in range(_ROUNDS):
        began, computed = time.perf_counter(), time.process_time()
        size = len(answer())
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - computed)
    Console().print(
        f"{path}: {size / 1e6:.2f} MB, {statistics.median(wall):.2f} s (at most {max(wall):.2f} s), "
        f"{statistics.median(cpu):.2f} s of CPU"
    )


if __name__ == "__main__":
    main()
