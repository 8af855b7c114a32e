"""LiteLLM: what the gateway says each call cost, pushed by its callback and backfilled, without prompts and answers."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import Field, SecretStr

from curb.connectors.connector import Batch, ConnectorConfig, Context, Pull, Push, PushWithBackfill
from curb.connectors.decode import UNFORESEEN, Letters, Rejected, unforeseen, without_content
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.call_id import call_id
from curb.connectors.tokens.litellm_backfill import Backfill, BackfillSettings
from curb.connectors.tokens.litellm_events.content import print_of
from curb.connectors.tokens.litellm_events.cost import (
    MAX_COUNT,
    Repriced,
    kind_of,
    reported_cost,
    set_cost,
    used_by,
)
from curb.connectors.tokens.litellm_events.payload import Metadata, Payload, Read, read_event, read_row, refused
from curb.connectors.tokens.litellm_events.person import person
from curb.stream import metrics
from curb.stream.records.spend import UsageRecord

logger = logging.getLogger(__name__)

_WHITESPACE = b" \t\r\n"
#: An answer from the cache repeats an id; the gateway marks it with the time at which it writes, once per log.
_CACHE_MARK = re.compile(r"_cache_hit\d+(\.\d+)?$")
#: Ids of calls that LiteLLM makes itself; a caller's own may repeat.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: What an event that is no usage is called.
_NO_USAGE = "calls without a cost: files, batches, tools, moderations"
#: As many tags as the door lets through; tags of requests beyond are dropped, so that the event is not.
_MAX_TAGS = 64
#: Models whose cost was not believed that are named in the log; later ones are only counted.
_MAX_SAID = 1000


class Config(ConnectorConfig):
    """LiteLLM posts to `/v1/ingest/<name>`; with `backfill`, what a post lost is read from its spend logs."""

    kind: Literal["litellm"]
    token: SecretStr = Field(description="Bearer token the gateway must send.", min_length=8)
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    free_models: tuple[str, ...] = Field(
        (), description="Models that really cost nothing (self-hosted): zero cost is believed for them."
    )
    backfill: BackfillSettings | None = Field(None, description="Reads LiteLLM's own logs behind the push.")

    @property
    def overlap_s(self) -> float:
        """Each reading of the logs goes back so far behind the one before."""
        return 0.0 if self.backfill is None else 60 * self.backfill.overlap_minutes

    @property
    def looks_back(self) -> bool:
        """With `backfill` only."""
        return self.backfill is not None

    def build(self, context: Context) -> Push | PushWithBackfill:
        source = LiteLLM(self, context.prices, context.loops)
        push = Push(source, self.token)
        if self.backfill is None:
            return push
        backfill = Backfill(self.backfill, self.name, context, source.row_records)
        return PushWithBackfill(push, Pull(backfill, self.backfill.poll_interval_s))


#: A bracket, or a whole text, in which brackets do not count.
_BRACKET = re.compile(r'"(?:\\.|[^"\\])*"|[\[\]{}]', re.DOTALL)


class _Element(NamedTuple):
    location: str
    raw: bytes


class LiteLLM:
    """Push source for bodies that are a JSON array, one object, or an object a line (`log_format`)."""

    def __init__(self, config: Config, prices: PriceBook, loops: Fingerprints | None = None) -> None:
        self._config, self._prices, self._loops = config, prices, loops
        self._free = frozenset(config.free_models)
        self._said: set[tuple[str, str]] = set()

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        records: list[UsageRecord] = []
        locations: list[str] = []
        letters, no_usage = Letters(self._config.name, at), 0
        for element in _elements(body, location, letters):
            read = read_event(element.raw)
            record = read if isinstance(read, Rejected) else self._record(read, at)
            if isinstance(record, Rejected):
                letters.add(record, location=element.location, content=element.raw)
            elif record is not None:
                if self._loops is not None and not record.errors:
                    record.loop = print_of(element.raw, self._loops)
                records.append(record)
                locations.append(element.location)
            else:
                no_usage += 1
        ignored = {_NO_USAGE: no_usage} if no_usage else {}
        return Batch(records, cursor="", dead=letters.messages(), locations=locations, ignored=ignored)

    def row_records(self, raw: bytes, at: float) -> list[UsageRecord] | Rejected:
        """The records of a row of the spend logs: with the ids and, as far as the row has them, the tags of the push.

        Attempts that failed before another one answered have no row; the row of the answer says that there were some.
        """
        read = read_row(raw)
        if isinstance(read, Rejected):
            return read
        record = self._record(read, at)
        if isinstance(record, Rejected):
            return record
        failed = _failed_before(read.payload)
        before = self._record(Read(failed, []), at) if failed is not None else None
        return [each for each in (before, record) if isinstance(each, UsageRecord)]

    def _record(self, read: Read, at: float) -> UsageRecord | Rejected | None:
        """The record of one event; None for a call that is no usage: it costs nothing and only manages files, runs a
        tool, or is a moderation."""
        try:
            return self._of_event(read, at)
        except UNFORESEEN as error:
            return unforeseen(error)

    def _of_event(self, read: Read, at: float) -> UsageRecord | Rejected | None:
        payload = read.payload
        for field in read.dropped:
            metrics.FIELDS_DROPPED.labels(source=self._config.name, field=field).inc()
        started = _epoch(payload.startTime)
        if started is None:
            return Rejected("wrong_type", "startTime is neither seconds nor an ISO 8601 time")
        used, cost, kind = used_by(payload), reported_cost(payload), kind_of(payload.call_type)
        if kind.manages and not cost and not (kind.batch and any(used)):
            return None
        if kind.free and not cost and not any(used):
            return None
        event_id = _event_id(payload, started, answered=bool(cost) or any(used), once=kind.manages)
        if not event_id:
            return Rejected("missing_field", "id and litellm_call_id are both missing")
        failed = payload.status == "failure"
        counts = (payload.prompt_tokens or 0, payload.completion_tokens or 0)
        absurd = next((count for count in counts if not 0 <= count <= MAX_COUNT), None)  # the door refuses it
        record = UsageRecord(
            id=event_id,
            charge_period_start=started,
            received_at=at,
            effective_cost=cost,
            tags=self._tags(payload),
            source=self._config.name,
            request_model=_model(payload),
            requests=1,
            errors=1 if failed else 0,
            refused=1 if failed and refused(payload) else 0,
            input_tokens=used.input if absurd is None else absurd,
            output_tokens=used.output,
        )
        if failed and not cost and absurd is None:
            record.input_tokens = record.output_tokens = 0  # counted by the gateway, charged by nobody
            return record
        record.cache_read_input_tokens, record.cache_creation_input_tokens = used.cache_read, used.cache_creation
        why = set_cost(record, payload, used, self._prices, self._free)
        if why is not None:
            self._say(why, record)
        return record

    def _say(self, why: Repriced, record: UsageRecord) -> None:
        """Count a cost that was not believed; log it once for each model and reason."""
        metrics.PRICED_BY_LIST.labels(source=self._config.name, reason=why).inc()
        if (why, record.request_model) in self._said or len(self._said) >= _MAX_SAID:
            return
        self._said.add((why, record.request_model))
        extra = {"source": self._config.name, "reason": why, "model": record.request_model}
        logger.warning("reported cost not believed, priced by list", extra=extra | {"usd": record.effective_cost})

    def _tags(self, payload: Payload) -> dict[str, str]:
        """What the gateway vouches for wins over the key's metadata, that over the caller's tags, that over ours."""
        meta = payload.metadata or Metadata()
        vouched = {
            "api_key": meta.user_api_key_hash,
            "key_alias": meta.user_api_key_alias,
            "team": meta.user_api_key_team_alias or meta.user_api_key_team_id,
            "org": meta.user_api_key_org_alias or meta.user_api_key_org_id,
            "user": meta.user_api_key_user_id,
            "end_user": person(payload.end_user or meta.user_api_key_end_user_id or ""),
            "model": payload.model_group or _model(payload),
            "provider": payload.custom_llm_provider,
        }
        project = meta.user_api_key_project_alias or meta.user_api_key_project_id
        own = {key: value for key, value in (meta.user_api_key_auth_metadata or {}).items() if isinstance(value, str)}
        claimed = {**_request_tags(payload.request_tags or []), **own}
        tags = {key: value for key, value in vouched.items() if value} | ({"project": project} if project else {})
        claimed = {key: value for key, value in claimed.items() if key not in vouched and key not in tags}
        dropped = len(claimed) - (_MAX_TAGS - len(self._config.tags.keys() | tags.keys()))
        for key in list(claimed)[:dropped] if dropped > 0 else ():
            del claimed[key]  # request tags go before the key's own; the event stays
        return {**self._config.tags, **claimed, **tags}


def _request_tags(given: list[Any]) -> dict[str, str]:
    """ "key:value" entries; LiteLLM's own "User-Agent: ..." entries and tags without a colon are left out."""
    tags = {}
    for entry in given:
        key, colon, value = entry.partition(":") if isinstance(entry, str) else ("", "", "")
        if colon and key.strip().lower() != "user-agent":
            tags[key.strip()] = value.strip()
    return tags


