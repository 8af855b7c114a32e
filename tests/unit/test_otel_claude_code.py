"""Metrics that carry dollars: Claude Code's, and those beside token metrics; restarts, split and repeated exports."""

from __future__ import annotations

from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Context
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.otel_genai import Config, OtelGenAI
from curb.stream.clock import ManualClock
from curb.stream.records.spend import UsageRecord
from tests.fakes.otel_genai import JSON, as_json, attributes, metrics

NOW = 1_750_000_000.0
RESOURCE = {"service.name": "claude-code", "team.id": "platform"}
LABELS = {"model": "claude-opus-4-6", "user.id": "u-1", "session.id": "s-1", "organization.id": "o-1"}
TOKENS = {"input": 20_000.0, "output": 90_000.0, "cacheRead": 9_000_000.0, "cacheCreation": 500_000.0}
DELTA, CUMULATIVE = 1, 2
PRICES = PriceBook.load()
every_count = pytest.mark.parametrize("count", ["spans", "metrics"])


def metric(name: str, amounts: dict[str, float], start: float, at: float, temporality: int, **labels: str) -> Any:
    """A sum with one point for each of `amounts`, by the label `type` where that is not empty."""
    times = {"startTimeUnixNano": str(int(start * 1e9)), "timeUnixNano": str(int(at * 1e9))}
    points = [
        {
            "attributes": attributes({**LABELS, **labels, **({"type": kind} if kind else {})}),
            "asDouble": amount,
            **times,
        }
        for kind, amount in amounts.items()
    ]
    return {"name": name, "sum": {"dataPoints": points, "aggregationTemporality": temporality, "isMonotonic": True}}


def both(usd: float, share: float, start: float, at: float, temporality: int, **labels: str) -> list[Any]:
    """What Claude Code exports: its cost, and `share` of TOKENS."""
    tokens = {kind: amount * share for kind, amount in TOKENS.items()}
    return [
        metric("claude_code.cost.usage", {"": usd}, start, at, temporality, **labels),
        metric("claude_code.token.usage", tokens, start, at, temporality, **labels),
    ]


class Source:
    def __init__(self, count: str = "spans", began: float = NOW - 10_000, **settings: Any) -> None:
        context = Context(ManualClock(began), cast(aiohttp.ClientSession, None), PRICES)
        data = {"kind": "otel_genai", "name": "otel", "token": "a-long-token", "count": count, **settings}
        self.source: OtelGenAI = Config.model_validate(data).build(context).source
        self.records: dict[str, UsageRecord] = {}
        self.dead: list[Any] = []

    def export(self, given: list[Any], appended: bool = True) -> Source:
        door = self.source.door("v1/metrics", JSON)
        assert door is not None
        batch = door.parse(as_json(metrics(given, RESOURCE)), location="here", at=NOW)
        self.dead += batch.dead
        if appended:
            door.appended()
            for record in batch.records:
                assert isinstance(record, UsageRecord)
                self.records.setdefault(record.id, record)
        return self

    @property
    def dollars(self) -> float:
        return round(sum(record.effective_cost for record in self.records.values()), 9)

    def tokens(self) -> tuple[int, int, int, int]:
        every = self.records.values()
        return (
            sum(record.input_tokens for record in every),
            sum(record.output_tokens for record in every),
            sum(record.cache_read_input_tokens for record in every),
            sum(record.cache_creation_input_tokens for record in every),
        )


@every_count
def test_one_interval_is_one_record_with_its_dollars(count: str) -> None:
    source = Source(count).export(both(12.34, 1, NOW - 60, NOW, DELTA))
    (record,) = source.records.values()
    assert (record.effective_cost, record.cost_source) == (12.34, "reported")
    assert source.tokens() == (9_520_000, 90_000, 9_000_000, 500_000)
    assert record.request_model == "claude-opus-4-6"
    assert record.tags == {
        "model": "claude-opus-4-6",
        "user": "u-1",
        "org": "o-1",
        "team": "platform",
        "project": "claude-code",
    }


