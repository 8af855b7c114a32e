"""LiteLLM payloads → usage: costs, ids, tags, and that prompts stay behind."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest

from curb.connectors.connector import Batch, Context, PushSource
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.litellm import Config, LiteLLM
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode
from curb.stream.records.spend import UsageRecord
from tests.fakes.litellm_usage import SECRET_PROMPT, array, ndjson, payload

NOW = 1_750_000_000.0
PRICES = PriceBook(
    {
        "gpt-4o": {
            "input_cost_per_token": 2e-6,
            "output_cost_per_token": 1e-5,
            "cache_read_input_token_cost": 1e-6,
            "mode": "chat",
        },
    },
    as_of="2026-01-01",
)


def build(**settings: Any) -> LiteLLM:
    context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PRICES)
    data = {"kind": "litellm", "name": "gw", "token": "a-long-token", **settings}
    return Config.model_validate(data).build(context).source


def parse(body: bytes, **settings: Any) -> Batch:
    return build(**settings).parse(body, location="here", at=NOW)


def one(event: dict[str, Any], **settings: Any) -> UsageRecord:
    batch = parse(array([event]), **settings)
    assert batch.dead == []
    (record,) = batch.records
    assert isinstance(record, UsageRecord)
    return record


def event(**changes: Any) -> dict[str, Any]:
    return payload(1, NOW - 60, **changes)


def hole(**changes: Any) -> dict[str, Any]:
    """A call that is said to be free by all that LiteLLM says of its cost."""
    return event(response_cost=0.0, cost_breakdown=None, **changes)


def test_the_whole_record() -> None:
    assert one(event(), tags={"env": "dev", "region": "eu"}) == UsageRecord(
        id="call-1/chatcmpl-1",
        charge_period_start=NOW - 60,
        received_at=NOW,
        effective_cost=0.0045,
        tags={
            "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
            "key_alias": "search-prod",
            "team": "search",
            "user": "ada",
            "model": "gpt-4o",
            "provider": "openai",
            "env": "prod",
            "region": "eu",
            "feature": "summaries",
        },
        source="gw",
        request_model="gpt-4o",
        requests=1,
        input_tokens=1000,
        output_tokens=200,
        cache_read_input_tokens=400,
    )


def test_is_a_push_source() -> None:
    assert isinstance(build(), PushSource)


@pytest.mark.parametrize("pack", [array, ndjson])
def test_array_and_lines_give_the_same(pack: Any) -> None:
    events = [payload(n, NOW - n) for n in range(5)]
    assert parse(pack(events)).records == parse(array(events)).records


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_object(indent: int | None) -> None:
    batch = parse(json.dumps(event(), indent=indent).encode())
    assert [record.id for record in batch.records] == ["call-1/chatcmpl-1"]


def test_nothing_of_a_prompt_leaves() -> None:
    bad = event(response_cost="free", litellm_call_id="other")
    batch = parse(array([event(), bad, event(prompt_tokens=SECRET_PROMPT)]) + b"x")
    assert len(batch.dead) == 3
    written = b"".join([encode(record) for record in batch.records] + [letter.value for letter in batch.dead])
    assert SECRET_PROMPT.encode() not in written
    assert b"secret" not in written


def test_the_total_of_the_breakdown_stands_in_for_the_cost() -> None:
    assert one(event(response_cost=None)).effective_cost == 0.0045


@pytest.mark.parametrize("cost", [0.0, None])
def test_free_tokens_are_priced_from_the_book(cost: float | None) -> None:
    record = one(event(response_cost=cost, cost_breakdown=None))
    assert record.effective_cost == pytest.approx(600 * 2e-6 + 400 * 1e-6 + 200 * 1e-5)
    assert (record.cost_source, record.price_book) == ("priced", PRICES.hash)


def test_the_group_is_looked_up_when_the_deployment_is_unknown() -> None:
    record = one(hole(model="azure/my-deployment", model_group="gpt-4o"))
    assert record.cost_source == "priced"
    assert record.request_model == "azure/my-deployment"
    assert record.tags["model"] == "gpt-4o"


def test_a_model_no_book_knows_costs_the_fallback() -> None:
    record = one(hole(model="mystery", model_group="mystery"))
    assert record.cost_source == "fallback"
    assert record.effective_cost > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_hit": True},
        {"status": "failure"},
        {"prompt_tokens": 0, "completion_tokens": 0, "metadata": {"usage_object": {}}},
    ],
)
def test_zero_is_believed_where_it_makes_sense(changes: dict[str, Any]) -> None:
    record = one(hole(**changes))
    assert (record.effective_cost, record.cost_source) == (0.0, "reported")


@pytest.mark.parametrize("free", ["llama-local", "hosted/llama"])
def test_free_models_are_free(free: str) -> None:
    record = one(hole(model="hosted/llama", model_group="llama-local"), free_models=[free])
    assert (record.effective_cost, record.cost_source) == (0.0, "reported")


def test_a_failure_is_an_error() -> None:
    record = one(event(status="failure", response_cost=0, completion_tokens=None, id="call-1"))
    assert (record.requests, record.errors, record.output_tokens) == (1, 1, 0)


@pytest.mark.parametrize(
    ("information", "refused"),
    [
        ({"error_class": "ProxyRateLimitError", "error_rate_limit_category": "litellm_rate_limit"}, 1),
        ({"error_class": "BudgetExceededError", "error_code": "422"}, 1),
        ({"error_class": "RateLimitError", "error_rate_limit_category": "vendor_rate_limit"}, 0),
        ({"error_class": "APIConnectionError"}, 0),
        ({"error_rate_limit_category": 17}, 0),
        ("odd", 0),
    ],
)
def test_a_refusal_of_the_gateway_itself_is_known(information: Any, refused: int) -> None:
    failure = event(status="failure", response_cost=0, completion_tokens=None, error_information=information)
    record = one(failure)
    assert (record.errors, record.refused) == (1, refused)
    assert one(event(error_information=information)).refused == 0


def test_events_that_share_one_of_their_ids_are_told_apart() -> None:
    events = [
        event(),
        event(id="chatcmpl-2"),  # a caller that always sends the same call id
        event(litellm_call_id="call-2", cache_hit=True),  # an answer from the cache
        event(status="failure", id="call-1"),  # attempts before the first
        event(status="failure", id="call-1", startTime=NOW - 61),
    ]
    ids = [record.id for record in parse(array(events)).records]
    assert len(set(ids)) == 5
    assert ids == [record.id for record in parse(array(events)).records]


def test_a_success_has_the_id_that_the_spans_of_its_application_have() -> None:
    answer = "chatcmpl-AYJ5Zb3mZ6Q8pXc1vT2nR7kLw0eDf"
    assert one(event(id=answer)).id == f"call/{answer}"
    assert one(event(id=f"{answer}_cache_hit1750000000.5")).id.startswith("call-1/")
    assert one(event(id=answer, status="failure")).id.startswith("call-1/")
    uuid = "b7a9e2d4-1111-4222-8333-94a5b6c7d8e9"  # where there is no answer, LiteLLM logs the id of the call
    assert one(event(id=uuid, litellm_call_id=uuid)).id == uuid


@pytest.mark.parametrize(("missing", "left"), [("id", "call-1"), ("litellm_call_id", "chatcmpl-1")])
def test_one_id_is_enough(missing: str, left: str) -> None:
    assert one(event(**{missing: None})).id == left


@pytest.mark.parametrize(
    ("given", "epoch"),
    [
        (1_750_000_000, 1_750_000_000.0),
        (1_750_000_000.25, 1_750_000_000.25),
        ("2025-06-15T15:06:40Z", 1_750_000_000.0),
        ("2025-06-15 15:06:40.250", 1_750_000_000.25),
        ("2025-06-15T17:06:40+02:00", 1_750_000_000.0),
    ],
)
def test_start_times(given: float | str, epoch: float) -> None:
    assert one(event(startTime=given)).charge_period_start == epoch


def test_a_start_that_is_no_time_is_a_dead_letter() -> None:
    batch = parse(array([event(startTime="yesterday")]))
    assert (len(batch.records), len(batch.dead)) == (0, 1)


def test_callers_cannot_claim_what_the_gateway_vouches_for() -> None:
    claims = ["team:other", "api_key:other", "user:other", "model:other", "end_user:other", "project:mine", "env:dev"]
    meta = {"user_api_key_auth_metadata": {"team": "other", "env": "prod", "nested": {"a": 1}}}
    tags = one(event(request_tags=claims, metadata=meta)).tags
    assert (tags["team"], tags["user"], tags["model"]) == ("search", "ada", "gpt-4o")
    assert tags["api_key"].startswith("88dc")
    assert "end_user" not in tags
    assert "nested" not in tags
    assert (tags["project"], tags["env"]) == ("mine", "prod")
    vouched = one(event(request_tags=claims, metadata={"user_api_key_project_id": "p1"})).tags
    assert vouched["project"] == "p1"


def test_request_tags() -> None:
    given = ["a:b:c", " spaced : out ", "User-Agent: curl", "plain", 7, None, "", "x:"]
    tags = one(event(request_tags=given, metadata={"user_api_key_auth_metadata": None})).tags
    assert tags["a"] == "b:c"
    assert tags["spaced"] == "out"
    assert "User-Agent" not in tags
    assert "plain" not in tags


def test_an_event_without_metadata_is_still_spend() -> None:
    bare = {"id": "x", "startTime": NOW, "response_cost": 0.5}
    record = one(bare)
    assert (record.effective_cost, record.tags) == (0.5, {})


def test_a_lone_surrogate_in_a_prompt_loses_nothing() -> None:
    bad = json.dumps(event(messages=[{"content": "\ud83d"}])).encode()
    batch = parse(b"[" + bad + b"," + json.dumps(payload(2, NOW)).encode() + b"]")
    assert (len(batch.records), batch.dead) == (2, [])


def test_nan_in_a_field_that_is_not_read_loses_nothing() -> None:
    batch = parse(array([event(response_time=float("nan")), payload(2, NOW)]))
    assert (len(batch.records), batch.dead) == (2, [])


@pytest.mark.parametrize("body", [b"[", b"[{", array([payload(1, NOW)])[:-1] + b",", b"[] x", b"[1 2]"])
def test_a_damaged_array_is_always_told(body: bytes) -> None:
    assert len(parse(body).dead) >= 1


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Upper"}, {"name": ""}, {"token": "short"}, {"token": None}, {"unknown": 1}, {"name": "a/b"}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        build(**wrong)


def test_the_token_is_never_shown() -> None:
    config = Config.model_validate({"kind": "litellm", "name": "gw", "token": "a-long-token"})
    assert "a-long-token" not in f"{config!r} {config} {config.model_dump_json()}"
