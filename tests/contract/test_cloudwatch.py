"""What `"cloudwatch"` promises: growth of a sum counts once, whatever fails, and is dated to be scored."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from curb.connectors.connector import Checkable, Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import cloudwatch
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import CURSORS, GPU, USAGE
from curb.stream.records.spend import GpuRecord, SpendRecord, UsageRecord
from tests.fakes.aws_json import SECRET, aws
from tests.fakes.cloudwatch import CloudWatch
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_030.0
PRICES = PriceBook.load()
SONNET = "us.anthropic.claude-sonnet-4-20250514-v1:0"
NOVA = "amazon.nova-pro-v1:0"
ENDPOINTS = "/aws/sagemaker/Endpoints"
BEDROCK = {"name": "bedrock", "preset": "bedrock"}
SAGEMAKER = {
    "name": "gpus",
    "preset": "sagemaker_endpoints",
    "known": [{"match": "chat-*", "instance": "ml.p4d.24xlarge", "tags": {"team": "search"}}],
}


class Bench:
    """The fake with its clock and Curb's log."""

    def __init__(self, fake: CloudWatch, url: str, http: aiohttp.ClientSession) -> None:
        self.fake, self.url, self._http = fake, url, http
        self.clock, self.log = ManualClock(NOW), MemoryLog()

    def build(self, *queries: dict[str, Any], **settings: Any) -> Any:
        data = {"kind": "cloudwatch", "name": "cw", "aws": aws(self.url), "discover_s": 10, **settings}
        config = cloudwatch.Config.model_validate({"queries": queries or (BEDROCK,), **data})
        return config.build(Context(self.clock, self._http, PRICES)).connector

    async def catch_up(self, connector: Connector) -> None:
        runner = PullRunner(connector, "cw", self.log, self.clock)
        while await runner.step():
            pass

    def unique(self, topic: str = USAGE) -> list[SpendRecord]:
        first: dict[str, SpendRecord] = {}
        for record in self.log.records(topic):
            first.setdefault(record.id, record)
        return list(first.values())

    def tokens(self) -> dict[tuple[str, float], int]:
        sums: dict[tuple[str, float], int] = {}
        for record in self.unique():
            place = record.tags["model"], record.charge_period_start
            sums[place] = sums.get(place, 0) + record.input_tokens
        return sums

    def truth(self, lag_s: float = 180) -> dict[tuple[str, float], int]:
        sums: dict[tuple[str, float], int] = {}
        for each in self.fake.samples:
            if each.metric == "InputTokenCount":
                place = each.dimensions["ModelId"], each.at // 60 * 60 + 60 + lag_s
                sums[place] = sums.get(place, 0) + round(each.value)
        return sums


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    fake = CloudWatch()
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        yield Bench(fake, str(server.make_url("/")), http)


async def test_bedrock_tokens_are_priced_with_the_cached_ones_counted_in(bench: Bench) -> None:
    at = NOW - 600
    for metric, value in {
        "Invocations": 9,
        "InvocationClientErrors": 1,
        "InputTokenCount": 1000,
        "OutputTokenCount": 100,
        "CacheReadInputTokens": 5000,
        "CacheWriteInputTokens": 200,
    }.items():
        bench.fake.put(at, metric, value, ModelId=SONNET)
        bench.fake.put(at, metric, value)  # over all models: the same again
        bench.fake.put(at, metric, value, ModelId=SONNET, ServiceTier="default")
    await bench.catch_up(bench.build())
    (record,) = bench.unique()
    assert isinstance(record, UsageRecord)
    assert (record.requests, record.errors) == (10, 1)
    assert (record.input_tokens, record.output_tokens) == (6200, 100)
    assert (record.cache_read_input_tokens, record.cache_creation_input_tokens) == (5000, 200)
    expected = PRICES.price(SONNET, input_tokens=6200, output_tokens=100, cache_read=5000, cache_creation=200)
    assert record.effective_cost == pytest.approx(expected)
    assert (record.cost_source, record.price_book, record.tags) == ("priced", PRICES.hash, {"model": SONNET})