@every_count
@pytest.mark.parametrize("temporality", [DELTA, CUMULATIVE])
def test_three_exports_one_of_them_sent_twice(count: str, temporality: int) -> None:
    source, start = Source(count), NOW - 180
    so_far = 0.0
    for n, usd in enumerate((2.0, 4.0, 6.34), 1):
        so_far += usd
        at = start + 60 * n
        given = (
            both(so_far, n, start, at, CUMULATIVE) if temporality == CUMULATIVE else both(usd, 1, at - 60, at, DELTA)
        )
        source.export(given).export(given)
    assert source.dollars == 12.34
    assert source.tokens() == (28_560_000, 270_000, 27_000_000, 1_500_000)


@pytest.mark.parametrize("says_so", [True, False])
def test_a_cumulative_counter_that_starts_again(says_so: bool) -> None:
    """As a new process of the same session does, with a later start or with the old one."""
    source = Source()
    source.export(both(5.0, 1, NOW - 300, NOW - 240, CUMULATIVE)).export(both(8.0, 2, NOW - 300, NOW - 180, CUMULATIVE))
    again = NOW - 170 if says_so else NOW - 300
    source.export(both(1.0, 0.5, again, NOW - 120, CUMULATIVE)).export(both(4.34, 1, again, NOW - 60, CUMULATIVE))
    assert source.dollars == 12.34
    assert source.tokens()[1] == 270_000


def test_what_was_used_before_curb_started_only_sets_the_mark() -> None:
    source = Source(began=NOW - 100)
    source.export(both(50.0, 1, NOW - 5000, NOW - 60, CUMULATIVE)).export(both(62.34, 2, NOW - 5000, NOW, CUMULATIVE))
    assert source.dollars == 12.34
    assert source.tokens()[1] == 90_000


def test_an_export_that_was_not_appended_comes_with_the_next() -> None:
    source = Source().export(both(5.0, 1, NOW - 180, NOW - 120, CUMULATIVE), appended=False)
    source.export(both(12.34, 2, NOW - 180, NOW - 60, CUMULATIVE))
    assert (source.dollars, source.tokens()[1]) == (12.34, 180_000)


def test_dollars_and_tokens_in_different_exports_are_not_counted_twice() -> None:
    source = Source()
    for n in range(2):  # a collector splits exports by size
        cost, tokens = both(6.17, 1, NOW - 120 + 60 * n, NOW - 60 + 60 * n, DELTA)
        source.export([cost]).export([tokens])
    assert source.dollars == 12.34
    assert source.tokens()[1] == 180_000


def test_instruments_that_start_one_by_one_are_still_one_record() -> None:
    cost, tokens = both(12.34, 1, NOW - 60, NOW, DELTA)
    tokens["sum"]["dataPoints"][0]["startTimeUnixNano"] = str(int((NOW - 59) * 1e9))
    source = Source().export([cost, tokens])
    assert (len(source.records), source.dollars) == (1, 12.34)


def test_tokens_without_dollars_are_priced() -> None:
    cost, tokens = both(0.0, 1, NOW - 60, NOW, DELTA)
    wanted = PRICES.price(
        "claude-opus-4-6", input_tokens=9_520_000, output_tokens=90_000, cache_read=9_000_000, cache_creation=500_000
    )
    without, zero = Source().export([tokens]), Source().export([cost, tokens])
    assert without.dollars > 1
    assert without.dollars == zero.dollars
    assert wanted is not None
    assert Source(free_models=["claude-opus-4-6"]).export([tokens]).dollars == 0


@pytest.mark.parametrize("usd", [-1.0, "NaN", "Infinity", "1e300"])
def test_impossible_dollars_are_dead_letters_and_the_tokens_stay(usd: Any) -> None:
    cost, tokens = both(usd, 1, NOW - 60, NOW, DELTA)
    source = Source().export([cost, tokens])
    assert len(source.dead) == 1
    assert source.tokens()[1] == 90_000
    assert source.dollars > 0


