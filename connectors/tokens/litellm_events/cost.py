"""What a call through LiteLLM used and cost: its own dollars where they can be believed, list prices elsewhere."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast, get_args

from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.entry import ServiceTier
from curb.connectors.tokens.litellm_events.payload import InputDetails, OutputDetails, Payload, Usage
from curb.stream.records.spend import UsageRecord

#: Why a record has another cost than the reported one. `no_price` also stands where it is not known what was used.
Repriced = Literal["negative_cost", "zero_cost", "no_price"]
#: Counts beyond this are no counts; the door refuses them as well.
MAX_COUNT = 2**53
#: Calls that cost something whether or not they report tokens, by what they are.
_CHARGED = re.compile(
    r"_?a?(image_(generation|edit|variation)|speech|transcription|rerank|ocr|search"
    r"|(create_)?video(_generation|_remix|_edit|_extension)?)"
)
_IMAGES = re.compile(r"_?a?image_\w+")
_SEARCHES = re.compile(r"_?a?(rerank|search)")
_BATCH = re.compile(r"_?a?(retrieve|cancel)_batch")
#: Calls that read or manage what another call made: the tokens they repeat belong to that one.
_MANAGES = re.compile(
    r"_?a?((get|delete|cancel|list|retrieve|update)_\w+|\w+_(retrieve|list|delete|cancel|update|content)"
    r"|create_(file|batch|fine_tuning_job|assistants?|thread)|vector_store_(file_)?create|add_message)"
)
#: Calls that report no tokens and cost nothing unless they say so: tools of MCP servers and moderations.
_FREE = re.compile(r"call_mcp_tool|a?moderation")


class Kind(NamedTuple):
    """What is special about the calls of one type."""

    #: Costs something whether or not it reports tokens.
    charged: bool
    image: bool
    searches: bool
    #: Reads or cancels a batch: the cost of a batch is logged at each of these.
    batch: bool
    #: Reads or manages what another call made.
    manages: bool
    #: No usage is missing where it reports none.
    free: bool


@lru_cache(maxsize=512)
def kind_of(call_type: str | None) -> Kind:
    """The kind of a call by LiteLLM's name for its type."""
    patterns = (_CHARGED, _IMAGES, _SEARCHES, _BATCH, _MANAGES, _FREE)
    return Kind(*(pattern.fullmatch(call_type or "") is not None for pattern in patterns))


class Used(NamedTuple):
    """Tokens of a call: `input` holds the cached and written ones."""

    input: int
    output: int
    cache_read: int
    cache_creation: int


_NO_USAGE, _NO_INPUTS, _NO_OUTPUTS = Usage(), InputDetails(), OutputDetails()


def used_by(payload: Payload) -> Used:
    """Tokens, from the fields that the callback and the spend logs share. Odd counts are as if not there."""
    usage = _usage(payload)
    inputs = _inputs(usage)
    read = _count(usage.cache_read_input_tokens) or _count(inputs.cached_tokens)
    written = _count(usage.cache_creation_input_tokens) or _count(inputs.cache_write_tokens)
    written = written or _count(inputs.cache_creation_tokens)
    given = _count(payload.prompt_tokens) or _count(usage.prompt_tokens)
    total_in = given or _count(usage.input_tokens)
    # Anthropic's own usage counts cached tokens beside the input; everybody else's holds them.
    if total_in < read + written or (not given and usage.cache_read_input_tokens is not None):
        total_in += read + written
    total_out = _count(payload.completion_tokens) or _count(usage.completion_tokens) or _count(usage.output_tokens)
    return Used(total_in, total_out, read, written)


def set_cost(
    record: UsageRecord, payload: Payload, used: Used, prices: PriceBook, free: frozenset[str]
) -> Repriced | None:
    """Set the record's cost and where it comes from. The answer says why it is not what LiteLLM reported."""
    reported = record.effective_cost
    kind = kind_of(payload.call_type)
    if reported > 0 or math.isnan(reported):
        return None
    if reported == 0:
        believed = payload.status == "failure" or payload.cache_hit or payload.model in free
        if believed or payload.model_group in free or not (used.input + used.output or kind.charged):
            return None
    units = _units(payload, used)
    _by_list(record, payload, used, units, prices)
    if record.effective_cost == 0 and (kind.charged or not (any(used) or units)):
        record.cost_source = "fallback"  # counted as usage without a price, and alerted on: never a silent $0
        return "no_price"
    return "negative_cost" if reported < 0 else "zero_cost"