async def test_what_is_read_is_dated_so_that_its_minute_is_still_open(bench: Bench) -> None:
    await bench.catch_up(bench.build())
    bench.fake.put(NOW + 5, "InputTokenCount", 1000, ModelId=NOVA)
    found: list[SpendRecord] = []
    while not found:
        await bench.clock.advance(30)
        await bench.catch_up(bench.build())
        found = bench.unique()
    bucket_end = found[0].charge_period_start // 60 * 60 + 60
    assert found[0].charge_period_start == (NOW + 5) // 60 * 60 + 60 + 180
    assert bench.clock.now() < bucket_end


@pytest.mark.parametrize("seed", range(3))
async def test_faults_and_restarts_lose_and_double_nothing(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    bench.fake.page_points = rng.choice([2, 7, 1000])
    bench.fake.repeats = bool(seed % 2)
    connector, errors = bench.build(BEDROCK, SAGEMAKER), 0
    for _ in range(8):
        for _ in range(rng.randrange(4)):
            at = bench.clock.now() - rng.randrange(2400)
            bench.fake.put(at, "InputTokenCount", rng.randrange(1, 9000), ModelId=rng.choice([SONNET, NOVA]))
            bench.fake.put(at, "GPUUtilization", 400.0, ENDPOINTS, EndpointName="chat-1", VariantName="a")
        await bench.clock.advance(rng.choice([10, 60, 90]))
        more = True
        while more:
            bench.fake.faults.next.extend(rng.choices(["429", "500", "401", "reset"], k=rng.randrange(2)))
            bench.log.fail_next, bench.log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            if rng.random() < 0.2:  # a new process: all it knows is on the log
                connector = bench.build(BEDROCK, SAGEMAKER)
            runner = PullRunner(connector, "cw", bench.log, bench.clock)
            try:
                more = await runner.step()
            except (TransientError, PermanentError):
                errors += 1
    bench.fake.faults.next.clear()
    bench.log.fail_next = bench.log.fail_after = 0
    await bench.clock.advance(300)
    await bench.catch_up(bench.build(BEDROCK, SAGEMAKER))
    assert errors > 3
    assert bench.tokens() == bench.truth()
    gpus = [record for record in bench.unique(GPU) if isinstance(record, GpuRecord)]
    count = sum(each.metric == "GPUUtilization" for each in bench.fake.samples)
    assert sum(record.gpu_seconds for record in gpus) == pytest.approx(count * 60 * 8)
    assert bench.log.dead_letters() == []


async def test_gpus_of_endpoints_cost_their_instances(bench: Bench) -> None:
    for _ in range(2):  # two machines in the same minute
        bench.fake.put(NOW - 600, "GPUUtilization", 400.0, ENDPOINTS, EndpointName="chat-1", VariantName="a")
    bench.fake.put(NOW - 600, "GPUUtilization", 50.0, ENDPOINTS, EndpointName="other", VariantName="a")
    own = [{"instance": "ml.p4d.24xlarge", "gpus": 8, "usd_per_hour": 24.0}]
    await bench.catch_up(bench.build(SAGEMAKER, prices=own))
    chat, other = sorted(bench.unique(GPU), key=lambda record: record.tags["node"])
    assert isinstance(chat, GpuRecord)
    assert isinstance(other, GpuRecord)
    assert chat.effective_cost == pytest.approx(2 * 24.0 / 60)
    assert (chat.gpu_utilization, chat.gpu_seconds, chat.cost_source) == (50.0, 2 * 8 * 60, "priced")
    expected = {"team": "search", "node": "chat-1", "group": "chat-1", "variant": "a", "instance": "ml.p4d.24xlarge"}
    assert chat.tags == expected
    assert other.cost_source == "fallback"
    assert other.effective_cost > 0


async def test_ml_instances_without_a_price_cost_what_the_machine_does(bench: Bench) -> None:
    bench.fake.put(NOW - 600, "GPUUtilization", 100.0, ENDPOINTS, EndpointName="chat-1", VariantName="a")
    await bench.catch_up(bench.build(SAGEMAKER))
    (record,) = bench.unique(GPU)
    assert record.cost_source == "priced"
    assert record.effective_cost * 60 == pytest.approx(21.957642)


async def test_an_inference_profile_says_whose_it_is_and_what_it_runs(bench: Bench) -> None:
    profile = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc123"
    bench.fake.put(NOW - 600, "InputTokenCount", 1000, ModelId=profile)
    known = [{"match": "*/abc123", "model": NOVA, "tags": {"team": "ads"}}]
    await bench.catch_up(bench.build({**BEDROCK, "known": known}))
    (record,) = bench.unique()
    assert record.tags == {"model": NOVA, "team": "ads"}
    assert record.effective_cost == PRICES.price(NOVA, input_tokens=1000, output_tokens=0)


async def test_own_metrics_without_wildcards_are_not_listed(bench: Bench) -> None:
    bench.fake.put(NOW - 600, "Dollars", 0.5, "Gateway", Team="ads", Stage="prod")
    query = {"name": "own", "namespace": "Gateway", "metrics": {"effective_cost": ["Dollars"]}}
    query |= {"dimensions": {"Stage": "prod", "Team": "ads"}, "labels": {"team": "Team"}}
    await bench.catch_up(bench.build(query, lag_minutes=0))
    (record,) = bench.unique()
    assert (record.effective_cost, record.tags, record.cost_source) == (0.5, {"team": "ads"}, "reported")
    assert {name for name, _ in bench.fake.calls} == {"GetMetricData"}


@pytest.mark.parametrize("fault", ["429", "500", "reset", "slow"])
async def test_storms_are_transient(bench: Bench, fault: str) -> None:
    bench.fake.put(NOW - 600, "InputTokenCount", 1000, ModelId=NOVA)
    connector = bench.build(timeout_s=0.3)
    bench.fake.faults.next.append(fault)
    with pytest.raises(TransientError) as raised:
        await connector.read(None)
    assert raised.value.retry_after == (7.0 if fault == "429" else None)
    assert SECRET not in str(raised.value)
    assert len(bench.fake.faults.seen) == 1  # boto does not ask again by itself


async def test_a_metric_that_could_not_be_computed_and_an_endless_page_are_transient(bench: Bench) -> None:
    bench.fake.put(NOW - 600, "InputTokenCount", 1000, ModelId=NOVA)
    bench.fake.put(NOW - 500, "InputTokenCount", 1000, ModelId=NOVA)
    bench.fake.status = "InternalError"
    with pytest.raises(TransientError, match="could not compute"):
        await bench.build(first_hours=1).read(None)
    bench.fake.status, bench.fake.page_points, bench.fake.stuck = "Complete", 1, True
    with pytest.raises(TransientError, match="a page again"):
        await bench.build(first_hours=1).read(None)


async def test_check_says_what_is_missing(bench: Bench) -> None:
    bench.fake.put(NOW - 600, "InputTokenCount", 1000, ModelId=NOVA)
    connector = bench.build()
    assert isinstance(connector, Checkable)
    assert [check.ok for check in await connector.check()] == [True, True]
    bench.fake.denied = {"GetMetricData"}
    listed, read = await connector.check()
    assert (listed.ok, read.ok, read.permission) == (True, False, "cloudwatch:GetMetricData")
    assert "AccessDenied" in read.detail
    (wrong,) = await bench.build(aws={**aws(bench.url), "access_key_id": "AKIAOTHER"}).check()
    assert not wrong.ok
    assert SECRET not in wrong.detail


async def test_the_secret_is_in_no_cursor_and_no_record(bench: Bench) -> None:
    bench.fake.put(NOW - 600, "InputTokenCount", 1000, ModelId=NOVA)
    await bench.catch_up(bench.build())
    for message in [*bench.log.of(CURSORS), *bench.log.of(USAGE)]:
        assert SECRET.encode() not in message.value


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"name": "q"}, "or a preset"),
        ({"name": "q", "preset": "bedrock", "namespace": "x"}, "not both"),
        ({"name": "q", "preset": "bedrock", "labels": {"team": "Team"}}, "Team is no dimension"),
        ({"name": "q", "namespace": "n", "dimensions": {"A": "*"}, "metrics": {"watts": ["x"]}}, "watts unknown"),
    ],
)
def test_queries_that_mean_nothing_are_refused(query: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        cloudwatch.Config.model_validate({"kind": "cloudwatch", "name": "cw", "queries": [query]})
