"""Lines of any gateway by a map of JMESPath: records, refusals, and errors that name their place in the file."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest

from curb.config.file import ConfigErrors, load_text
from curb.connectors.connector import Batch, Context, PushSource
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.usage_jsonl import Config
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode
from curb.stream.records.spend import UsageRecord

NOW = 1_750_000_000.0
PRICES = PriceBook.load()
MAP = {
    "fields": {
        "id": "request.id",
        "charge_period_start": "request.at_ms",
        "request_model": "model.name",
        "input_tokens": "usage.prompt",
        "output_tokens": "usage.completion || `0`",
        "errors": "(status >= `400` && `1`) || `0`",
    },
    "tags": {"team": "meta.team", "api_key": "meta.keys[0]", "shard": "meta.shard"},
    "scale": {"charge_period_start": 0.001},
    "only": "type == 'llm'",
}
LINE = {
    "type": "llm",
    "request": {"id": "r1", "at_ms": int(NOW * 1000) - 60_000},
    "model": {"name": "gpt-4o"},
    "usage": {"prompt": 1000, "completion": 200},
    "status": 200,
    "meta": {"team": "search", "keys": ["k1"], "shard": 7},
    "prompt": "the secret launch date",
}


def parse(lines: list[Any], changes: dict[str, Any] | None = None) -> Batch:
    data = {"kind": "usage_jsonl", "name": "gw", "token": "a-long-token", "tags": {"env": "prod"}}
    config = Config.model_validate({**data, "map": {**MAP, **(changes or {})}})
    source = cast(PushSource, config.build(Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PRICES)).source)
    return source.parse(b"\n".join(json.dumps(line).encode() for line in lines), location="here", at=NOW)


def test_the_whole_record() -> None:
    (record,) = parse([LINE]).records
    cost = PRICES.price("gpt-4o", input_tokens=1000, output_tokens=200)
    assert record == UsageRecord(
        id="r1",
        charge_period_start=NOW - 60,
        received_at=NOW,
        effective_cost=cast(float, cost),
        tags={"env": "prod", "model": "gpt-4o", "team": "search", "api_key": "k1", "shard": "7"},
        source="gw",
        cost_source="priced",
        request_model="gpt-4o",
        requests=1,
        input_tokens=1000,
        output_tokens=200,
        price_book=PRICES.hash,
    )


def test_costs_in_cents_numbers_as_ids_and_texts_as_times() -> None:
    fields = {"id": "n", "charge_period_start": "at", "effective_cost": "cents", "requests": "calls"}
    line = {"type": "llm", "n": 17, "at": "2025-06-15T15:00:00Z", "cents": 250, "calls": 3.0}
    (record,) = parse([line], {"fields": fields, "scale": {"effective_cost": 0.01}}).records
    assert (record.id, record.effective_cost, record.requests) == ("17", 2.5, 3)
    assert record.charge_period_start == NOW - 400


def test_lines_that_are_not_meant_are_nothing() -> None:
    batch = parse([{**LINE, "type": "health"}, LINE, {}])
    assert (len(batch.records), list(batch.dead)) == (1, [])
    assert list(batch.locations) == ["here:2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request": {"at_ms": 1}}, "missing_field"),
        ({"request": {"id": "r"}}, "missing_field"),
        ({"request": {"id": "r", "at_ms": "yesterday"}}, "wrong_type"),
        ({"request": {"id": ["r"], "at_ms": 1}}, "wrong_type"),
        ({"request": {"id": "r", "at_ms": "2025-06-15 15:00:00"}}, "wrong_type"),
        ({"usage": {"prompt": "many"}}, "wrong_type"),
        ({"usage": {"prompt": 1.5}}, "wrong_type"),
        ({"usage": {"prompt": True}}, "wrong_type"),
        ({"meta": {"team": {"name": "the secret launch date"}}}, "wrong_type"),
    ],
)
def test_a_bad_line_is_a_dead_letter_and_the_rest_is_kept(change: dict[str, Any], reason: str) -> None:
    batch = parse([LINE, {**LINE, **change}, {**LINE, "request": {"id": "r3", "at_ms": NOW * 1000}}])
    assert len(batch.records) == 2
    (letter,) = batch.dead
    assert json.loads(letter.value)["reason"] == reason
    assert b"secret" not in letter.value + b"".join(map(encode, batch.records))


def test_a_function_that_fails_on_a_line_is_told_for_it() -> None:
    batch = parse([LINE], {"tags": {"team": "join('-', usage)"}})
    (letter,) = batch.dead
    assert json.loads(letter.value)["detail"] == "team: JMESPathTypeError"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("id: request.id", "id: 'request.['", "map.fields.id", "no JMESPath expression"),
        ("id: request.id", "idd: request.id", "map.fields", "Input should be"),
        ("id: request.id", "users: n", "map", "fields: id is missing"),
        ("team: meta.team", "team: 'nope('", "map.tags.team", "no JMESPath expression"),
        ("only: type", "only: '=='", "map.only", "no JMESPath expression"),
        ("at: 1", "users: 1", "map", "scale: users is no number"),
        ("format: x", "format: curb", "", "`format` or `map`, not both"),
    ],
)
def test_a_wrong_map_is_told_with_its_place(old: str, new: str, path: str, message: str) -> None:
    text = """connectors:
  - kind: usage_jsonl
    name: gw
    token: a-long-token
    FORMAT
    map:
      fields:
        id: request.id
        charge_period_start: at
      tags: {team: meta.team}
      SCALE
      only: type
"""
    text = text.replace("FORMAT", new if old == "format: x" else "tags: {}")
    text = text.replace("SCALE", f"scale: {{{new}}}" if old == "at: 1" else "scale: {}")
    with pytest.raises(ConfigErrors) as raised:
        load_text(text.replace(old, new))
    found = [(error.path, error.message) for error in raised.value.errors]
    assert any(
        where.startswith(f"connectors[0]{'.' if path else ''}{path}") and message in said for where, said in found
    )
