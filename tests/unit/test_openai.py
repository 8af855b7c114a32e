"""OpenAI's rows → records: prices by unit, tiers, users, and settings that cannot work."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Context
from curb.connectors.decode import Rejected
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.grown import Grown
from curb.connectors.tokens.openai import Config, _cost_row, _costs, _usage
from curb.stream.clock import ManualClock
from curb.stream.records.spend import CostRecord, UsageRecord

NOW = 1_750_000_000.0
PRICES = PriceBook.load()


def config(**changes: Any) -> Config:
    return Config.model_validate({"kind": "openai", "name": "oa", "key": "sk-admin-x", **changes})


def record(endpoint: Any, result: dict[str, Any], **settings: Any) -> UsageRecord:
    report = _usage(config(usage=[endpoint], **settings), endpoint, PRICES)
    row = report.row(json.dumps(result).encode())
    assert not isinstance(row, Rejected)
    found = report.record(Grown(NOW, row.key, 0, row.numbers), "id", NOW)
    assert isinstance(found, UsageRecord)
    return found


RESULT = {
    "object": "organization.usage.completions.result",
    "input_tokens": 1000,
    "input_cached_tokens": 400,
    "output_tokens": 200,
    "num_model_requests": 5,
    "project_id": "proj_1",
    "api_key_id": "key_1",
    "user_id": None,
    "model": "gpt-4o",
    "batch": False,
    "service_tier": None,
}


def test_the_whole_record() -> None:
    found = record("completions", RESULT, tags={"team": "search", "model": "ignored"})
    price = PRICES.price("gpt-4o", input_tokens=1000, output_tokens=200, cache_read=400)
    assert found == UsageRecord(
        id="id",
        charge_period_start=NOW,
        received_at=NOW,
        effective_cost=cast(float, price),
        tags={"team": "search", "provider": "openai", "project": "proj_1", "api_key": "key_1", "model": "gpt-4o"},
        source="oa",
        cost_source="priced",
        request_model="gpt-4o",
        requests=5,
        input_tokens=1000,
        output_tokens=200,
        cache_read_input_tokens=400,
        price_book=PRICES.hash,
    )


def test_batches_users_and_tiers_are_tags() -> None:
    found = record("completions", {**RESULT, "batch": True, "user_id": "u"}, per_user=True)
    assert (found.tags["service_tier"], found.tags["user"]) == ("batch", "u")
    assert record("completions", {**RESULT, "service_tier": "flex"}).tags["service_tier"] == "flex"


@pytest.mark.parametrize(
    ("endpoint", "count"),
    [("images", "images"), ("audio_speeches", "characters"), ("code_interpreter_sessions", "num_sessions")],
)
def test_units_have_a_configured_price(endpoint: str, count: str) -> None:
    found = record(endpoint, {count: 30, "project_id": "p", "model": "m"}, unit_prices={endpoint: 0.04})
    assert found.effective_cost == pytest.approx(1.2)
    assert found.cost_source == "priced"


def test_moderation_is_free() -> None:
    assert record("moderations", {"input_tokens": 10, "model": "omni-moderation-latest"}).effective_cost == 0


def test_what_is_asked_for() -> None:
    report = _usage(config(per_user=True), "completions", PRICES)
    assert report.url == "https://api.openai.com/v1/organization/usage/completions"
    assert list(report.params(600, 1200)) == [
        ("start_time", "600"),
        ("end_time", "1200"),
        ("bucket_width", "1m"),
        ("limit", "10"),
        *[("group_by[]", group) for group in ("project_id", "api_key_id", "model", "user_id", "batch", "service_tier")],
    ]


def test_costs() -> None:
    raw = {"object": "organization.costs.result", "amount": {"value": "0.06", "currency": "usd"}, "line_item": "x"}
    row = _cost_row(json.dumps(raw).encode())
    assert not isinstance(row, Rejected)
    found = _costs(config()).record(Grown(NOW, row.key, 0, row.numbers), "id", NOW)
    assert isinstance(found, CostRecord)
    assert (found.effective_cost, found.billed_cost, found.service_name) == (0.06, 0.06, "OpenAI")
    assert found.tags == {"provider": "openai", "line_item": "x"}
    assert found.charge_period_end - found.charge_period_start == 86400


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"amount": {"value": 1, "currency": "eur"}}, "invalid"),
        ({"amount": {"value": float("nan")}}, "not_finite"),
        ({"amount": {"value": "much"}}, "wrong_type"),
        ({}, "missing_field"),
    ],
)
def test_costs_that_are_refused(raw: dict[str, Any], reason: str) -> None:
    row = _cost_row(json.dumps(raw).encode())
    assert isinstance(row, Rejected)
    assert row.reason == reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"usage": ["images"]}, "dollars per images are needed for images"),
        ({"usage": ["chat"]}, "Input should be"),
        ({"usage": []}, "at least 1 item"),
        ({"bucket_width": "1h"}, "at least 120"),
        ({"key": "x"}, "at least 8"),
        ({"url": "ftp://x"}, "URL scheme"),
        ({"reread_minutes": 1000}, "less than or equal to 720"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_the_longest_span_is_within_what_the_api_takes() -> None:
    for width, limit in (("1m", 1440), ("1h", 168)):
        report = _usage(config(bucket_width=width, reread_minutes=720), "completions", PRICES)
        assert report.reread_s < report.span_s <= limit * report.bucket_s
    report = _costs(config(cost_days=90))
    assert report.reread_s < report.span_s <= 180 * report.bucket_s


def test_the_key_is_never_shown() -> None:
    built = config()
    assert "sk-admin-x" not in f"{built!r} {built.model_dump_json()}"
    built.build(Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PRICES))
