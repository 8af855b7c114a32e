"""A provider behind the real proxy: answers every kind of call with a usage that is known, and counts nothing."""

from __future__ import annotations

import json
import uuid
from typing import Any

from aiohttp import web

#: Where tests/real/litellm.yaml looks for it.
UPSTREAM_PORT = 18089
_CHAT: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
_CHAT |= {"prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 50}}
_BATCH_ROWS = 3


def upstream() -> web.Application:
    """OpenAI, Anthropic and Cohere, as far as the tests call them."""
    app = web.Application(client_max_size=10**7)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/responses", _responses)
    app.router.add_post("/v1/messages", _messages)
    app.router.add_post("/v1/embeddings", _embeddings)
    app.router.add_post("/v1/images/generations", _images)
    app.router.add_post("/v1/audio/transcriptions", _transcription)
    app.router.add_post("/v1/audio/speech", _speech)
    app.router.add_post("/v1/rerank", _rerank)
    app.router.add_post("/v1/files", _file)
    app.router.add_get("/v1/files/{file}/content", _content)
    app.router.add_post("/v1/batches", _batch)
    app.router.add_get("/v1/batches/{batch}", _batch)
    app.router.add_get("/v1/realtime", _realtime)
    app.router.add_route("*", "/broken/{path:.*}", _broken)
    return app


def _id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


async def _chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    head = {"id": _id("chatcmpl-"), "created": 1_750_000_000, "model": body["model"]}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": _CHAT})
    chunk = {**head, "object": "chat.completion.chunk"}
    delta = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [{**chunk, "choices": [delta]}, {**chunk, "choices": [last]}, {**chunk, "choices": [], "usage": _CHAT}]
    return await _stream(request, [*map(json.dumps, events), "[DONE]"])


async def _stream(request: web.Request, events: list[str]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for event in events:
        await answer.write(f"data: {event}\n\n".encode())
    await answer.write_eof()
    return answer


async def _responses(request: web.Request) -> web.Response:
    body = await request.json()
    message: dict[str, Any] = {"type": "message", "id": _id("msg_"), "status": "completed", "role": "assistant"}
    message |= {"content": [{"type": "output_text", "text": "hi", "annotations": []}]}
    usage: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    answer: dict[str, Any] = {
        "id": _id("resp_"),
        "object": "response",
        "created_at": 1_750_000_000,
        "status": "completed",
    }
    answer |= {"model": body["model"], "output": [message], "usage": usage, "parallel_tool_calls": True}
    answer |= {"tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None, "metadata": {}}
    return web.json_response(answer)


async def _messages(request: web.Request) -> web.Response:
    body = await request.json()
    usage = {"input_tokens": 20, "output_tokens": 80, "cache_read_input_tokens": 5000}
    usage |= {"cache_creation_input_tokens": 300}
    answer: dict[str, Any] = {"id": _id("msg_"), "type": "message", "role": "assistant", "model": body["model"]}
    answer |= {"content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "stop_sequence": None}
    return web.json_response({**answer, "usage": usage})


async def _embeddings(request: web.Request) -> web.Response:
    body = await request.json()
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    usage = {"prompt_tokens": 700, "total_tokens": 700}
    return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})


async def _images(request: web.Request) -> web.Response:
    await request.read()
    usage: dict[str, Any] = {"input_tokens": 23, "output_tokens": 1056, "total_tokens": 1079}
    usage |= {"input_tokens_details": {"image_tokens": 0, "text_tokens": 23}}
    return web.json_response({"created": 1_750_000_000, "data": [{"b64_json": "aGk="}], "usage": usage})


async def _transcription(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"text": "hi", "duration": 30.0, "language": "english", "task": "transcribe"})


async def _speech(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b"ID3" + bytes(100), content_type="audio/mpeg")


async def _rerank(request: web.Request) -> web.Response:
    await request.read()
    meta = {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
    return web.json_response({"id": str(uuid.uuid4()), "results": [{"index": 0, "relevance_score": 0.9}], "meta": meta})


async def _file(request: web.Request) -> web.Response:
    await request.read()
    answer = {"id": _id("file-"), "object": "file", "bytes": 10, "created_at": 1_750_000_000, "filename": "in.jsonl"}
    return web.json_response({**answer, "purpose": "batch", "status": "processed"})


async def _content(request: web.Request) -> web.Response:
    def line(number: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": _id("chatcmpl-"),
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": "gpt-4o-mini",
        }
        body |= {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
        body |= {"usage": {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "total_tokens": 1_100_000}}
        answer = {"status_code": 200, "request_id": str(number), "body": body}
        return {"id": f"b{number}", "custom_id": f"c{number}", "response": answer, "error": None}

    return web.Response(text="\n".join(json.dumps(line(number)) for number in range(_BATCH_ROWS)))


async def _batch(request: web.Request) -> web.Response:
    name = request.match_info.get("batch", "") or _id("batch_")
    answer: dict[str, Any] = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "errors": None}
    answer |= {"input_file_id": "file-in", "completion_window": "24h", "status": "completed"}
    answer |= {"output_file_id": f"file-out-{name}", "error_file_id": None, "created_at": 1_750_000_000}
    answer |= {"request_counts": {"total": _BATCH_ROWS, "completed": _BATCH_ROWS, "failed": 0}, "metadata": {}}
    answer |= {"model": "gpt-4o-mini"}
    if request.method == "POST":
        answer |= {"status": "validating", "output_file_id": None}
    return web.json_response(answer)


async def _realtime(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "session.created", "event_id": "e1", "session": {"id": _id("sess_")}})
    async for message in socket:
        if json.loads(message.data).get("type") == "response.create":
            usage: dict[str, Any] = {"total_tokens": 300, "input_tokens": 200, "output_tokens": 100}
            usage |= {"input_token_details": {"cached_tokens": 0, "text_tokens": 50, "audio_tokens": 150}}
            usage |= {"output_token_details": {"text_tokens": 20, "audio_tokens": 80}}
            response = {"id": _id("resp_"), "object": "realtime.response", "status": "completed", "output": []}
            done = {"type": "response.done", "event_id": "e2", "response": {**response, "usage": usage}}
            await socket.send_json(done)
    return socket


async def _broken(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"error": {"message": "down", "type": "server_error"}}, status=500)
