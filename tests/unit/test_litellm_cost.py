"""What calls through LiteLLM cost where its own number is missing, 0, negative or repeated; and odd fields."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client import REGISTRY

from curb.connectors.connector import Context
from curb.connectors.decode import Rejected
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.litellm import Config, LiteLLM
from curb.connectors.validate import check
from curb.stream.clock import ManualClock
from curb.stream.records.spend import UsageRecord
from tests.fakes.litellm_spend_logs import row_of
from tests.fakes.litellm_usage import array, payload

NOW = 1_750_000_000.0
PRICES = PriceBook.load()
#: An id that LiteLLM gave to a call; where there is no answer it is the id of the event as well.
CALL = "3ee6674f-7544-47d9-824e-e81bce743c72"
NO_USAGE: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "metadata": {"usage_object": {}}}


def build(prices: PriceBook = PRICES, **settings: Any) -> LiteLLM:
    context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), prices)
    data = {"kind": "litellm", "name": "gw", "token": "a-long-token", **settings}
    source = Config.model_validate(data).build(context).source
    assert isinstance(source, LiteLLM)
    return source


def both(event: dict[str, Any], **settings: Any) -> list[UsageRecord]:
    """Records of the event; those of its row in the spend logs are the same, but for the start of failures."""
    source = build(**settings)
    batch = source.parse(array([event]), location="here", at=NOW)
    assert batch.dead == []
    rows = source.row_records(json.dumps(row_of(event)).encode(), NOW)
    assert not isinstance(rows, Rejected)
    pushed = [cast(UsageRecord, record) for record in batch.records]
    key = [(r.id, r.effective_cost, r.cost_source, r.input_tokens, r.output_tokens, r.requests) for r in pushed]
    assert key == [(r.id, r.effective_cost, r.cost_source, r.input_tokens, r.output_tokens, r.requests) for r in rows]
    for record in pushed:
        assert check(record) is None
    return pushed


def one(event: dict[str, Any], **settings: Any) -> UsageRecord:
    (record,) = both(event, **settings)
    return record


def priced_with(models: dict[str, Any], given: dict[str, Any]) -> UsageRecord:
    """The one record of an event, with another price book."""
    source = build(PriceBook(models, as_of="2026-01-01"))
    (record,) = source.parse(array([given]), location="here", at=NOW).records
    assert isinstance(record, UsageRecord)
    return record


def event(**changes: Any) -> dict[str, Any]:
    return payload(1, NOW - 60, **{"cost_breakdown": None, **changes})


def counted(reason: str) -> float:
    return REGISTRY.get_sample_value("curb_priced_by_list_total", {"source": "gw", "reason": reason}) or 0.0


# --- ids ------------------------------------------------------------------------------------------------------------


def test_an_encrypted_id_of_the_responses_api_is_one_record() -> None:
    given = event(call_type="aresponses", id="resp_" + "A" * 452, response_cost=0.000435)
    record = one(given)
    assert (record.effective_cost, len(record.id)) == (0.000435, 69)
    assert one(given).id == record.id


@pytest.mark.parametrize("field", ["id", "litellm_call_id"])
def test_ids_of_any_length_are_records(field: str) -> None:
    first, second = (one(event(**{field: "x" * 100_000 + end})) for end in "ab")
    assert first.id != second.id
    assert len(first.id) < 256


@pytest.mark.parametrize("kind", ["aretrieve_batch", "retrieve_batch", "aget_responses", "avideo_retrieve"])
def test_a_cost_that_is_logged_at_each_reading_counts_once(kind: str) -> None:
    polls = [
        event(call_type=kind, id="batch_abc123", litellm_call_id=f"call-{n}", response_cost=12.5, startTime=NOW + n)
        for n in range(3)
    ]
    made = event(call_type="acreate_batch", id="batch_abc123", response_cost=0.0, **NO_USAGE)
    records = [record for each in (made, *polls) for record in both(each)]
    assert {record.id: record.effective_cost for record in records} == {"call/openai/batch_abc123": 12.5}


def test_polls_of_an_unfinished_batch_do_not_take_the_place_of_its_cost() -> None:
    ready = {"call_type": "aretrieve_batch", "id": "batch_0123456789abcdef0123"}
    assert both(event(**ready, response_cost=0.0, **NO_USAGE)) == []
    assert one(event(**ready, response_cost=12.5)).effective_cost == 12.5


def test_a_batch_without_a_cost_is_priced_as_a_batch() -> None:
    tokens = {"prompt_tokens": 3_000_000, "completion_tokens": 300_000, "metadata": {"usage_object": {}}}
    given = event(call_type="aretrieve_batch", id="batch_1", model="m", response_cost=0.0, **tokens)
    prices = {"input_cost_per_token": 1.5e-7, "output_cost_per_token": 6e-7}
    prices |= {"input_cost_per_token_batches": 7.5e-8, "output_cost_per_token_batches": 3e-7}
    assert priced_with({"m": prices}, given).effective_cost == pytest.approx(0.315)


def test_work_in_the_background_counts_when_its_cost_is_known() -> None:
    answer = "resp_0123456789abcdef0123456789"
    begun = one(event(call_type="aresponses", id=answer, response_cost=0.0, **NO_USAGE))
    done = one(event(call_type="aget_responses", id=answer, response_cost=0.25, litellm_call_id="call-9"))
    assert begun.effective_cost + done.effective_cost == 0.25
    assert begun.id != done.id


@pytest.mark.parametrize("kind", ["aget_responses", "alist_input_items", "afile_content", "acreate_file"])
def test_calls_that_only_manage_are_no_usage(kind: str) -> None:
    # Older versions repeat the tokens of the answer that is read.
    assert both(event(call_type=kind, response_cost=0.0)) == []


@pytest.mark.parametrize("kind", ["call_mcp_tool", "amoderation"])
def test_tools_and_moderations_are_no_usage_that_is_missing(kind: str) -> None:
    given = event(call_type=kind, model="MCP: add", response_cost=0.0, **NO_USAGE)
    assert both(given) == []
    record = one(given | {"response_cost": 0.01})
    assert (record.effective_cost, record.requests) == (0.01, 1)


def test_attempts_that_failed_are_one_failure_from_the_callback_and_from_the_logs() -> None:
    failed = event(status="failure", id=CALL, litellm_call_id=CALL, response_cost=0.0)
    answered = event(litellm_call_id=CALL, id="chatcmpl-0123456789abcdef")
    row = row_of(answered)
    meta = {"attempted_fallbacks": 1, "original_model_group": "up-broken"}
    row["metadata"] = json.dumps(json.loads(row["metadata"]) | meta)
    found = build().row_records(json.dumps(row).encode(), NOW)
    assert not isinstance(found, Rejected)
    assert [record.id for record in found] == [one(failed).id, one(answered).id]
    assert (found[0].errors, found[0].effective_cost, found[0].input_tokens) == (1, 0.0, 0)
    assert found[0].tags["model"] == "up-broken"


# --- dollars --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [0.0, None])
@pytest.mark.parametrize(
    "breakdown",
    [
        {"total_cost": 1.23},
        {"input_cost": 1.0, "output_cost": 0.2, "tool_usage_cost": 0.03},
        {"cache_read_cost": 0.2, "cache_creation_cost": 0.03, "input_cost": 1.0},
        {"input_cost": 1.0, "output_cost": 0.23, "total_cost": 0.0},
    ],
)
def test_the_breakdown_counts_where_the_cost_is_0(cost: float | None, breakdown: dict[str, float]) -> None:
    record = one(event(model="azure_ai/some-model", response_cost=cost, cost_breakdown=breakdown))
    assert (record.effective_cost, record.cost_source) == (pytest.approx(1.23), "reported")


@pytest.mark.parametrize(
    "changes", [{"cache_hit": True, "id": f"chatcmpl-1_cache_hit{NOW}"}, {"status": "failure", "id": CALL}]
)
def test_what_a_cache_saved_is_no_cost(changes: dict[str, Any]) -> None:
    given = event(litellm_call_id=CALL, response_cost=0.0, cost_breakdown={"total_cost": 1.23}, **changes)
    assert one(given).effective_cost == 0.0


@pytest.mark.parametrize("breakdown", [None, {"total_cost": -4.8263}])
def test_a_negative_cost_is_priced_by_list_and_counted(breakdown: Any) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 82}
    usage |= {"cache_read_input_tokens": 965_602, "cache_creation_input_tokens": 225}
    before = counted("negative_cost")
    record = one(
        event(
            response_cost=-4.8263,
            cost_breakdown=breakdown,
            model="claude-opus-4-6",
            model_map_information={"model_map_key": "gpt-4o-mini"},
            prompt_tokens=1,
            completion_tokens=82,
            metadata={"usage_object": usage},
        )
    )
    assert record.effective_cost == pytest.approx(0.486, abs=0.0005)
    assert (record.cost_source, record.tags["team"], record.input_tokens) == ("priced", "search", 965_828)
    assert counted("negative_cost") == before + 2  # pushed and read


def test_a_negative_cost_of_unknown_use_is_alerted_on() -> None:
    record = one(event(response_cost=-1.0, **NO_USAGE))
    assert (record.effective_cost, record.cost_source) == (0.0, "fallback")


IMAGE = {"total_tokens": 1079, "input_tokens": 23, "output_tokens": 1056, "prompt_tokens": 0, "completion_tokens": 0}


def test_an_image_without_a_price_is_estimated_and_never_priced_as_the_chat_of_its_group() -> None:
    changes = {"prompt_tokens": 0, "completion_tokens": 0, "metadata": {"usage_object": IMAGE}}
    given = event(call_type="aimage_generation", model="gpt-image-9", model_group="gpt-4o-mini", **changes)
    record = one(given | {"response_cost": 0.0})
    assert (record.input_tokens, record.output_tokens, record.cost_source) == (23, 1056, "fallback")
    assert record.effective_cost > 0.01


@pytest.mark.parametrize(
    "kind",
    ["aimage_generation", "aimage_edit", "aspeech", "atranscription", "arerank", "rerank", "aocr", "acreate_video"],
)
def test_what_costs_without_tokens_is_never_a_silent_nothing(kind: str) -> None:
    before = counted("no_price") + counted("zero_cost")
    record = one(event(call_type=kind, model="brand-new-9", model_group="new", response_cost=0.0, **NO_USAGE))
    assert record.cost_source == "fallback"  # a pricing alert, whatever the estimate
    assert counted("no_price") + counted("zero_cost") == before + 2


@pytest.mark.parametrize("kind", ["acompletion", "aembedding", "pass_through_endpoint"])
def test_no_tokens_and_no_cost_are_believed_elsewhere(kind: str) -> None:
    record = one(event(call_type=kind, response_cost=0.0, **NO_USAGE))
    assert (record.effective_cost, record.cost_source) == (0.0, "reported")


def test_a_deployment_is_priced_as_the_model_that_the_gateway_looked_up() -> None:
    names = {"model": "azure/my-deployment", "model_group": "our-best"}
    record = one(event(response_cost=0.0, model_map_information={"model_map_key": "gpt-4o-mini"}, **names))
    assert (record.cost_source, record.request_model) == ("priced", "azure/my-deployment")


def test_tokens_of_every_kind_are_priced_at_their_own_rate() -> None:
    prices = {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-5,
        "cache_read_input_token_cost": 1e-7,
        "input_cost_per_audio_token": 1e-4,
        "output_cost_per_audio_token": 1e-3,
        "output_cost_per_reasoning_token": 1e-2,
    }
    usage = {
        "prompt_tokens_details": {"cached_tokens": 300, "audio_tokens": 100},
        "completion_tokens_details": {"audio_tokens": 20, "reasoning_tokens": 30},
    }
    given = event(model="m", response_cost=0.0, metadata={"usage_object": usage})
    record = priced_with({"m": prices}, given)
    expected = 600 * 1e-6 + 300 * 1e-7 + 100 * 1e-4 + 150 * 1e-5 + 20 * 1e-3 + 30 * 1e-2
    assert record.effective_cost == pytest.approx(expected)


def test_inference_that_stays_in_the_us_and_searches_cost_more() -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "server_tool_use": {"web_search_requests": 3}}
    counts = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "response_cost": 0.0}
    for place in ("us", None):
        given = event(model="claude-opus-4-6", custom_llm_provider="anthropic", **counts)
        given["metadata"]["usage_object"] = usage | {"inference_geo": place}
        assert one(given).effective_cost == pytest.approx((8.25 if place else 7.5) + 3 * 0.01)


def test_anthropics_own_usage_counts_cached_tokens_beside_the_input() -> None:
    usage = {"input_tokens": 20, "output_tokens": 80, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}
    record = one(event(prompt_tokens=0, completion_tokens=0, metadata={"usage_object": usage}))
    assert (record.input_tokens, record.output_tokens) == (28, 80)
    assert (record.cache_read_input_tokens, record.cache_creation_input_tokens) == (5, 3)


# --- odd fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        {"end_user": 7},
        {"end_user": {"id": "ana"}},
        {"cache_hit": "maybe"},
        {"cache_hit": "False"},
        {"request_tags": "env:dev"},
        {"request_tags": {"env": "dev"}},
        {"model_group": ["gpt-4o"]},
        {"custom_llm_provider": {}},
        {"cost_breakdown": "none"},
        {"cost_breakdown": {"total_cost": "much"}},
        {"call_type": 3},
        {"model_map_information": []},
        {"metadata": {"usage_object": [1]}},
        {"metadata": {"usage_object": {"prompt_tokens_details": "many"}}},
        {"metadata": {"usage_object": {"prompt_tokens_details": {"cached_tokens": float("nan")}}}},
        {"metadata": {"usage_object": {"cache_read_input_tokens": -5}}},
        {"metadata": {"usage_object": {"cache_read_input_tokens": 1e300}}},
        {"metadata": {"usage_object": {"server_tool_use": 5}}},
        {"metadata": {"user_api_key_auth_metadata": "env"}},
        {"metadata": {"user_api_key_user_id": 42}},
        {"metadata": {"user_api_key_project_id": {"a": 1}}},
        {"litellm_call_id": 12},
        {"request_tags": [f"t{n}:v" for n in range(500)]},
    ],
)
def test_an_odd_field_costs_only_itself(odd: dict[str, Any]) -> None:
    source = build()
    batch = source.parse(array([event(**odd), payload(2, NOW)]), location="here", at=NOW)
    assert (batch.dead, len(batch.records)) == ([], 2)
    record = batch.records[0]
    assert check(record) is None
    assert (record.effective_cost, record.input_tokens, record.tags["team"]) == (0.0045, 1000, "search")


def test_a_dropped_field_is_counted_by_its_place() -> None:
    labels = {"source": "gw", "field": "metadata.usage_object.prompt_tokens_details"}
    name = "curb_connector_fields_dropped_total"
    before = REGISTRY.get_sample_value(name, labels) or 0.0
    build().parse(array([event(metadata={"usage_object": {"prompt_tokens_details": "x"}})]), location="", at=NOW)
    assert REGISTRY.get_sample_value(name, labels) == before + 1


def test_numbers_that_are_written_as_text_are_numbers() -> None:
    given = event(response_cost="0.25", prompt_tokens="700", completion_tokens=7.0, startTime=str(NOW - 60))
    (record,) = build().parse(array([given]), location="here", at=NOW).records
    assert (record.effective_cost, record.input_tokens, record.output_tokens) == (0.25, 700, 7)
    assert record.charge_period_start == NOW - 60


@pytest.mark.parametrize("needed", [{"response_cost": "free"}, {"prompt_tokens": "many"}, {"id": 7}, {"startTime": []}])
def test_an_odd_needed_field_is_a_dead_letter(needed: dict[str, Any]) -> None:
    batch = build().parse(array([event(**needed), payload(2, NOW)]), location="here", at=NOW)
    assert (len(batch.dead), len(batch.records)) == (1, 1)