def _model(payload: Payload) -> str:
    key = payload.model_map_information.model_map_key if payload.model_map_information else None
    return payload.model or payload.model_group or key or ""


def _event_id(payload: Payload, started: float, *, answered: bool, once: bool) -> str:
    """Unique per logged event, the same when it is sent again and in the spans of the application that called.

    That is the answer's own id where it is one of a provider and something was `answered`: work in the background is
    logged when it begins, and again under the same id when its cost is known. `once` holds for what is logged with its
    cost at every reading. Elsewhere the id is made of two: `litellm_call_id` alone is not unique, because callers may
    choose it (a request header), and retries and fallbacks share it. `id` alone is not: an answer from the cache
    repeats that of the first answer. The spend logs round to milliseconds, and of a call that failed they know another
    start than the callback, and only the last attempt; so all attempts have one id where LiteLLM made that of the call.
    """
    own, marks = _CACHE_MARK.subn("", payload.id or "")
    failed = payload.status == "failure"
    if not failed and not payload.cache_hit and not marks and own != payload.litellm_call_id and answered:
        answer = call_id(payload.custom_llm_provider, own)
        if answer is not None:
            return answer
    if once and own:
        return f"once/{own}"
    if failed and _UUID.fullmatch(payload.litellm_call_id or own):
        return f"{payload.litellm_call_id or own}/failed"
    parts = [part for part in dict.fromkeys((payload.litellm_call_id, own)) if part]
    if parts and (failed or marks):
        parts.append(str((round(started * 1e6) + 500) // 1000 if math.isfinite(started) else started))
    return "/".join(parts)


def _failed_before(payload: Payload) -> Payload | None:
    """The attempts that failed before the one in this row, as the callback logs them; None where there was none."""
    meta = payload.metadata or Metadata()
    if payload.status == "failure" or not (meta.attempted_retries or meta.attempted_fallbacks):
        return None
    group = meta.original_model_group or payload.model_group
    mine = msgspec.structs.replace(meta, usage_object=None, cost_breakdown=None)
    return Payload(
        startTime=payload.startTime,
        id=payload.litellm_call_id,
        litellm_call_id=payload.litellm_call_id,
        status="failure",
        model_group=group,
        request_tags=payload.request_tags,
        end_user=payload.end_user,
        metadata=mine,
    )


def _epoch(value: float | str) -> float | None:
    """Seconds; a time without a zone is UTC, which is what the gateway means."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return _number(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
    """The whole elements. A damaged element is a dead letter, with all behind it where its end cannot be found.

    NaN and the like, which JSON forbids, are no damage here: they concern one element and are judged there.
    """
    text = body.decode("utf-8", "surrogateescape")
    scanner, position, closed = json.JSONDecoder(), _skip_space(text, 1), False
    try:
        while not text.startswith("]", position):
            try:
                _, end = scanner.raw_decode(text, position)
                yield text[position:end].encode("utf-8", "surrogateescape")
            except (ValueError, RecursionError):
                end = _end_of_element(text, position)
                content = text[position:end].encode("utf-8", "surrogateescape")
                letters.add(
                    Rejected("not_json", without_content(error)), location=f"{location}@{position}", content=content
                )
            position = _skip_space(text, end)
            if text.startswith(",", position):
                position = _skip_space(text, position + 1)
        position, closed = position + 1, True
    except ValueError:
        pass  # recorded below: the rest is not JSON
    rest = text[position:].encode("utf-8", "surrogateescape")
    if rest or not closed:
        letters.add(Rejected("not_json", without_content(error)), location=f"{location}@{position}", content=rest)


def _end_of_element(text: str, position: int) -> int:
    """Behind the brackets that open at `position`, whatever is between them. Raises ValueError where none close."""
    depth = 0
    for found in _BRACKET.finditer(text, position):
        if found[0][0] != '"':
            depth += 1 if found[0] in "{[" else -1
        if depth <= 0:
            break
    else:
        raise ValueError("no end")
    if depth < 0 or text[position] not in "{[":
        raise ValueError("no element")
    return found.end()


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
