"""Anthropic's rows → records: cached tokens, searches, cents as text, and settings that cannot work."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curb.connectors.decode import Rejected
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.anthropic import Config, _cost_row, _costs, _row, _usage
from curb.connectors.tokens.grown import Grown
from curb.stream.records.spend import CostRecord, UsageRecord

NOW = 1_750_000_000.0
PRICES = PriceBook.load()
MODEL = "claude-sonnet-4-20250514"
RESULT = {
    "uncached_input_tokens": 1000,
    "cache_creation": {"ephemeral_1h_input_tokens": 30, "ephemeral_5m_input_tokens": 70},
    "cache_read_input_tokens": 400,
    "output_tokens": 200,
    "server_tool_use": {"web_search_requests": 3},
    "api_key_id": None,
    "workspace_id": None,
    "model": MODEL,
    "service_tier": "batch",
    "context_window": "0-200k",
}


NOTHING = {"uncached_input_tokens": 0, "output_tokens": 0}


def config(**changes: Any) -> Config:
    return Config.model_validate({"kind": "anthropic", "name": "an", "key": "sk-ant-admin-x", **changes})


def test_the_whole_record() -> None:
    row = _row(json.dumps(RESULT).encode())
    assert not isinstance(row, Rejected)
    found = _usage(config(), PRICES).record(Grown(NOW, row.key, 0, row.numbers), "id", NOW)
    assert isinstance(found, UsageRecord)
    assert (found.input_tokens, found.output_tokens, found.requests) == (1500, 200, 0)
    assert (found.cache_read_input_tokens, found.cache_creation_input_tokens) == (400, 100)
    counts = {"input_tokens": 1500, "output_tokens": 200, "cache_read": 400, "cache_creation": 100}
    tokens = PRICES.price(MODEL, tier="batch", **counts, cache_creation_1h=30)
    assert tokens is not None
    assert found.effective_cost == pytest.approx(tokens + 3 * 0.01)
    assert found.tags == {
        "provider": "anthropic",
        "project": "default",
        "api_key": "console",
        "model": MODEL,
        "service_tier": "batch",
    }


@pytest.mark.parametrize(("window", "long"), [("0-200k", False), ("200k-1M", True), (None, False)])
def test_many_short_requests_are_not_one_long_one(window: str | None, long: bool) -> None:
    many = {"uncached_input_tokens": 900_000, "model": MODEL, "context_window": window}
    row = _row(json.dumps(many).encode())
    assert not isinstance(row, Rejected)
    entry: dict[str, Any] = {"input_cost_per_token": 3e-6, "output_cost_per_token": 1.5e-5, "mode": "chat"}
    entry["input_cost_per_token_above_200k_tokens"] = 6e-6
    book = PriceBook({MODEL: entry}, as_of="2026-01-01")
    found = _usage(config(), book).record(Grown(NOW, row.key, 0, row.numbers), "id", NOW)
    assert found.effective_cost == pytest.approx(5.4 if long else 2.7)


@pytest.mark.parametrize(
    ("changes", "usd"),
    [
        ({}, 7.5),
        ({"inference_geo": "us"}, 8.25),
        ({"inference_geo": "global"}, 7.5),
        ({"inference_geo": "not_available"}, 7.5),
        ({"inference_geo": "us", "service_tier": "batch"}, 4.125),
        (
            {"uncached_input_tokens": 0, "output_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 10**6}},
            10.0,
        ),
        (
            {"uncached_input_tokens": 0, "output_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 10**6}},
            6.25,
        ),
    ],
)
def test_what_the_report_of_opus_costs_by_the_shipped_book(changes: dict[str, Any], usd: float) -> None:
    raw = {"uncached_input_tokens": 1_000_000, "output_tokens": 100_000, "model": "claude-opus-4-6", **changes}
    row = _row(json.dumps(raw).encode())
    assert not isinstance(row, Rejected)
    found = _usage(config(), PRICES).record(Grown(1_796_000_000.0, row.key, 0, row.numbers), "id", NOW)
    assert found.effective_cost == pytest.approx(usd)
    assert found.tags.get("region") == ("us" if changes.get("inference_geo") == "us" else None)
    assert len(row.key) == (6 if changes.get("inference_geo") == "us" else 5)  # known rows keep their key


@pytest.mark.parametrize("odd", [{"context_window": 7}, {"service_tier": ["batch"]}, {"inference_geo": {"a": 1}}])
def test_an_odd_label_costs_only_itself(odd: dict[str, Any]) -> None:
    raw = {"uncached_input_tokens": 1_000_000, "output_tokens": 100_000, "model": "claude-opus-4-6", **odd}
    row = _row(json.dumps(raw).encode())
    assert not isinstance(row, Rejected)
    plain = _row(json.dumps({**raw, **dict.fromkeys(odd)}).encode())
    assert not isinstance(plain, Rejected)
    assert row.key != plain.key  # of two rows with one key, the later would replace the other
    assert _usage(config(), PRICES).record(Grown(NOW, row.key, 0, row.numbers), "id", NOW).effective_cost == 7.5


def test_fields_that_are_null_or_missing_count_nothing() -> None:
    row = _row(b'{"model": "m", "cache_creation": null, "server_tool_use": null}')
    assert not isinstance(row, Rejected)
    assert set(row.numbers) == {0}


def test_cents_are_text() -> None:
    raw = {"amount": "123.78912", "currency": "USD", "workspace_id": "w", "description": "Claude Usage - Output"}
    row = _cost_row(json.dumps(raw).encode())
    assert not isinstance(row, Rejected)
    assert row.numbers == (1.2378912,)
    found = _costs(config()).record(Grown(NOW, row.key, 0, row.numbers), "id", NOW)
    assert isinstance(found, CostRecord)
    assert found.billed_cost == 1.2378912
    assert found.tags == {"provider": "anthropic", "project": "w", "line_item": "Claude Usage - Output"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"amount": 123.7}, "wrong_type"),
        ({"amount": "a lot"}, "wrong_type"),
        ({"amount": "NaN"}, "not_finite"),
        ({"amount": "Infinity"}, "not_finite"),
        ({"amount": "1", "currency": "EUR"}, "invalid"),
        ({}, "missing_field"),
    ],
)
def test_costs_that_are_refused(raw: dict[str, Any], reason: str) -> None:
    row = _cost_row(json.dumps(raw).encode())
    assert isinstance(row, Rejected)
    assert row.reason == reason


def test_what_is_asked_for() -> None:
    report = _usage(config(), PRICES)
    assert report.url == "https://api.anthropic.com/v1/organizations/usage_report/messages"
    assert list(report.params(1_750_000_020, 1_750_000_080)) == [
        ("starting_at", "2025-06-15T15:07:00Z"),
        ("ending_at", "2025-06-15T15:08:00Z"),
        ("bucket_width", "1m"),
        ("limit", "1"),
        *[
            ("group_by[]", group)
            for group in ("api_key_id", "workspace_id", "model", "service_tier", "context_window", "inference_geo")
        ],
    ]


def test_the_longest_span_is_within_what_the_api_takes() -> None:
    for width, limit in (("1m", 1440), ("1h", 168)):
        report = _usage(config(bucket_width=width, reread_minutes=720), PRICES)
        assert report.reread_s < report.span_s <= limit * report.bucket_s
    report = _costs(config(cost_days=20))
    assert report.reread_s < report.span_s <= 31 * report.bucket_s


@pytest.mark.parametrize("changes", [{"bucket_width": "1h"}, {"bucket_width": "1d"}, {"cost_days": 30}, {"key": ""}])
def test_settings_that_cannot_work(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        config(**changes)
