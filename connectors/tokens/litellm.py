"""LiteLLM: what the gateway says each call cost, pushed by its callback and backfilled, without prompts and answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import Field, SecretStr

from curb.connectors.connector import Batch, ConnectorConfig, Context, Pull, Push, PushWithBackfill
from curb.connectors.decode import Letters, Rejected, decode, without_content
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.litellm_backfill import Backfill, BackfillSettings
from curb.stream.records.spend import UsageRecord

_WHITESPACE = b" \t\r\n"
#: An answer from the cache repeats an id; the gateway marks it with the time at which it writes, once per log.
_CACHE_MARK = re.compile(r"_cache_hit\d+(\.\d+)?$")


class Config(ConnectorConfig):
    """LiteLLM posts to `/v1/ingest/<name>`; with `backfill`, what a post lost is read from its spend logs."""

    kind: Literal["litellm"]
    token: SecretStr = Field(description="Bearer token the gateway must send.", min_length=8)
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    free_models: tuple[str, ...] = Field(
        (), description="Models that really cost nothing (self-hosted): zero cost is believed for them."
    )
    backfill: BackfillSettings | None = Field(None, description="Reads LiteLLM's own logs behind the push.")

    def build(self, context: Context) -> Push | PushWithBackfill:
        source = LiteLLM(self, context.prices)
        push = Push(source, self.token)
        if self.backfill is None:
            return push
        backfill = Backfill(self.backfill, self.name, context, source.row_record)
        return PushWithBackfill(push, Pull(backfill, self.backfill.poll_interval_s))


class _CostBreakdown(msgspec.Struct):
    total_cost: float | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Metadata(msgspec.Struct):
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
    usage_object: _Usage | None = None


class _Payload(msgspec.Struct):
    """The part of StandardLoggingPayload that Curb reads; `messages` and `response` are not in it, so never decoded."""

    startTime: float | str
    id: str | None = None
    litellm_call_id: str | None = None
    status: str | None = None
    response_cost: float | None = None
    cost_breakdown: _CostBreakdown | None = None
    custom_llm_provider: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    model_group: str | None = None
    cache_hit: bool | None = None
    request_tags: list[Any] | None = None
    end_user: str | None = None
    metadata: _Metadata | None = None


class _Row(msgspec.Struct):
    """A row of the spend logs, as far as it is read; some versions give the two JSON columns as text."""

    startTime: str
    request_id: str | None = None
    litellm_call_id: str | None = None
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
    metadata: dict[str, Any] | str | None = None
    request_tags: list[Any] | str | None = None


class _Element(NamedTuple):
    location: str
    raw: bytes


class LiteLLM:
    """Push source for bodies that are a JSON array, one object, or an object a line (`log_format`)."""

    def __init__(self, config: Config, prices: PriceBook) -> None:
        self._config, self._prices = config, prices
        self._free = frozenset(config.free_models)
        self._decoder = msgspec.json.Decoder(_Payload)
        self._rows = msgspec.json.Decoder(_Row)

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        records: list[UsageRecord] = []
        locations: list[str] = []
        letters = Letters(self._config.name, at)
        for element in _elements(body, location, letters):
            record = self._record(element.raw, at)
            if isinstance(record, Rejected):
                letters.add(record, location=element.location, content=element.raw)
            else:
                records.append(record)
                locations.append(element.location)
        return Batch(records, cursor="", dead=letters.messages(), locations=locations)

    def row_record(self, raw: bytes, at: float) -> UsageRecord | Rejected:
        """The record of a row of the spend logs: with the id and, as far as the row has them, the tags of the push."""
        row = decode(self._rows, raw)
        payload = row if isinstance(row, Rejected) else _payload_of(row)
        return payload if isinstance(payload, Rejected) else self._of_payload(payload, at)

    def _record(self, raw: bytes, at: float) -> UsageRecord | Rejected:
        payload = decode(self._decoder, raw)
        return payload if isinstance(payload, Rejected) else self._of_payload(payload, at)

    def _of_payload(self, payload: _Payload, at: float) -> UsageRecord | Rejected:
        started = _epoch(payload.startTime)
        if started is None:
            return Rejected("wrong_type", "startTime is neither seconds nor an ISO 8601 time")
        event_id = _event_id(payload, started)
        if not event_id:
            return Rejected("missing_field", "id and litellm_call_id are both missing")
        record = UsageRecord(
            id=event_id,
            charge_period_start=started,
            received_at=at,
            effective_cost=_reported_cost(payload),
            tags=self._tags(payload),
            source=self._config.name,
            request_model=payload.model or payload.model_group or "",
            requests=1,
            errors=1 if payload.status == "failure" else 0,
            input_tokens=payload.prompt_tokens or 0,
            output_tokens=payload.completion_tokens or 0,
        )
        _count_cached(record, payload.metadata.usage_object if payload.metadata else None)
        if self._is_pricing_hole(payload, record):
            self._price(payload, record)
        return record

    def _is_pricing_hole(self, payload: _Payload, record: UsageRecord) -> bool:
        """A success that used tokens and is said to be free, although nothing says it should be."""
        return (
            record.effective_cost == 0
            and record.input_tokens + record.output_tokens > 0
            and payload.status != "failure"
            and not payload.cache_hit
            and not self._free & {payload.model, payload.model_group}
        )

    def _price(self, payload: _Payload, record: UsageRecord) -> None:
        known = (name for name in (payload.model, payload.model_group) if name and self._prices.lookup(name))
        self._prices.price_usage(record, model=next(known, ""))

    def _tags(self, payload: _Payload) -> dict[str, str]:
        """What the gateway vouches for wins over the key's metadata, that over the caller's tags, that over ours."""
        meta = payload.metadata or _Metadata()
        vouched = {
            "api_key": meta.user_api_key_hash,
            "key_alias": meta.user_api_key_alias,
            "team": meta.user_api_key_team_alias or meta.user_api_key_team_id,
            "org": meta.user_api_key_org_alias or meta.user_api_key_org_id,
            "user": meta.user_api_key_user_id,
            "end_user": payload.end_user or meta.user_api_key_end_user_id,
            "model": payload.model_group or payload.model,
            "provider": payload.custom_llm_provider,
        }
        project = meta.user_api_key_project_alias or meta.user_api_key_project_id
        own = {key: value for key, value in (meta.user_api_key_auth_metadata or {}).items() if isinstance(value, str)}
        claimed = {**_request_tags(payload.request_tags or []), **own}
        tags = {**self._config.tags, **{key: value for key, value in claimed.items() if key not in vouched}}
        tags |= {key: value for key, value in vouched.items() if value}
        return tags | ({"project": project} if project else {})


def _request_tags(given: list[Any]) -> dict[str, str]:
    """ "key:value" entries; LiteLLM's own "User-Agent: ..." entries and tags without a colon are left out."""
    tags = {}
    for entry in given:
        key, colon, value = entry.partition(":") if isinstance(entry, str) else ("", "", "")
        if colon and key.strip().lower() != "user-agent":
            tags[key.strip()] = value.strip()
    return tags


