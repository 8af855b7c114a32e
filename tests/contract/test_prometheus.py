"""What `"prometheus"` promises: every step read once, whatever fails in between, and nothing made of odd answers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.connectors.gpus import prometheus
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import USAGE
from curb.stream.records.spend import GpuRecord, UsageRecord
from tests.fakes.dcgm import DcgmExporter, FakeGpu
from tests.fakes.gpu_bench import BATCH, H100_USD, NOW, WEB, Bench, steps
from tests.fakes.prometheus import PrometheusServer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as http:
        yield Bench(http)


def gpu_series(at: float) -> list[tuple[dict[str, str], float]]:
    """Two GPUs as Prometheus stores them; who holds the first changes with the hour."""
    common = {"instance": "10.0.0.5:9400", "job": "dcgm", "pod": "dcgm-exporter-x", "namespace": "gpu-operator"}
    owner = WEB if int(at) // 3600 % 2 else BATCH
    held = {**common, "node": "n1", "gpu": "0", "UUID": "a", "modelName": "NVIDIA H100 80GB HBM3"}
    held |= {"exported_namespace": owner[0], "exported_pod": owner[1]}
    idle = {**common, "node": "n1", "gpu": "1", "UUID": "b", "modelName": "NVIDIA H100 80GB HBM3"}
    return [
        ({"__name__": "DCGM_FI_DEV_GPU_UTIL", **held}, 75.0),
        ({"__name__": "DCGM_FI_DEV_FB_USED", **held}, 2048.0),
        ({"__name__": "DCGM_FI_DEV_GPU_UTIL", **idle}, 0.0),
    ]


def litellm_usd(at: float) -> list[tuple[dict[str, str], float]]:
    labels = {"team_alias": "search", "team": "t-1", "hashed_api_key": "k1", "requested_model": "gpt-4o", "model": "m"}
    return [(labels, 0.5)]


def litellm_tokens(at: float) -> list[tuple[dict[str, str], float]]:
    return [(litellm_usd(at)[0][0], 1000.4)]


DCGM_QUERY = {"name": "gpus", "preset": "dcgm", "record": "gpu"}
LITELLM_QUERY = {"name": "llm", "preset": "litellm"}


@pytest.mark.parametrize("seed", range(4))
async def test_prometheus_reads_every_step_once_whatever_fails(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    fake = PrometheusServer({"DCGM": gpu_series, "litellm_spend": litellm_usd, "litellm_input": litellm_tokens})
    async with TestServer(fake.app()) as server:

        def build() -> prometheus.Prometheus:
            return bench.prometheus(server, DCGM_QUERY, LITELLM_QUERY, max_steps=3, backfill_s=600)

        await bench.catch_up(build())
        for _ in range(30):
            await bench.clock.advance(rng.uniform(1, 200))
            fake.faults.next.extend(rng.choices(["429", "500", "reset"], k=rng.choice([0, 0, 1, 2])))
            fake.partial = rng.random() < 0.1
            await steps(bench, build(), rng)
        bench.log.fail_next = bench.log.fail_after = 0
        fake.faults.next.clear()
        fake.partial = False
        await bench.catch_up(build())
    first = (NOW - 60 - 600) // 60 * 60
    last = (bench.clock.now() - 60) // 60 * 60
    count = round((last - first) / 60)
    assert sum(bench.usd().values()) == pytest.approx(2 * H100_USD * (last - first) / 3600)
    usage = bench.unique(USAGE)
    assert sorted(record.charge_period_start for record in usage) == [first + 60 * (n + 1) for n in range(count)]
    assert sum(record.effective_cost for record in usage) == pytest.approx(0.5 * count)
    assert {record.input_tokens for record in usage} == {1000}


async def test_the_presets_fill_tags_and_fields(bench: Bench) -> None:
    fake = PrometheusServer({"DCGM": gpu_series, "litellm_spend": litellm_usd})
    async with TestServer(fake.app()) as server:
        connector = bench.prometheus(
            server,
            {**DCGM_QUERY, "selector": 'cluster="eu"'},
            LITELLM_QUERY,
            backfill_s=60,
            token="a-token",
            tenant="t1",
        )
        await bench.catch_up(connector)
    gpu = {record.tags["team"]: record for record in bench.unique()}
    held = next(record for team, record in gpu.items() if team != "__idle__")
    assert isinstance(held, GpuRecord)
    assert (held.tags["node"], held.tags["group"], held.gpu_utilization, held.memory_used) == ("n1", "H100", 75, 2)
    assert "__idle__" in gpu
    (usage,) = bench.unique(USAGE)
    assert isinstance(usage, UsageRecord)
    assert usage.tags == {"team": "search", "api_key": "k1", "model": "gpt-4o"}
    assert fake.headers[0]["Authorization"] == "Bearer a-token"
    assert fake.headers[0]["X-Scope-OrgID"] == "t1"
    assert fake.queries[0]["query"].endswith(',cluster="eu"}')
    assert "[60s]" in fake.queries[1]["query"]
    assert fake.queries[0]["partial_response"] == "false"


async def test_own_queries_map_labels_and_price_what_has_no_cost(bench: Bench) -> None:
    def tokens(at: float) -> list[tuple[dict[str, str], float]]:
        return [({"svc": "a", "llm": "gpt-4o"}, 1e6), ({"svc": "b", "llm": "None"}, float("nan"))]

    def gpus(at: float) -> list[tuple[dict[str, str], float]]:
        return [({"pool": "p", "host": "n9"}, 4.0)]

    fake = PrometheusServer({"tokens": tokens, "gpus": gpus, "busy": lambda at: [({"pool": "p", "host": "n9"}, 30.0)]})
    usage = {"name": "u", "fields": {"input_tokens": "tokens"}, "labels": {"project": "svc", "model": "llm"}}
    gpu = {
        "name": "g",
        "record": "gpu",
        "fields": {"gpus": "gpus", "gpu_utilization": "busy"},
        "labels": {"team": "pool", "node": "host"},
        "tags": {"gpu": "H100"},
    }
    async with TestServer(fake.app()) as server:
        await bench.catch_up(bench.prometheus(server, usage, gpu, backfill_s=60))
    (priced,) = bench.unique(USAGE)
    assert (priced.tags, priced.cost_source) == ({"project": "a", "model": "gpt-4o"}, "priced")
    assert priced.effective_cost == pytest.approx(2.5)
    (record,) = bench.unique()
    assert record.effective_cost == pytest.approx(4 * H100_USD / 60)
    assert (record.gpu_utilization, record.gpu_seconds) == (30, 240)


async def test_an_incomplete_answer_is_asked_for_again_then_taken(bench: Bench) -> None:
    fake = PrometheusServer({"DCGM": gpu_series})
    async with TestServer(fake.app()) as server:
        connector = bench.prometheus(server, DCGM_QUERY, backfill_s=60)
        fake.warnings = ["No StoreAPIs matched for this query"]
        with pytest.raises(TransientError, match="incomplete"):
            await bench.catch_up(connector)
        fake.warnings, fake.partial = [], True
        with pytest.raises(TransientError, match="incomplete"):
            await connector.read(None)
        fake.partial, fake.warnings = False, ["PromQL info: metric might not be a counter"]
        batch = await connector.read(None)
        assert batch.records
        fake.partial = True
        await bench.clock.advance(700)
        old = bench.prometheus(server, DCGM_QUERY, max_steps=1)
        assert (await old.read(batch.cursor)).records


@pytest.mark.parametrize(
    ("status", "text", "content_type", "error"),
    [
        (200, "<html>log in</html>", "text/html", PermanentError),
        (200, '{"status": "success", "data": {"resultTy', "application/json", TransientError),
        (
            200,
            '{"status": "success", "data": {"resultType": "vector", "result": []}}',
            "application/json",
            PermanentError,
        ),
        (200, '{"status": 7}', "application/json", PermanentError),
        (400, '{"status": "error", "errorType": "bad_data", "error": "parse"}', "application/json", PermanentError),
        (422, '{"status": "error", "errorType": "execution", "error": "many"}', "application/json", PermanentError),
        (503, '{"status": "error", "errorType": "timeout", "error": "slow"}', "application/json", TransientError),
        (502, "<html>bad gateway</html>", "text/html", TransientError),
        (200, '{"status": "error", "errorType": "internal", "error": "?"}', "application/json", TransientError),
        (401, "", "text/plain", PermanentError),
        (302, "", "text/plain", PermanentError),
    ],
)
async def test_odd_answers(bench: Bench, status: int, text: str, content_type: str, error: type[Exception]) -> None:
    fake = PrometheusServer({"DCGM": gpu_series})
    fake.odd.append((status, text, content_type))
    async with TestServer(fake.app()) as server:
        with pytest.raises(error):
            await bench.prometheus(server, DCGM_QUERY, backfill_s=60).read(None)


async def test_checks_say_what_is_there(bench: Bench) -> None:
    fake, exporter = PrometheusServer({"litellm_spend": litellm_usd}), DcgmExporter("n1", [FakeGpu()])
    async with TestServer(fake.app()) as server, TestServer(exporter.app()) as metrics:
        found = await bench.prometheus(server, LITELLM_QUERY, DCGM_QUERY).check()
        assert [check.ok for check in found] == [True, False]
        assert [check.ok for check in await bench.dcgm(metrics).check()] == [True]
        exporter.faults.next.append("500")
        assert [check.ok for check in await bench.dcgm(metrics).check()] == [False]