def test_models_and_people_are_told_apart() -> None:
    source = Source().export(
        both(10.0, 1, NOW - 60, NOW, DELTA)
        + both(2.0, 1, NOW - 60, NOW, DELTA, model="claude-haiku-4-5")
        + both(0.34, 1, NOW - 60, NOW, DELTA, **{"user.id": "u-2"})
    )
    found = {(each.tags["model"], each.tags["user"]): each.effective_cost for each in source.records.values()}
    assert found == {
        ("claude-opus-4-6", "u-1"): 10.0,
        ("claude-haiku-4-5", "u-1"): 2.0,
        ("claude-opus-4-6", "u-2"): 0.34,
    }


def test_other_metrics_are_named() -> None:
    source = Source()
    other = metric("my.llm.tokens", {"": 7.0}, NOW - 60, NOW, DELTA)
    known = metric("gen_ai.client.inference.usage.input_tokens", {"": 7.0}, NOW - 60, NOW, DELTA)
    door = source.source.door("v1/metrics", JSON)
    assert door is not None
    assert not door.parse(as_json(metrics([other, known], RESOURCE)), location="here", at=NOW).records
    assert source.source.notes() == (
        "metrics that Curb does not read: my.llm.tokens (1)",
        "not counted because `count` names the other signal: gen_ai.client.inference.usage.input_tokens (1)",
    )
    assert b"my.llm.tokens" in bytes(cast(Any, door.answer(0, 0)).body)
    source.export(both(1.0, 1, NOW - 60, NOW, DELTA))
    assert b"my.llm.tokens" not in bytes(cast(Any, door.answer(0, 0)).body)


def test_every_name_is_bounded() -> None:
    source = Source()
    source.export([metric(f"m{n}" + "x" * 500, {"": 1.0}, NOW - 60, NOW, DELTA) for n in range(500)])
    (note,) = source.source.notes()
    assert len(note) < 1200
    assert "more" in note


# --- other producers of dollars and of cached tokens ---------------------------------------------------------------


def histogram(name: str, sums: dict[str, float], **labels: str) -> dict[str, Any]:
    times = {"startTimeUnixNano": str(int((NOW - 60) * 1e9)), "timeUnixNano": str(int(NOW * 1e9))}
    base = {"gen_ai.request.model": "gpt-4o", **labels}
    points = [
        {"attributes": attributes({**base, "gen_ai.token.type": kind} if kind else base), "sum": total, "count": "4"}
        | times
        for kind, total in sums.items()
    ]
    return {"name": name, "histogram": {"dataPoints": points, "aggregationTemporality": DELTA}}


def test_a_gateway_that_tells_cached_tokens_apart() -> None:
    sums = {"input": 1000.0, "cached_input": 600.0, "cache_creation_input": 0.0, "output": 200.0, "total": 1200.0}
    source = Source("metrics").export([histogram("gen_ai.client.token.usage", sums)])
    (record,) = source.records.values()
    assert (source.tokens(), record.requests, source.dead) == ((1000, 200, 600, 0), 4, [])
    price = PRICES.price("gpt-4o", input_tokens=1000, output_tokens=200, cache_read=600)
    assert record.effective_cost == pytest.approx(price)


@pytest.mark.parametrize("name", ["gen_ai.client.token.cost", "operation.cost", "gen_ai.usage.cost"])
def test_dollars_beside_token_metrics_are_used(name: str) -> None:
    tokens = histogram("gen_ai.client.token.usage", {"input": 1000.0, "output": 200.0})
    source = Source("metrics").export([tokens, histogram(name, {"": 0.25})])
    assert (source.dollars, source.tokens()[0]) == (0.25, 1000)