def _event_id(payload: _Payload, started: float) -> str:
    """Unique per logged event, the same when it is sent again.

    `litellm_call_id` alone is not: callers may choose it (a request header), and retries and fallbacks share it. `id`
    alone is not: an answer from the cache repeats that of the first answer. Attempts that failed have no answer, so
    both repeat, and the start tells them apart. The spend logs round to milliseconds.
    """
    own, marks = _CACHE_MARK.subn("", payload.id or "")
    parts = [part for part in dict.fromkeys((payload.litellm_call_id, own)) if part]
    if parts and (payload.status == "failure" or marks):
        parts.append(str((round(started * 1e6) + 500) // 1000 if math.isfinite(started) else started))
    return "/".join(parts)


def _payload_of(row: _Row) -> _Payload | Rejected:
    """The row in the words of the callback; what only the callback knows is left out."""
    try:
        plain = json.loads(row.metadata or "{}") if not isinstance(row.metadata, dict) else row.metadata
        tags = json.loads(row.request_tags or "[]") if not isinstance(row.request_tags, list) else row.request_tags
        meta = msgspec.convert(plain or {}, _Metadata)
        request_tags = msgspec.convert(tags or [], list[Any])
    except msgspec.ValidationError as error:
        return Rejected("wrong_type", without_content(error))
    except (ValueError, RecursionError):
        return Rejected("not_json", "metadata or request_tags")
    meta.user_api_key_hash = row.api_key or meta.user_api_key_hash
    meta.user_api_key_team_id = row.team_id or meta.user_api_key_team_id
    meta.user_api_key_org_id = row.organization_id or meta.user_api_key_org_id
    meta.user_api_key_user_id = row.user or meta.user_api_key_user_id
    return _Payload(
        startTime=row.startTime,
        id=row.request_id,
        litellm_call_id=row.litellm_call_id,
        status=row.status,
        response_cost=row.spend,
        custom_llm_provider=row.custom_llm_provider,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        model=row.model,
        model_group=row.model_group,
        cache_hit=str(row.cache_hit).lower() == "true",
        request_tags=request_tags,
        end_user=row.end_user,
        metadata=meta,
    )


def _reported_cost(payload: _Payload) -> float:
    if payload.response_cost is not None:
        return payload.response_cost
    breakdown = payload.cost_breakdown
    return breakdown.total_cost or 0.0 if breakdown else 0.0


def _count_cached(record: UsageRecord, usage: _Usage | None) -> None:
    if usage is None:
        return
    details = usage.prompt_tokens_details
    record.cache_read_input_tokens = usage.cache_read_input_tokens or (details and details.cached_tokens) or 0
    record.cache_creation_input_tokens = usage.cache_creation_input_tokens or 0


def _epoch(value: float | str) -> float | None:
    """Seconds; a time without a zone is UTC, which is what the gateway means."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _elements(body: bytes, location: str, letters: Letters) -> Iterator[_Element]:
    """The events of a body, undecoded."""
    body = body.strip(_WHITESPACE)
    if body.startswith(b"["):
        for index, raw in enumerate(_array(body, location, letters)):
            yield _Element(f"{location}#{index}", raw)
        return
    if b"\n" in body and _is_one_object(body):
        yield _Element(location, body)
        return
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip(_WHITESPACE):
            yield _Element(f"{location}:{number}", line)


def _is_one_object(body: bytes) -> bool:
    """Whether the lines together are one object, as an encoder with indentation writes it."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _array(body: bytes, location: str, letters: Letters) -> Iterator[bytes]:
    try:
        raws = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        yield from _damaged_array(body, location, letters, error)
        return
    yield from map(bytes, raws)


def _damaged_array(body: bytes, location: str, letters: Letters, error: Exception) -> Iterator[bytes]:
    """The whole elements before the damage; what is behind it is one dead letter.

    NaN and the like, which JSON forbids, are no damage here: they concern one element and are judged there.
    """
    text = body.decode("utf-8", "surrogateescape")
    scanner, position, closed = json.JSONDecoder(), _skip_space(text, 1), False
    try:
        while not text.startswith("]", position):
            _, end = scanner.raw_decode(text, position)
            yield text[position:end].encode("utf-8", "surrogateescape")
            position = _skip_space(text, end)
            if text.startswith(",", position):
                position = _skip_space(text, position + 1)
        position, closed = position + 1, True
    except (ValueError, RecursionError):
        pass  # recorded below: the rest is not JSON
    rest = text[position:].encode("utf-8", "surrogateescape")
    if rest or not closed:
        letters.add(Rejected("not_json", without_content(error)), location=f"{location}@{position}", content=rest)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
