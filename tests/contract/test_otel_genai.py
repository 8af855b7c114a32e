"""What the kind "otel_genai" promises: both encodings alike, nothing lost or doubled, bad spans told, no prompts."""

from __future__ import annotations

import random
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Batch, Context, Door, Receiver
from curb.connectors.intake.append import append_batch
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.otel_genai import Config, OtelGenAI
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.records.spend import SpendRecord, UsageRecord
from tests.fakes.memory_log import MemoryLog
from tests.fakes.otel_genai import (
    JSON,
    PROTOBUF,
    SECRET_PROMPT,
    as_json,
    as_protobuf,
    counter,
    histogram,
    metrics,
    point,
    span,
    traces,
)

NOW = 1_750_000_000.0
PRICES = PriceBook.load()
PACKS = {PROTOBUF: as_protobuf, JSON: as_json}
every_encoding = pytest.mark.parametrize("encoding", PACKS)


def build(began: float = NOW, **settings: Any) -> OtelGenAI:
    context = Context(ManualClock(began), cast(aiohttp.ClientSession, None), PRICES)
    data = {"kind": "otel_genai", "name": "otel", "token": "a-long-token", **settings}
    return Config.model_validate(data).build(context).source


def door_of(source: OtelGenAI, request: dict[str, Any], encoding: str = PROTOBUF) -> Door:
    found = source.door("v1/metrics" if "resourceMetrics" in request else "v1/traces", encoding)
    assert found is not None
    return found


def parse(request: dict[str, Any], encoding: str = PROTOBUF, **settings: Any) -> Batch:
    door = door_of(build(**settings), request, encoding)
    return door.parse(PACKS[encoding](request), location="here", at=NOW)


def one(given: dict[str, Any], **settings: Any) -> UsageRecord:
    batch = parse(traces([given]), **settings)
    assert list(batch.dead) == []
    (record,) = batch.records
    assert isinstance(record, UsageRecord)
    return record


async def send(source: OtelGenAI, log: MemoryLog, request: dict[str, Any]) -> bool:
    """As the inbox does; whether it was accepted."""
    door = door_of(source, request)
    batch = door.parse(as_protobuf(request), location="here", at=NOW)
    try:
        await append_batch(log, batch, source="otel", at=NOW)
    except TransientError:
        return False
    door.appended()
    return True


def unique(log: MemoryLog) -> list[SpendRecord]:
    first: dict[str, SpendRecord] = {}
    for record in log.records():
        first.setdefault(record.id, record)
    return list(first.values())


# --- spans ----------------------------------------------------------------------------------------------------------


@every_encoding
def test_the_whole_record(encoding: str) -> None:
    (record,) = parse(traces([span(1, NOW - 60)]), encoding, tags={"env": "dev", "cell": "eu1"}).records
    cost = PRICES.price("gpt-4o-2024-08-06", input_tokens=1000, output_tokens=200, cache_read=400)
    assert record == UsageRecord(
        id=f"{2:032x}/{2:016x}",
        charge_period_start=NOW - 60,
        received_at=NOW,
        effective_cost=cast(float, cost),
        tags={
            "cell": "eu1",
            "env": "prod",
            "team": "search",
            "project": "answers",
            "provider": "openai",
            "model": "gpt-4o",
        },
        source="otel",
        cost_source="priced",
        request_model="gpt-4o",
        requests=1,
        input_tokens=1000,
        output_tokens=200,
        cache_read_input_tokens=400,
        price_book=PRICES.hash,
    )


@every_encoding
def test_nothing_of_a_prompt_leaves(encoding: str) -> None:
    bad = span(2, NOW, attributes={"gen_ai.usage.output_tokens": SECRET_PROMPT})
    batch = parse(traces([span(1, NOW), bad]), encoding)
    assert (len(batch.records), len(batch.dead)) == (1, 1)
    written = b"".join([*map(encode, batch.records), *(letter.value for letter in batch.dead)])
    assert b"secret" not in written


def test_old_names_count_the_same() -> None:
    old = {
        "gen_ai.usage.input_tokens": None,
        "gen_ai.usage.output_tokens": None,
        "gen_ai.provider.name": None,
        "gen_ai.usage.prompt_tokens": 1000,
        "gen_ai.usage.completion_tokens": 200,
        "gen_ai.system": "openai",
    }
    assert one(span(1, NOW, attributes=old)) == one(span(1, NOW))


def test_cached_tokens_that_are_not_in_the_input_are_added() -> None:
    apart = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.cache_creation.input_tokens": 50}
    record = one(span(1, NOW, attributes=apart))
    assert (record.input_tokens, record.cache_creation_input_tokens) == (460, 50)


@pytest.mark.parametrize("operation", ["invoke_agent", "execute_tool"])
def test_spans_that_repeat_the_usage_below_them_are_nothing(operation: str) -> None:
    assert list(parse(traces([span(1, NOW, attributes={"gen_ai.operation.name": operation})])).records) == []


def test_other_spans_are_nothing() -> None:
    http = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "GET /", "attributes": []}
    batch = parse(traces([http, span(1, NOW)]))
    assert (len(batch.records), list(batch.dead)) == (1, [])
    assert list(batch.locations) == ["here#1"]


