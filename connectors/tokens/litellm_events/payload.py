"""What LiteLLM logs of a call, as far as Curb reads it: a callback's event or a row of the spend logs, one shape."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from curb.connectors.decode import Rejected, decode

_T = TypeVar("_T", bound=msgspec.Struct)
#: Fields without which an event says nothing, or says something wrong; every other odd field is dropped.
_NEEDED = frozenset({"startTime", "id", "request_id", "response_cost", "spend", "prompt_tokens", "completion_tokens"})
#: What the spend logs put behind the id of the answer, so that a cost has a row of its own.
_ROW_SUFFIXES = ("_batch_cost", "_background_cost")


class CostBreakdown(msgspec.Struct):
    """Dollars of the parts of a cost, and on which terms they were computed."""

    total_cost: float | None = None
    input_cost: float | None = None
    cache_read_cost: float | None = None
    cache_creation_cost: float | None = None
    output_cost: float | None = None
    tool_usage_cost: float | None = None
    guardrail_cost: float | None = None
    service_tier: str | None = None
    data_residency: str | None = None


class CacheCreation(msgspec.Struct):
    """Tokens written to the cache by how long they are kept."""

    ephemeral_1h_input_tokens: int | None = None


class CachedDetails(msgspec.Struct):
    """Tokens read from the cache by their kind."""

    audio_tokens: int | None = None
    image_tokens: int | None = None


class InputDetails(msgspec.Struct):
    """Parts of the input, in tokens and in other units."""

    cached_tokens: int | None = None
    cached_tokens_details: CachedDetails | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    video_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_token_details: CacheCreation | None = None
    web_search_requests: int | None = None
    google_maps_grounding_requests: int | None = None
    character_count: int | None = None
    image_count: int | None = None
    query_count: int | None = None
    audio_length_seconds: float | None = None
    video_length_seconds: float | None = None


class OutputDetails(msgspec.Struct):
    """Parts of the output, in tokens."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    video_tokens: int | None = None


class ServerTools(msgspec.Struct):
    """Calls of tools that run at the provider."""

    web_search_requests: int | None = None


