"""A bench for the connectors on GPU metrics: a clock, a log, and processes that are killed between any two steps."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from curb.connectors.connector import Connector, Context
from curb.connectors.gpus import dcgm, prometheus
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.topics import GPU
from curb.stream.records.spend import UNTAGGED, SpendRecord
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_020.0
H100_USD = 88.490000119 / 8
PRICES = PriceBook.load()
#: (namespace, pod) of a Deployment's pod and of another.
WEB, BATCH = ("shop", "web-6d4cf56db6-7kx2p"), ("ml", "train-0")


class Bench:
    """A clock, a log, and connectors that read into it; ids count once, as in the detector."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.clock, self.log = ManualClock(NOW), MemoryLog()
        self.context = Context(self.clock, http, PRICES)

    def dcgm(self, *exporters: TestServer, **settings: Any) -> dcgm.Dcgm:
        targets = [{"url": str(each.make_url("/metrics"))} for each in exporters]
        return (
            dcgm.Config.model_validate(
                {"kind": "dcgm", "name": "gpus", "targets": targets, "timeout_s": 0.5, **settings}
            )
            .build(self.context)
            .connector
        )

    def prometheus(self, server: TestServer, *queries: dict[str, Any], **settings: Any) -> prometheus.Prometheus:
        data = {"kind": "prometheus", "name": "prom", "url": str(server.make_url("/")), "timeout_s": 0.5, **settings}
        return prometheus.Config.model_validate({**data, "queries": list(queries)}).build(self.context).connector

    async def catch_up(self, connector: Connector) -> None:
        runner = PullRunner(connector, "c", self.log, self.clock)
        while await runner.step():
            pass

    def unique(self, topic: str = GPU) -> list[Any]:
        first: dict[str, SpendRecord] = {}
        for record in self.log.records(topic):
            first.setdefault(record.id, record)
        return list(first.values())

    def usd(self, tag: str = "team", topic: str = GPU) -> dict[str, float]:
        sums: dict[str, float] = {}
        for record in self.unique(topic):
            value = record.tags.get(tag, UNTAGGED)
            sums[value] = sums.get(value, 0.0) + record.effective_cost
        return sums


class Flaky:
    """A connector whose answers are lost now and then, after the work was done."""

    def __init__(self, inner: Connector, rng: random.Random) -> None:
        self._inner, self._rng = inner, rng

    async def read(self, cursor: str | None) -> Any:
        batch = await self._inner.read(cursor)
        if self._rng.random() < 0.3:
            raise TransientError("reset in the middle")
        return batch

    async def close(self) -> None:
        await self._inner.close()


async def steps(bench: Bench, connector: Connector, rng: random.Random) -> None:
    """A new process that reads until it is killed; all it knows is what the log kept."""
    bench.log.fail_next, bench.log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1), (0, 2)])
    runner = PullRunner(Flaky(connector, rng), "c", bench.log, bench.clock)
    with contextlib.suppress(TransientError):
        for _ in range(rng.randint(1, 4)):
            await runner.step()
