"""The real OpenTelemetry SDK exports to Curb's inbox over loopback; the inbox answers as OTLP exporters expect."""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic import SecretStr

from curb.connectors.connector import Context
from curb.connectors.intake.inbox import InboxSource, add_routes
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.otel_genai import Config
from curb.stream.clock import ManualClock, WallClock
from curb.stream.records.spend import UsageRecord
from tests.fakes.memory_log import MemoryLog
from tests.fakes.otel_genai import JSON, PROTOBUF, SECRET_PROMPT, as_json, as_protobuf, span, traces

zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
TOKEN = "a-long-token"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
NOW = 1_750_000_000.0
RESOURCE = Resource({"service.name": "answers", "team": "search"})


class Inbox:
    """Curb's inbox with one source that counts spans and one that counts metrics."""

    def __init__(self) -> None:
        self.log, self.url = MemoryLog(), ""
        self.sources: dict[str, InboxSource] = {}

    def app(self) -> web.Application:
        context = Context(WallClock(), cast(aiohttp.ClientSession, None), PriceBook.load())
        for count in ("spans", "metrics"):
            config = Config.model_validate({"kind": "otel_genai", "name": count, "token": TOKEN, "count": count})
            source = InboxSource(count, config.build(context).source, SecretStr(TOKEN), max_body_bytes=100_000)
            self.sources[count] = source
        app = web.Application()
        add_routes(app, self.sources, self.log, ManualClock(WallClock().now() + 60))
        return app

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, str, bytes]:
        async with (
            aiohttp.ClientSession(headers=AUTH | headers) as http,
            http.post(f"{self.url}{path}", data=body) as r,
        ):
            return r.status, r.content_type, await r.read()


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    server = TestServer(inbox.app())
    await server.start_server(auto_decompress=False)
    async with server:
        inbox.url = str(server.make_url("/v1/ingest/"))
        yield inbox


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.NoCompression])
async def test_spans_of_the_sdk_are_usage(inbox: Inbox, compression: Compression) -> None:
    def application() -> bool:
        exporter = OTLPSpanExporter(f"{inbox.url}spans/v1/traces", headers=AUTH, compression=compression)
        provider = TracerProvider(resource=RESOURCE)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("app")
        with tracer.start_as_current_span("request"):
            for _ in range(10):
                with tracer.start_as_current_span("chat gpt-4o") as call:
                    call.set_attribute("gen_ai.operation.name", "chat")
                    call.set_attribute("gen_ai.request.model", "gpt-4o")
                    call.set_attribute("gen_ai.usage.input_tokens", 1000)
                    call.set_attribute("gen_ai.usage.output_tokens", 200)
                    call.add_event("gen_ai.content.prompt", {"gen_ai.prompt": SECRET_PROMPT})
        flushed = provider.force_flush()
        provider.shutdown()
        return flushed

    assert await asyncio.to_thread(application)
    records = inbox.log.records()
    assert len({record.id for record in records}) == 10
    assert {record.input_tokens for record in records} == {1000}
    assert {record.tags["team"] for record in records} == {"search"}
    assert all(record.effective_cost > 0 for record in records)
    assert inbox.log.dead_letters() == []
    assert SECRET_PROMPT.encode() not in b"".join(message.value for message in inbox.log.of("curb.usage"))


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
async def test_counters_of_the_sdk_are_usage(inbox: Inbox, temporality: AggregationTemporality) -> None:
    def application() -> None:
        exporter = OTLPMetricExporter(
            f"{inbox.url}metrics/v1/metrics", headers=AUTH, preferred_temporality={Counter: temporality}
        )
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        provider = MeterProvider([reader], resource=RESOURCE)
        meter = provider.get_meter("app")
        given = meter.create_counter("gen_ai.client.inference.usage.input_tokens")
        produced = meter.create_counter("gen_ai.client.inference.usage.output_tokens")
        labels = {"gen_ai.request.model": "gpt-4o", "gen_ai.token.modality": "text"}
        for _ in range(3):
            given.add(1000, labels)
            produced.add(200, labels)
            assert provider.force_flush()
        assert provider.force_flush()
        provider.shutdown()

    await asyncio.to_thread(application)
    unique = {record.id: record for record in inbox.log.records()}.values()
    assert sum(record.input_tokens for record in unique) == 3000
    assert sum(record.output_tokens for record in unique) == 600
    assert {record.request_model for record in unique} == {"gpt-4o"}
    assert inbox.log.dead_letters() == []


# --- answers --------------------------------------------------------------------------------------------------------


async def test_all_fine_is_an_empty_message(inbox: Inbox) -> None:
    request = traces([span(1, NOW)])
    assert await inbox.post("spans/v1/traces", as_protobuf(request), **{"Content-Type": PROTOBUF}) == (
        200,
        PROTOBUF,
        b"",
    )
    assert await inbox.post("spans/v1/traces", as_json(request), **{"Content-Type": JSON}) == (200, JSON, b"{}")
    zipped = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    assert (await inbox.post("spans/v1/traces", gzip.compress(as_json(request)), **zipped))[0] == 200
    assert len({record.id for record in inbox.log.records()}) == 1