def test_a_failed_call_is_an_error_without_cost() -> None:
    none = {"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None}
    record = one(span(1, NOW, status={"code": 2}, attributes={**none, "gen_ai.usage.cache_read.input_tokens": None}))
    assert (record.requests, record.errors, record.effective_cost) == (1, 1, 0.0)


def test_a_reported_cost_and_free_models() -> None:
    assert one(span(1, NOW, attributes={"my.cost": 0.25}), cost_attribute="my.cost").effective_cost == 0.25
    assert one(span(1, NOW), free_models=["gpt-4o"]).effective_cost == 0.0
    unknown = {"gen_ai.request.model": "home-made", "gen_ai.response.model": None}
    assert one(span(1, NOW, attributes=unknown)).cost_source == "fallback"


def test_tags_from_other_attributes() -> None:
    record = one(span(1, NOW, attributes={"customer": "c1"}), tag_attributes={"customer": ["customer"], "team": ["x"]})
    assert record.tags["customer"] == "c1"
    assert "team" not in record.tags


@every_encoding
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attributes": {"gen_ai.usage.input_tokens": "many"}}, "wrong_type"),
        ({"attributes": {"gen_ai.usage.input_tokens": 1.5}}, "wrong_type"),
        ({"attributes": {"gen_ai.usage.output_tokens": -1}}, "invalid"),
        ({"startTimeUnixNano": "4102444800000000000"}, "in_the_future"),
        ({"startTimeUnixNano": "0"}, "too_old"),
        ({"traceId": "", "spanId": ""}, "missing_field"),
        ({"traceId": "0" * 32}, "missing_field"),
    ],
)
async def test_one_bad_span_is_a_dead_letter_and_the_rest_is_kept(encoding: str, change: Any, reason: str) -> None:
    log = MemoryLog()
    request = traces([span(1, NOW - 9), span(2, NOW - 9, **change), span(3, NOW - 9)])
    await append_batch(log, parse(request, encoding), source="otel", at=NOW)
    assert len(log.records()) == 2
    assert [(letter.reason, letter.location) for letter in log.dead_letters()] == [(reason, "here#1")]


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        (PROTOBUF, b"\xff\xff\xff", "invalid"),
        (PROTOBUF, b'{"resourceSpans": []}', "invalid"),
        (JSON, b"{", "not_json"),
        (JSON, b"\xff", "not_utf8"),
        (JSON, b"[" * 100_000, "not_json"),
        (JSON, b"7", "invalid"),
        (JSON, b'{"resourceSpans": 7}', "invalid"),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}', "invalid"),
    ],
)
async def test_a_body_that_is_no_request(encoding: str, body: bytes, reason: str) -> None:
    door = door_of(build(), traces([]), encoding)
    batch = door.parse(body, location="here", at=NOW)
    log = MemoryLog()
    await append_batch(log, batch, source="otel", at=NOW)
    assert [letter.reason for letter in log.dead_letters()] == [reason]
    assert door.refused(batch)
    assert "resource" not in str(door.refused(batch))


async def test_spans_that_are_sent_again_count_once() -> None:
    source, log = build(), MemoryLog(partitions=4)
    request = traces([span(n, NOW - n) for n in range(20)])
    log.fail_next, log.fail_after = 1, 1
    assert [await send(source, log, request) for _ in range(3)] == [False, False, True]
    assert len(log.records()) == 40
    assert len(unique(log)) == 20


# --- metrics --------------------------------------------------------------------------------------------------------


def tokens_of(records: list[SpendRecord]) -> tuple[int, int]:
    return sum(record.input_tokens for record in records), sum(record.output_tokens for record in records)


def test_counters_of_one_interval_are_one_record() -> None:
    given = [
        counter("input_tokens", [point(NOW - 60, NOW, asInt="1000")], cumulative=False),
        counter("output_tokens", [point(NOW - 60, NOW, asInt="200")], cumulative=False),
        counter("cache_read.input_tokens", [point(NOW - 60, NOW, asDouble=400.0)], cumulative=False),
    ]
    (record,) = parse(metrics(given), count="metrics").records
    assert isinstance(record, UsageRecord)
    assert (record.input_tokens, record.output_tokens, record.cache_read_input_tokens) == (1000, 200, 400)
    price = PRICES.price("gpt-4o", input_tokens=1000, output_tokens=200, cache_read=400)
    assert record.effective_cost == pytest.approx(price)
    assert (record.charge_period_start, record.tags["team"]) == (NOW - 60, "search")


def test_modalities_are_summed_and_models_told_apart() -> None:
    points = [
        point(NOW - 60, NOW, asInt="10", labels={"gen_ai.token.modality": "text"}),
        point(NOW - 60, NOW, asInt="5", labels={"gen_ai.token.modality": "audio"}),
        point(NOW - 60, NOW, asInt="7", labels={"gen_ai.request.model": "o3"}),
    ]
    batch = parse(metrics([counter("input_tokens", points, cumulative=False)]), count="metrics")
    assert {record.tags["model"]: record.input_tokens for record in batch.records} == {"gpt-4o": 15, "o3": 7}


