"""Captures what an instrumentation exports for calls of known usage.

`python -m tests.real.otlp_capture NAME COMMAND...` runs COMMAND, an application in an environment of its own with its
instrumentation switched on, against a model server on loopback, and writes the spans to tests/data/otlp/NAME.pb.gz for
tests/contract/test_otel_instrumentations.py. The command finds the servers in OPENAI_BASE_URL, ANTHROPIC_BASE_URL and
OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import secrets
import sys
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.house.tree import ROOT

DATA = ROOT / "tests" / "data" / "otlp"
#: What every chat uses; of Anthropic, 100 of the input tokens are also written to the cache.
INPUT, CACHED, WRITTEN, OUTPUT, REASONING = 1000, 600, 100, 200, 50
#: Attributes that tell of the machine.
PRIVATE = re.compile(r"^(process|host|os|code|container|service\.instance)\.")
CHAT_USAGE = {
    "prompt_tokens": INPUT,
    "completion_tokens": OUTPUT,
    "total_tokens": INPUT + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": REASONING},
}
MESSAGE_USAGE = {
    "input_tokens": INPUT - CACHED - WRITTEN,
    "cache_creation_input_tokens": WRITTEN,
    "cache_read_input_tokens": CACHED,
    "output_tokens": OUTPUT,
}


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


async def stream(request: web.Request, events: list[dict[str, Any]], *, done: bool = False) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        await response.write(f"{name}data: {json.dumps(event)}\n\n".encode())
    if done:
        await response.write(b"data: [DONE]\n\n")
    return response


async def chat(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    answer = {"id": new_id("chatcmpl-"), "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        return web.json_response({**answer, "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE})
    part = {**answer, "object": "chat.completion.chunk"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    parts = [{**part, "choices": [choice]}]
    if (asked.get("stream_options") or {}).get("include_usage"):
        parts.append({**part, "choices": [], "usage": CHAT_USAGE})
    return await stream(request, parts, done=True)


async def messages(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    text = {"type": "text", "text": "Hello"}
    answer = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": asked["model"], "content": [text]}
    answer |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": MESSAGE_USAGE}
    if not asked.get("stream"):
        return web.json_response(answer)
    begun = {**answer, "content": [], "stop_reason": None, "usage": {**MESSAGE_USAGE, "output_tokens": 1}}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": OUTPUT}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        ended,
        {"type": "message_stop"},
    ]
    return await stream(request, events)


async def embeddings(request: web.Request) -> web.Response:
    asked = await request.json()
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    usage = {"prompt_tokens": INPUT, "total_tokens": INPUT}
    return web.json_response({"object": "list", "model": asked["model"], "data": data, "usage": usage})


class Capture:
    """Takes exports of spans in protobuf; everything else is accepted."""

    def __init__(self) -> None:
        self.spans = ExportTraceServiceRequest()

    async def take(self, request: web.Request) -> web.Response:
        if request.path.endswith("/v1/traces"):
            self.spans.MergeFromString(await request.read())
        return web.Response(content_type="application/x-protobuf")

    def packed(self) -> bytes:
        """The spans without events and without what tells of the machine."""
        for resource_spans in self.spans.resource_spans:
            _clean(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    _clean(span.attributes)
                    del span.events[:]
                    span.status.message = ""
        return gzip.compress(self.spans.SerializeToString(), 9, mtime=0)


def _clean(attributes: Any) -> None:
    for index in reversed(range(len(attributes))):
        if PRIVATE.match(attributes[index].key):
            del attributes[index]


async def main(name: str, command: list[str]) -> None:
    app, capture = web.Application(), Capture()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_post("/otlp/{path:.+}", capture.take)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        known = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"{url}v1", "ANTHROPIC_API_KEY": "x"}
        known |= {"ANTHROPIC_BASE_URL": url, "OTEL_EXPORTER_OTLP_ENDPOINT": f"{url}otlp"}
        known |= {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": "answers"}
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **known})
        if await process.wait():
            sys.exit(f"{command[0]} ended with {process.returncode}")
    spans = sum(len(scope.spans) for each in capture.spans.resource_spans for scope in each.scope_spans)
    if not spans:
        sys.exit("no span was exported")
    target = DATA / f"{name}.pb.gz"
    target.write_bytes(capture.packed())
    print(f"{spans} spans in {target.relative_to(ROOT)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