class Usage(msgspec.Struct):
    """`usage_object`: the answer's usage under the names of OpenAI, Anthropic or the Responses and Realtime APIs."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    prompt_tokens_details: InputDetails | None = None
    input_tokens_details: InputDetails | None = None
    input_token_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    output_token_details: OutputDetails | None = None
    server_tool_use: ServerTools | None = None
    output_image_count: int | None = None
    pages_processed: int | None = None
    search_units: float | None = None
    seconds: float | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None


class ModelMap(msgspec.Struct):
    """Under which name LiteLLM looked the price up."""

    model_map_key: str | None = None


class ErrorInformation(msgspec.Struct):
    """Why a call failed."""

    error_class: str | None = None
    #: Who limited it: "litellm_rate_limit" and "litellm_batch_rate_limit" are the gateway itself.
    error_rate_limit_category: str | None = None


class Metadata(msgspec.Struct):
    """Whose call it was; in the spend logs also what the callback has beside it."""

    user_api_key_hash: str | None = None
    user_api_key_alias: str | None = None
    user_api_key_team_id: str | None = None
    user_api_key_team_alias: str | None = None
    user_api_key_project_id: str | None = None
    user_api_key_project_alias: str | None = None
    user_api_key_org_id: str | None = None
    user_api_key_org_alias: str | None = None
    user_api_key_user_id: str | None = None
    user_api_key_end_user_id: str | None = None
    user_api_key_auth_metadata: dict[str, Any] | None = None
    usage_object: Usage | None = None
    cost_breakdown: CostBreakdown | None = None
    model_map_information: ModelMap | None = None
    litellm_call_id: str | None = None
    attempted_retries: int | None = None
    attempted_fallbacks: int | None = None
    original_model_group: str | None = None
    error_information: ErrorInformation | None = None


class Payload(msgspec.Struct):
    """The part of StandardLoggingPayload that Curb reads; `messages` and `response` are not in it, so never decoded."""

    startTime: float | str
    id: str | None = None
    litellm_call_id: str | None = None
    call_type: str | None = None
    status: str | None = None
    response_cost: float | None = None
    cost_breakdown: CostBreakdown | None = None
    custom_llm_provider: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    model_group: str | None = None
    model_map_information: ModelMap | None = None
    cache_hit: bool | None = None
    request_tags: list[Any] | None = None
    end_user: str | None = None
    metadata: Metadata | None = None
    error_information: ErrorInformation | None = None


class _Row(msgspec.Struct):
    """A row of the spend logs; some versions give the two JSON columns as text."""

    startTime: float | str
    request_id: str | None = None
    litellm_call_id: str | None = None
    call_type: str | None = None
    api_key: str | None = None
    spend: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    model_group: str | None = None
    custom_llm_provider: str | None = None
    user: str | None = None
    team_id: str | None = None
    organization_id: str | None = None
    end_user: str | None = None
    cache_hit: str | bool | None = None
    status: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")
    request_tags: msgspec.Raw = msgspec.Raw(b"null")


class Read(NamedTuple):
    """An event, and the names of the fields that were dropped because they were not what they should be."""

    payload: Payload
    dropped: list[str]


_PAYLOADS = msgspec.json.Decoder(Payload)
_ROWS = msgspec.json.Decoder(_Row)
_METADATA = msgspec.json.Decoder(Metadata)
_TAGS = msgspec.json.Decoder(list[Any])


#: Classes of LiteLLM's own refusals in versions that do not say whose limit it was.
_REFUSALS = frozenset({"BudgetExceededError", "ProxyRateLimitError"})


def refused(payload: Payload) -> bool:
    """Whether a limit or budget of the gateway refused the call, so that no model saw it."""
    error = payload.error_information or ErrorInformation()
    return (error.error_rate_limit_category or "").startswith("litellm_") or error.error_class in _REFUSALS


def read_event(raw: bytes) -> Read | Rejected:
    """What the callback posted for one call."""
    dropped: list[str] = []
    payload = _lenient(_PAYLOADS, Payload, raw, dropped)
    return payload if isinstance(payload, Rejected) else Read(payload, dropped)


def read_row(raw: bytes) -> Read | Rejected:
    """A row of the spend logs in the words of the callback; what only the callback knows is left out."""
    dropped: list[str] = []
    row = _lenient(_ROWS, _Row, raw, dropped)
    if isinstance(row, Rejected):
        return row
    meta = _lenient(_METADATA, Metadata, _json_of(row.metadata), dropped)
    if isinstance(meta, Rejected):
        dropped.append("metadata")
        meta = Metadata()
    tags = decode(_TAGS, _json_of(row.request_tags, b"[]"))
    if isinstance(tags, Rejected):
        dropped.append("request_tags")
        tags = []
    meta.user_api_key_hash = row.api_key or meta.user_api_key_hash
    meta.user_api_key_team_id = row.team_id or meta.user_api_key_team_id
    meta.user_api_key_org_id = row.organization_id or meta.user_api_key_org_id
    meta.user_api_key_user_id = row.user or meta.user_api_key_user_id
    own = row.request_id
    for suffix in _ROW_SUFFIXES:
        own = own.removesuffix(suffix) if own else own
    payload = Payload(
        startTime=row.startTime,
        id=own,
        litellm_call_id=row.litellm_call_id or meta.litellm_call_id,
        call_type=row.call_type,
        status=row.status,
        response_cost=row.spend,
        cost_breakdown=meta.cost_breakdown,
        custom_llm_provider=row.custom_llm_provider,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        model=row.model,
        model_group=row.model_group,
        model_map_information=meta.model_map_information,
        cache_hit=str(row.cache_hit).lower() == "true",
        request_tags=tags,
        end_user=row.end_user,
        metadata=meta,
        error_information=meta.error_information,
    )
    return Read(payload, dropped)


def _json_of(column: msgspec.Raw, nothing: bytes = b"{}") -> bytes:
    """A JSON column as JSON: text is JSON once more, and null is nothing."""
    raw = bytes(column)
    if raw.startswith(b'"'):
        try:
            raw = json.loads(raw).encode("utf-8", "surrogatepass")
        except ValueError:
            return raw
    return nothing if raw.strip() in (b"null", b"") else raw


def _lenient(decoder: msgspec.json.Decoder[_T], kind: type[_T], raw: bytes, dropped: list[str]) -> _T | Rejected:
    """The event without its odd fields. Only an event that is no object, or whose needed fields are odd, is refused."""
    found = decode(decoder, raw)
    if not isinstance(found, Rejected) or found.reason in ("not_json", "not_utf8", "missing_field"):
        return found
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        return found
    if not isinstance(plain, dict):
        return found
    again = decode(decoder, json.dumps(_without_odd(plain, kind, "", dropped)).encode())
    # The names of needed fields stay, so that the reason is the event's own.
    return found if isinstance(again, Rejected) else again


def _without_odd(plain: dict[str, Any], kind: type[msgspec.Struct], place: str, dropped: list[str]) -> dict[str, Any]:
    """The fields of `kind` that have its types, numbers that are written as text among them."""
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in plain:
            continue
        value, types = plain[field.name], get_args(field.type) or (field.type,)
        inner = next((each for each in types if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)
        if inner is not None and isinstance(value, dict):
            kept[field.name] = _without_odd(value, inner, f"{place}{field.name}.", dropped)
            continue
        if str in types and isinstance(value, int | float) and not isinstance(value, bool) and float not in types:
            value = value if field.name in _NEEDED else str(value)
        try:
            kept[field.name] = value if field.type is msgspec.Raw else msgspec.convert(value, field.type, strict=False)
        except (msgspec.ValidationError, ValueError, OverflowError, RecursionError):  # ValueError: a lone surrogate
            if field.name in _NEEDED and not place:
                kept[field.name] = value
            else:
                dropped.append(place + field.name)
    return kept