@pytest.mark.parametrize(("encoding", "pack"), [("zstd", zstd.compress), ("deflate", zlib.compress)])
async def test_other_compressions_of_collectors(inbox: Inbox, encoding: str, pack: Any) -> None:
    for body, content_type in ((as_protobuf, PROTOBUF), (as_json, JSON)):
        packed = pack(body(traces([span(1, NOW)])))
        headers = {"Content-Type": content_type, "Content-Encoding": encoding}
        assert (await inbox.post("spans/v1/traces", packed, **headers))[0] == 200
    bomb = pack(b" " * 200_000)
    assert (await inbox.post("spans/v1/traces", bomb, **{"Content-Type": JSON, "Content-Encoding": encoding}))[0] == 413
    assert len({record.id for record in inbox.log.records()}) == 1


@pytest.mark.parametrize("encoding", ["snappy", "x-gzip", "gzip, gzip"])
async def test_an_encoding_that_is_not_read_is_415_and_names_those_that_are(inbox: Inbox, encoding: str) -> None:
    headers = {"Content-Type": JSON, "Content-Encoding": encoding}
    status, _, body = await inbox.post("spans/v1/traces", as_json(traces([span(1, NOW)])), **headers)
    assert status == 415
    assert b"gzip, deflate, zstd" in body
    assert [letter.reason for letter in inbox.log.dead_letters()] == ["invalid"]


async def test_what_is_refused_is_a_partial_success(inbox: Inbox) -> None:
    request = traces([span(1, NOW), span(2, NOW, attributes={"gen_ai.usage.input_tokens": "many"})])
    status, _, body = await inbox.post("spans/v1/traces", as_protobuf(request), **{"Content-Type": PROTOBUF})
    answer: Any = ExportTraceServiceResponse.FromString(body)
    assert (status, answer.partial_success.rejected_spans) == (200, 1)
    assert "dead letters" in answer.partial_success.error_message
    _, _, body = await inbox.post("spans/v1/traces", as_json(request), **{"Content-Type": JSON})
    assert b'"rejectedSpans": "1"' in body
    assert len(inbox.log.records()) == 2
    assert isinstance(inbox.log.records()[0], UsageRecord)


@pytest.mark.parametrize("encoding", [PROTOBUF, JSON])
async def test_nothing_readable_is_400_in_the_words_of_the_request(inbox: Inbox, encoding: str) -> None:
    status, content_type, body = await inbox.post("spans/v1/traces", b"\xff\xff", **{"Content-Type": encoding})
    assert (status, content_type) == (400, encoding)
    assert b"the body is" in body
    assert len(inbox.log.dead_letters()) == 1


async def test_a_log_that_is_away_asks_to_come_back(inbox: Inbox) -> None:
    inbox.log.fail_next = 1
    body = as_protobuf(traces([span(1, NOW)]))
    status, content_type, _ = await inbox.post("spans/v1/traces", body, **{"Content-Type": PROTOBUF})
    assert (status, content_type) == (503, PROTOBUF)
    assert (await inbox.post("spans/v1/traces", body, **{"Content-Type": PROTOBUF}))[0] == 200
    assert len(inbox.log.records()) == 1


async def test_too_large_wrong_token_wrong_path(inbox: Inbox) -> None:
    assert (await inbox.post("spans/v1/traces", b" " * 100_001, **{"Content-Type": JSON}))[0] == 413
    wrong = {"Content-Type": JSON, "Authorization": "Bearer wrong"}
    assert (await inbox.post("spans/v1/traces", b"{}", **wrong))[0] == 401
    assert (await inbox.post("spans/v1/profiles", b"{}"))[0] == 404
    assert (await inbox.post("spans", b"{}"))[0] == 404


async def test_logs_are_taken_and_not_looked_at(inbox: Inbox) -> None:
    logs = SECRET_PROMPT.encode()
    assert await inbox.post("spans/v1/logs", logs, **{"Content-Type": PROTOBUF}) == (200, PROTOBUF, b"")
    assert inbox.log.messages == {}


async def test_a_source_that_counts_nothing_is_not_healthy_and_says_why(inbox: Inbox) -> None:
    source = inbox.sources["spans"]
    other = traces([span(1, NOW, attributes={"gen_ai.operation.name": "my_step", "gen_ai.usage.input_tokens": None})])
    other["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = []
    _, _, body = await inbox.post("spans/v1/traces", as_protobuf(other), **{"Content-Type": PROTOBUF})
    answer: Any = ExportTraceServiceResponse.FromString(body)
    assert answer.partial_success.rejected_spans == 0
    assert "app (1)" in answer.partial_success.error_message
    assert source.last_success is None
    assert source.notes() == ("spans without a call to a model, by scope: app (1)",)
    await inbox.post("spans/v1/traces", as_protobuf(traces([span(1, NOW)])), **{"Content-Type": PROTOBUF})
    assert source.last_success is not None
    assert source.notes() == ()