def test_the_histogram_tells_requests() -> None:
    points = [
        point(NOW - 60, NOW, count="4", sum=1000.0, labels={"gen_ai.token.type": "input"}),
        point(NOW - 60, NOW, count="4", sum=200.0, labels={"gen_ai.token.type": "output"}),
    ]
    (record,) = parse(metrics([histogram(points, cumulative=False)]), count="metrics").records
    assert (record.requests, record.input_tokens, record.output_tokens) == (4, 1000, 200)


def cumulative(kind: str, start: float, at: float, total: int) -> dict[str, Any]:
    labels = {"gen_ai.token.type": "input"}
    if kind == "counter":
        return metrics([counter("input_tokens", [point(start, at, asInt=str(total))], cumulative=True)])
    given = point(start, at, sum=float(total), count="1", labels=labels)
    return metrics([histogram([given], cumulative=True)])


@pytest.mark.parametrize("kind", ["counter", "histogram"])
@pytest.mark.parametrize("seed", range(5))
async def test_cumulative_sums_count_exactly_whatever_fails(kind: str, seed: int) -> None:
    rng, source, log = random.Random(seed), build(began=NOW - 1000, count="metrics"), MemoryLog()
    begin, total, before, failures = NOW - 900, 0, 0, 0
    for at in range(int(NOW) - 890, int(NOW) - 90, 10):
        total += rng.randrange(3) * 50
        request = cumulative(kind, begin, at, total)
        log.fail_next, log.fail_after = rng.choice([(0, 0), (1, 0), (0, 1)])
        for _ in range(rng.randrange(1, 4)):  # the exporter gives up, or sends once too often
            failures += not await send(source, log, request)
        if rng.random() < 0.2:  # the application ends, and what it said last arrives; then it starts again
            log.fail_next = log.fail_after = 0
            assert await send(source, log, request)
            begin, before, total = at + 1.0, before + total, 0
    log.fail_next = log.fail_after = 0
    assert await send(source, log, cumulative(kind, begin, NOW - 80, total))
    assert failures > 5
    assert before > 0
    assert tokens_of(unique(log))[0] == before + total
    assert log.dead_letters() == []


async def test_what_was_counted_before_a_restart_of_curb_is_not_counted_again() -> None:
    log, source = MemoryLog(), build(count="metrics")

    def at(seconds: float, total: int, **labels: str) -> dict[str, Any]:
        old = point(NOW - 9000, NOW + seconds, asInt=str(total), labels=labels)
        return metrics([counter("input_tokens", [old], cumulative=True)])

    await send(source, log, at(1, 5000))
    await send(source, log, at(61, 5300))
    # Once the application is known, a label that is new there is new usage.
    await send(source, log, at(62, 40, **{"gen_ai.request.model": "o3"}))
    assert [(record.input_tokens, record.tags["model"]) for record in log.records()] == [(300, "gpt-4o"), (40, "o3")]


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (counter("input_tokens", [point(NOW - 60, NOW, asInt="-5")], cumulative=False), "invalid"),
        (counter("input_tokens", [point(NOW - 60, NOW, asDouble="NaN")], cumulative=False), "invalid"),
        (histogram([point(NOW - 60, NOW, sum=5.0, count="1")], cumulative=False), "missing_field"),
        ({"name": "gen_ai.client.token.usage", "gauge": {"dataPoints": []}}, "wrong_type"),
        (
            {"name": "gen_ai.client.inference.usage.input_tokens", "sum": {"dataPoints": [point(0, NOW, asInt="1")]}},
            "invalid",
        ),
    ],
)
async def test_bad_points_are_dead_letters(metric: dict[str, Any], reason: str) -> None:
    log, good = MemoryLog(), counter("output_tokens", [point(NOW - 60, NOW, asInt="5")], cumulative=False)
    await append_batch(log, parse(metrics([metric, good]), count="metrics"), source="otel", at=NOW)
    assert [letter.reason for letter in log.dead_letters()] == [reason]
    assert len(log.records()) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.otel_metrics.MAX_STREAMS", 10)
    source = build(count="metrics")
    points = [point(NOW + 1, NOW + 2, asInt="5", labels={"gen_ai.request.model": f"m{n}"}) for n in range(50)]
    request = metrics([counter("input_tokens", points, cumulative=True)])
    door = door_of(source, request)
    assert len(door.parse(as_protobuf(request), location="", at=NOW).records) == 50
    door.appended()
    assert len(source._streams._known) == 10


# --- the other signal -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["spans", "metrics"])
def test_what_is_not_counted_is_accepted_and_ignored(count: str) -> None:
    both = {"spans": traces([span(1, NOW)]), "metrics": metrics([])}
    ignored = both["metrics" if count == "spans" else "spans"]
    batch = parse(ignored, count=count)
    assert (list(batch.records), list(batch.dead)) == ([], [])


def test_paths() -> None:
    source = build()
    assert isinstance(source, Receiver)
    assert source.door("v1/logs", PROTOBUF) is not None
    assert source.door("", PROTOBUF) is None
    assert source.door("v1/profiles", PROTOBUF) is None
