"""Usage from OpenTelemetry: GenAI spans or token metrics that applications export over OTLP/HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal

from aiohttp import web
from pydantic import Field, SecretStr

from curb.connectors.connector import Batch, ConnectorConfig, Context, Push
from curb.connectors.decode import Letters, Rejected
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import otlp
from curb.connectors.tokens.otel_metrics import Streams
from curb.connectors.tokens.otel_tags import DEFAULT_TAGS, models_of, tags_of
from curb.connectors.tokens.otlp import Value
from curb.stream.clock import Clock
from curb.stream.records.spend import UsageRecord

INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
CACHE_READ = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens")
CACHE_CREATION = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
)
#: Operations whose spans repeat the usage of the calls below them, or have none.
NOT_CALLS = frozenset({"invoke_agent", "create_agent", "execute_tool", "invoke_workflow"})
#: Operations that are calls to a model even when they failed and report no usage.
CALLS = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
_STATUS_ERROR = 2


class Config(ConnectorConfig):
    """Exporters post to `/v1/ingest/<name>/v1/traces` and `/v1/ingest/<name>/v1/metrics`."""

    kind: Literal["otel_genai"]
    token: SecretStr = Field(description="Bearer token the exporters must send.", min_length=8)
    count: Literal["spans", "metrics"] = Field(
        "spans",
        description="The signal that counts; the other is accepted and ignored: both report the same usage.",
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    tag_attributes: dict[str, tuple[str, ...]] = Field(
        default={}, description="Tag: attributes it is taken from, over the defaults on the page of this kind."
    )
    cost_attribute: str | None = Field(
        None, description="Attribute of spans that holds the cost in dollars. Without it everything is priced."
    )
    free_models: tuple[str, ...] = Field((), description="Models that really cost nothing (self-hosted).")

    def build(self, context: Context) -> Push:
        return Push(OtelGenAI(self, context.prices, context.clock), self.token)


class Spans:
    """Spans of calls to models → records."""

    def __init__(self, config: Config, prices: PriceBook) -> None:
        self._config, self._prices = config, prices
        self._tags = {**DEFAULT_TAGS, **config.tag_attributes}
        self._free = frozenset(config.free_models)

    def parse(self, request: Any, letters: Letters, location: str, at: float) -> Batch:
        """The records of an ExportTraceServiceRequest; spans of anything else are nothing."""
        records, locations, index = [], [], 0
        for resource_spans in request.resource_spans:
            resource = otlp.attributes(resource_spans.resource.attributes)
            for scope in resource_spans.scope_spans:
                for span in scope.spans:
                    place, index = f"{location}#{index}", index + 1
                    record = self._record(span, resource, at)
                    if isinstance(record, Rejected):
                        letters.add(record, location=place, content=span.trace_id + span.span_id)
                    elif record is not None:
                        records.append(record)
                        locations.append(place)
        return Batch(records, cursor="", locations=locations)

    def _record(self, span: Any, resource: Mapping[str, Value], at: float) -> UsageRecord | Rejected | None:
        found = otlp.attributes(span.attributes)
        operation = found.get("gen_ai.operation.name")
        has_usage = any(name in found for name in (*INPUT, *OUTPUT))
        if operation in NOT_CALLS or not (has_usage or operation in CALLS):
            return None
        if not any(span.trace_id) or not any(span.span_id):
            return Rejected("missing_field", "trace_id or span_id")
        counts = [count_of(found, names) for names in (INPUT, OUTPUT, CACHE_READ, CACHE_CREATION)]
        if wrong := next((each for each in counts if isinstance(each, Rejected)), None):
            return wrong
        given, produced, read, created = (int(each) for each in counts if not isinstance(each, Rejected))
        if 0 <= given < read + created:  # an instrumentation that does not count cached tokens as input
            given += read + created
        models = models_of(found)
        record = UsageRecord(
            id=f"{span.trace_id.hex()}/{span.span_id.hex()}",
            charge_period_start=span.start_time_unix_nano / 1e9,
            received_at=at,
            effective_cost=0.0,
            tags=tags_of(self._tags, self._config.tags, found, resource, models),
            source=self._config.name,
            request_model=models[-1] if models else "",
            requests=1,
            errors=1 if span.status.code == _STATUS_ERROR else 0,
            input_tokens=given,
            output_tokens=produced,
            cache_read_input_tokens=read,
            cache_creation_input_tokens=created,
        )
        return self._charge(record, models, found)

    def _charge(self, record: UsageRecord, models: list[str], found: Mapping[str, Value]) -> UsageRecord | Rejected:
        cost = found.get(self._config.cost_attribute) if self._config.cost_attribute else None
        if cost is not None:
            if isinstance(cost, str | bool):
                return Rejected("wrong_type", f"{self._config.cost_attribute} is not a number")
            record.effective_cost = float(cost)
        elif record.input_tokens + record.output_tokens > 0 and not self._free.intersection(models):
            known = (model for model in models if self._prices.lookup(model))
            self._prices.price_usage(record, model=next(known, record.request_model))
        return record


class OtelGenAI:
    """Receiver for the three paths of OTLP; logs are accepted and not looked at."""

    def __init__(self, config: Config, prices: PriceBook, clock: Clock) -> None:
        self._name, self._count = config.name, config.count
        self._spans = Spans(config, prices)
        tags = {**DEFAULT_TAGS, **config.tag_attributes}
        self._streams = Streams(config.name, config.tags, tags, frozenset(config.free_models), prices, clock.now())
        self._order = asyncio.Lock()

    def door(self, path: str, content_type: str) -> OtlpDoor | None:
        signal = otlp.SIGNALS.get(path)
        if signal is None:
            return None
        counted = {"v1/traces": "spans", "v1/metrics": "metrics"}.get(path) == self._count
        source = None if not counted else self._spans if self._count == "spans" else self._streams
        return OtlpDoor(self._name, signal, content_type, source, self._order)


class OtlpDoor:
    """One OTLP request."""

    def __init__(
        self, name: str, signal: otlp.Signal, content_type: str, source: Spans | Streams | None, lock: asyncio.Lock
    ) -> None:
        self._name, self._signal, self._content_type, self._source = name, signal, content_type, source
        self._refused: str | None = None
        self.order: AbstractAsyncContextManager[object] = lock if isinstance(source, Streams) else nullcontext()

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        if self._source is None:
            return Batch((), cursor="")
        letters = Letters(self._name, at)
        request = otlp.parse(self._signal, self._content_type, body)
        if isinstance(request, Rejected):
            self._refused = request.detail
            letters.add(request, location=location, content=body)
            return Batch((), cursor="", dead=letters.messages())
        batch = self._source.parse(request, letters, location, at)
        return batch._replace(dead=letters.messages())

    def refused(self, batch: Batch) -> str | None:
        return self._refused

    def appended(self) -> None:
        if isinstance(self._source, Streams):
            self._source.appended()

    def answer(self, accepted: int, dead: int) -> web.Response:
        return otlp.answer(self._signal, self._content_type, dead)

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return otlp.problem(self._content_type, status, detail, headers)


def count_of(found: Mapping[str, Value], names: tuple[str, ...]) -> int | Rejected:
    """The first of these attributes as a count; 0 when none is there."""
    name = next((each for each in names if each in found), None)
    if name is None:
        return 0
    value = found[name]
    if isinstance(value, str | bool) or not (isinstance(value, int) or value.is_integer()):
        return Rejected("wrong_type", f"{name} is not a whole number")
    return int(value)
