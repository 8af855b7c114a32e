"""Usage from OpenTelemetry: GenAI spans or token metrics that applications export over OTLP/HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal

from aiohttp import web
from pydantic import Field, SecretStr

from curb.connectors.connector import Batch, ConnectorConfig, Context, Push
from curb.connectors.decode import Letters, Rejected
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import otlp
from curb.connectors.tokens.otel_metrics import METRICS, METRICS_ONLY, Streams
from curb.connectors.tokens.otel_scopes import Scopes
from curb.connectors.tokens.otel_spans import Spans
from curb.connectors.tokens.otel_tags import DEFAULT_TAGS, Reading
from curb.stream.clock import Clock


class Config(ConnectorConfig):
    """Exporters post to `/v1/ingest/<name>/v1/traces` and `/v1/ingest/<name>/v1/metrics`."""

    kind: Literal["otel_genai"]
    token: SecretStr = Field(description="Bearer token the exporters must send.", min_length=8)
    count: Literal["spans", "metrics"] = Field(
        "spans",
        description="The signal that counts; the other reports the same usage and is accepted only. Metrics of Claude "
        "Code, which has no spans of calls, always count.",
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    tag_attributes: dict[str, tuple[str, ...]] = Field(
        default={}, description="Tag: attributes it is taken from, over the defaults on the page of this kind."
    )
    cost_attribute: str | None = Field(
        None, description="Attribute of spans that holds the cost in dollars, before those on the page of this kind."
    )
    free_models: tuple[str, ...] = Field((), description="Models that really cost nothing (self-hosted).")

    def build(self, context: Context) -> Push:
        return Push(OtelGenAI(self, context.prices, context.clock, context.loops), self.token)


class OtelGenAI:
    """Receiver for the three paths of OTLP; logs are accepted and not looked at."""

    def __init__(self, config: Config, prices: PriceBook, clock: Clock, loops: Fingerprints | None = None) -> None:
        self._name = config.name
        reading = Reading(
            name=config.name,
            tags={**DEFAULT_TAGS, **config.tag_attributes},
            default_tags=config.tags,
            free_models=frozenset(config.free_models),
            cost_attribute=config.cost_attribute,
        )
        self._scopes, self._order = Scopes(), asyncio.Lock()
        counted = frozenset(METRICS) if config.count == "metrics" else METRICS_ONLY
        self._spans = Spans(reading, prices, self._scopes, loops) if config.count == "spans" else None
        self._streams = Streams(reading, prices, self._scopes, clock.now(), counted)

    def door(self, path: str, content_type: str) -> OtlpDoor | None:
        signal = otlp.SIGNALS.get(path)
        if signal is None:
            return None
        source = {"v1/traces": self._spans, "v1/metrics": self._streams}.get(path)
        if source is None and path == "v1/traces":
            self._scopes.saw_request(path)
        return OtlpDoor(self._name, signal, content_type, source, self._scopes, self._order)

    def paths(self) -> tuple[str, ...]:
        return tuple(otlp.SIGNALS)

    def notes(self) -> tuple[str, ...]:
        return self._scopes.notes()


class OtlpDoor:
    """One OTLP request."""

    def __init__(
        self,
        name: str,
        signal: otlp.Signal,
        content_type: str,
        source: Spans | Streams | None,
        scopes: Scopes,
        lock: asyncio.Lock,
    ) -> None:
        self._name, self._signal, self._content_type = name, signal, content_type
        self._source, self._scopes = source, scopes
        self._refused: str | None = None
        self.order: AbstractAsyncContextManager[object] = lock if isinstance(source, Streams) else nullcontext()

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        if self._source is None:
            return Batch((), cursor="", ignored=self._scopes.take())
        letters = Letters(self._name, at)
        request = otlp.parse(self._signal, self._content_type, body, letters, location)
        if isinstance(request, Rejected):
            self._refused = request.detail
            letters.add(request, location=location, content=body)
            return Batch((), cursor="", dead=letters.messages())
        batch = self._source.parse(request, letters, location, at)
        return batch._replace(dead=letters.messages(), ignored=self._scopes.take())

    def refused(self, batch: Batch) -> str | None:
        return self._refused

    def appended(self) -> None:
        if isinstance(self._source, Streams):
            self._source.appended()

    def answer(self, accepted: int, dead: int) -> web.Response:
        """Says what was not counted as long as nothing was, so that it is seen where the exporter runs."""
        silent = self._source is not None and not self._scopes.counted and not dead
        warning = "; ".join(self._scopes.notes()) if silent else ""
        return otlp.answer(self._signal, self._content_type, dead, warning)

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return otlp.problem(self._content_type, status, detail, headers)