def reported_cost(payload: Payload) -> float:
    """LiteLLM's dollars. Its breakdown counts where the cost itself is missing or 0, but not for a failure or a cached
    answer: that breakdown says what the cache saved."""
    cost, parts = payload.response_cost, payload.cost_breakdown
    if cost or parts is None or (cost is not None and (payload.cache_hit or payload.status == "failure")):
        return cost or 0.0
    if parts.total_cost:
        return parts.total_cost
    named = (parts.input_cost, parts.cache_read_cost, parts.cache_creation_cost, parts.output_cost)
    return sum(part or 0.0 for part in (*named, parts.tool_usage_cost, parts.guardrail_cost))


def _by_list(record: UsageRecord, payload: Payload, used: Used, units: dict[str, float], prices: PriceBook) -> None:
    """Price by the first name of the model that the book knows. An image is not priced as a chat of its group."""
    image = kind_of(payload.call_type).image
    price_key = payload.model_map_information.model_map_key if payload.model_map_information else None
    known = ""
    for name in (payload.model, price_key, payload.model_group):
        price = prices.find(name, provider=payload.custom_llm_provider or "") if name else None
        if price is not None and not (image and name != payload.model and not (price.mode or "").startswith("image")):
            known = name or ""
            break
    terms: dict[str, Any] = {"tier": _tier(payload), "units": units, "uplifts": _uplifts(payload)}
    prices.price_usage(record, model=known, **(terms | _parts(payload, used)))


def _usage(payload: Payload) -> Usage:
    return (payload.metadata and payload.metadata.usage_object) or _NO_USAGE


def _inputs(usage: Usage) -> InputDetails:
    return usage.prompt_tokens_details or usage.input_tokens_details or usage.input_token_details or _NO_INPUTS


def _uplifts(payload: Payload) -> tuple[str, ...]:
    """Surcharges by name: "us" for inference that stays in the US, "fast" for the faster mode."""
    usage, parts = _usage(payload), payload.cost_breakdown
    places = {(usage.inference_geo or "").lower(), ((parts and parts.data_residency) or "").lower()}
    return (*(("us",) if "us" in places else ()), *(("fast",) if (usage.speed or "").lower() == "fast" else ()))


def _parts(payload: Payload, used: Used) -> dict[str, int]:
    """Further counts of `Tokens`, parts of those in `used`."""
    usage = _usage(payload)
    inputs = _inputs(usage)
    outputs = usage.completion_tokens_details or usage.output_tokens_details or usage.output_token_details
    outputs = outputs or _NO_OUTPUTS
    cached = inputs.cached_tokens_details
    cached_audio, cached_images = (_count(cached.audio_tokens), _count(cached.image_tokens)) if cached else (0, 0)
    hour = inputs.cache_creation_token_details or usage.cache_creation
    images = _count(outputs.image_tokens) or (used.output if kind_of(payload.call_type).image else 0)
    return {
        "audio_input": max(0, _count(inputs.audio_tokens) - cached_audio),
        "image_input": max(0, _count(inputs.image_tokens) - cached_images),
        "video_input": _count(inputs.video_tokens),
        "cache_read_audio": cached_audio,
        "cache_read_image": cached_images,
        "cache_creation_1h": _count(hour.ephemeral_1h_input_tokens) if hour else 0,
        "reasoning": _count(outputs.reasoning_tokens),
        "audio_output": _count(outputs.audio_tokens),
        "image_output": images,
        "video_output": _count(outputs.video_tokens),
    }


def _units(payload: Payload, used: Used) -> dict[str, float]:
    """What is charged by another unit than tokens."""
    usage, kind = _usage(payload), kind_of(payload.call_type)
    inputs = _inputs(usage)
    searches = usage.server_tool_use.web_search_requests if usage.server_tool_use else None
    units: dict[str, float] = {
        "searches": _count(searches) or _count(inputs.web_search_requests),
        "map_searches": _count(inputs.google_maps_grounding_requests),
        "characters_input": _count(inputs.character_count),
        "images_input": _count(inputs.image_count),
        "seconds_input": _size(usage.seconds) or _size(inputs.audio_length_seconds),
        "video_seconds_input": _size(inputs.video_length_seconds),
        "pages": _count(usage.pages_processed),
        "queries": _size(usage.search_units) or _count(inputs.query_count) or (1 if kind.searches else 0),
        "images_output": (_count(usage.output_image_count) or 1) if kind.image and not used.output else 0,
    }
    return {unit: count for unit, count in units.items() if count}


def _tier(payload: Payload) -> ServiceTier:
    if kind_of(payload.call_type).batch:
        return "batch"
    named = (payload.cost_breakdown and payload.cost_breakdown.service_tier) or _usage(payload).service_tier or ""
    return cast(ServiceTier, named.lower()) if named.lower() in get_args(ServiceTier) else "standard"


def _count(given: int | None) -> int:
    """The count, 0 where it is none."""
    return given if given is not None and 0 < given <= MAX_COUNT else 0


def _size(given: float | None) -> float:
    return given if given is not None and 0 < given <= MAX_COUNT else 0.0
