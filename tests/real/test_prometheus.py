"""A real Prometheus scrapes DCGM's text and a gateway's counters; Curb reads both and charges their owners."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.config.file import load_file
from curb.connectors.connector import Context
from curb.connectors.gpus import prometheus
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.stream.log.topics import GPU, USAGE
from curb.stream.records.spend import GpuRecord, UsageRecord
from curb.wiring import make_log
from tests.fakes.dcgm import DcgmExporter, FakeGpu, line
from tests.real.prometheus_server import find_binary, running

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
STEP_S = 10
P5_USD = 55.04
_PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: dcgm
    static_configs:
      - targets: ["127.0.0.1:{dcgm}"]
        labels: {{node: gpu-1, pod: dcgm-exporter-abcde, namespace: gpu-operator}}
  - job_name: gateway
    static_configs:
      - targets: ["127.0.0.1:{gateway}"]
"""
_CURB = """
log: {{kind: embedded, directory: {directory}}}
http: {{port: 0}}
connectors:
  - kind: prometheus
    name: prom
    url: {url}
    step_s: {step}
    lag_s: 3
    poll_interval_s: 1
    nodes:
      - {{match: "gpu-*", instance: p5.48xlarge, group: train}}
    queries:
      - {{name: gpus, preset: dcgm, record: gpu, selector: 'job="dcgm"'}}
      - {{name: llm, preset: litellm}}
"""


class Gateway:
    """Counters that grow by a cent and a hundred tokens a scrape, and restart at 0 at times; later a key with $5."""

    def __init__(self) -> None:
        self.scrapes = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        self.scrapes += 1
        since_start = self.scrapes % 8
        labels = {"team_alias": "search", "hashed_api_key": "k1", "requested_model": "gpt-4o", "model": "gpt-4o"}
        text = line("litellm_spend_metric_total", 0.01 * since_start, **labels)
        text += line("litellm_input_tokens_metric_total", 100 * since_start, **labels)
        if self.scrapes >= 12:
            key = labels | {"hashed_api_key": "new"}
            text += line("litellm_spend_metric_total", 5.0, **key)
            text += line("litellm_input_tokens_metric_total", 1000, **key)
        return web.Response(text=text)


async def records(config: Path) -> tuple[list[GpuRecord], list[UsageRecord]]:
    """What is on the log of a Curb that has stopped."""
    log = make_log(load_file(config), WallClock())
    await log.open()
    reader = await log.reader("test", [GPU, USAGE])
    gpus, usage = list[GpuRecord](), list[UsageRecord]()
    try:
        while messages := await reader.fetch(timeout_s=0):
            for message in messages:
                if message.topic == GPU:
                    gpus += msgspec.json.Decoder(GpuRecord).decode_lines(message.value)
                else:
                    usage += msgspec.json.Decoder(UsageRecord).decode_lines(message.value)
    finally:
        await reader.close()
        await log.close()
    return gpus, usage


async def test_gpus_and_usage_reach_curb_through_prometheus(tmp_path: Path) -> None:
    binary = find_binary()
    exporter, gateway = DcgmExporter("dcgm-exporter-abcde", []), Gateway()
    exporter.gpus = [
        FakeGpu(0, "GPU-a", pods=[("shop", "web-6d4cf56db6-7kx2p")]),
        FakeGpu(1, "GPU-b", util=0, memory_mib="9223372036854775794"),
        FakeGpu(2, "GPU-c", pods=[("shop", "web-6d4cf56db6-7kx2p"), ("ml", "train-0")]),
    ]
    config = tmp_path / "curb.yaml"
    async with TestServer(exporter.app()) as metrics, TestServer(gateway.app()) as counters:
        text = _PROMETHEUS.format(dcgm=metrics.port, gateway=counters.port)
        async with running(binary, text, tmp_path) as url:
            directory = tmp_path / "data"
            config.write_text(_CURB.format(directory=directory, url=url, step=STEP_S), encoding="utf-8")
            for seconds in (25, 20):  # killed in between: it goes on where the log says
                process = await asyncio.create_subprocess_exec(sys.executable, "-m", "curb", "run", "-c", str(config))
                await asyncio.sleep(seconds)
                process.kill()
                await process.wait()
    gpus, usage = await records(config)
    steps: dict[float, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for record in {each.id: each for each in gpus}.values():
        steps[record.charge_period_start][record.tags["team"]] += record.effective_cost
    assert len(steps) >= 3
    starts = sorted(steps)
    # The first step may begin before the first scrape; after it there is no hole, and each is the price of the node.
    assert starts == [starts[0] + STEP_S * n for n in range(len(starts))]
    share = P5_USD / 8 * STEP_S / 3600
    for teams in steps.values():
        assert dict(teams) == {
            "shop": pytest.approx(1.5 * share),
            "ml": pytest.approx(0.5 * share),
            "__idle__": pytest.approx(6 * share),
        }
    assert {record.tags["node"] for record in gpus} == {"gpu-1"}
    assert {record.tags["group"] for record in gpus} == {"train"}
    assert len(usage) >= 2
    assert {(record.tags["team"], record.tags["api_key"]) for record in usage} == {("search", "k1"), ("search", "new")}
    new = [each for each in {each.id: each for each in usage}.values() if each.tags["api_key"] == "new"]
    # What it had counted before its first scrape is spent, and once.
    assert sum(each.effective_cost for each in new) == pytest.approx(5.0)
    usage = [each for each in usage if each.tags["api_key"] == "k1"]
    # About ten scrapes a step, at a cent and a hundred tokens each, over resets; `increase` extrapolates.
    full = sorted({each.id: each for each in usage}.values(), key=lambda each: each.charge_period_start)[1:]
    for record in full:
        assert 0.05 <= record.effective_cost <= 0.15
        assert 500 <= record.input_tokens <= 1500


async def test_a_bad_query_is_told_in_the_words_of_the_server(tmp_path: Path) -> None:
    binary = find_binary()
    async with running(binary, "scrape_configs: []\n", tmp_path) as url, aiohttp.ClientSession() as http:
        config = prometheus.Config.model_validate(
            {
                "kind": "prometheus",
                "name": "prom",
                "url": url,
                "backfill_s": 60,
                "queries": [{"name": "bad", "fields": {"requests": "sum(("}}],
            }
        )
        connector = config.build(Context(WallClock(), http, PriceBook.load())).connector
        with pytest.raises(PermanentError, match=r"query bad, requests: .*bad_data.*parse error"):
            await connector.read(None)
        assert [check.ok for check in await connector.check()] == [False]
