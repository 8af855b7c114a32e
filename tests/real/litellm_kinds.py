"""Fourteen kinds of calls through the real proxy, each by a client that pays with one virtual key."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

_PROMPT = [{"role": "user", "content": "again and again"}]
_BATCH_POLLS = 3


class Caller:
    """A client of the proxy with its key."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http, self._url = http, url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def post(self, path: str, body: Any, status: int = 200, **more: Any) -> bytes:
        """The answer to a JSON or form body."""
        given = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        headers = self._headers | more.pop("headers", {})
        async with self._http.post(self._url + path, headers=headers, **given, **more) as answer:
            found = await answer.read()
            assert answer.status == status, (path, answer.status, found[:500])
            return found

    async def get(self, path: str) -> bytes:
        async with self._http.get(self._url + path, headers=self._headers) as answer:
            found = await answer.read()
            assert answer.status == 200, (path, answer.status, found[:500])
            return found

    async def talk(self, path: str) -> None:
        """One answer over a realtime socket."""
        async with self._http.ws_connect(self._url + path, headers=self._headers) as socket:
            await socket.receive()
            await socket.send_json({"type": "response.create"})
            async for message in socket:
                if json.loads(message.data).get("type") == "response.done":
                    break


async def _chat(caller: Caller, **more: Any) -> None:
    await caller.post("/v1/chat/completions", {"model": "up-gpt", "messages": _PROMPT, **more})


async def _stream(caller: Caller) -> None:
    await _chat(caller, stream=True)


async def _responses(caller: Caller) -> None:
    await caller.post("/v1/responses", {"model": "up-gpt", "input": "again"})


async def _messages(caller: Caller) -> None:
    person = json.dumps({"device_id": "d1", "account_uuid": "ana-1", "session_id": "s1"})
    body = {"model": "up-claude", "max_tokens": 100, "messages": _PROMPT, "metadata": {"user_id": person}}
    await caller.post("/v1/messages", body)


async def _embeddings(caller: Caller) -> None:
    await caller.post("/v1/embeddings", {"model": "up-embed", "input": "again"})


async def _image(caller: Caller) -> None:
    for model in ("up-image", "up-image-new"):
        await caller.post("/v1/images/generations", {"model": model, "prompt": "a house"})


async def _audio(caller: Caller) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "up-whisper")
    form.add_field("file", _wav(), filename="a.wav", content_type="audio/wav")
    await caller.post("/v1/audio/transcriptions", form)
    await caller.post("/v1/audio/speech", {"model": "up-tts", "input": "again and again", "voice": "alloy"})


async def _rerank(caller: Caller) -> None:
    for model in ("up-rerank", "up-rerank-new"):
        await caller.post("/v1/rerank", {"model": model, "query": "again", "documents": ["a", "b"]})


async def _batch(caller: Caller) -> None:
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    line: dict[str, Any] = {"custom_id": "c0", "method": "POST", "url": "/v1/chat/completions"}
    line |= {"body": {"model": "gpt-4o-mini", "messages": _PROMPT}}
    form.add_field("file", json.dumps(line).encode(), filename="in.jsonl", content_type="application/jsonl")
    file = json.loads(await caller.post("/v1/files", form))
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = json.loads(await caller.post("/v1/batches", body))
    for _ in range(_BATCH_POLLS):
        await caller.get(f"/v1/batches/{made['id']}")


async def _realtime(caller: Caller) -> None:
    await caller.talk("/v1/realtime?model=up-realtime")


async def _pass_through(caller: Caller) -> None:
    await caller.post("/anthropic/v1/messages", {"model": "claude-opus-4-6", "max_tokens": 9, "messages": _PROMPT})


async def _fallback(caller: Caller) -> None:
    await _chat(caller, model="up-broken")


async def _cached(caller: Caller) -> None:
    for _ in range(2):
        await _chat(caller, cache={"use-cache": True}, temperature=0.25)


async def _failed(caller: Caller) -> None:
    await caller.post("/v1/chat/completions", {"model": "up-failing", "messages": _PROMPT}, status=500)


KINDS: dict[str, Callable[[Caller], Awaitable[None]]] = {
    "chat": _chat,
    "stream": _stream,
    "responses": _responses,
    "messages": _messages,
    "embeddings": _embeddings,
    "image": _image,
    "audio": _audio,
    "rerank": _rerank,
    "batch": _batch,
    "realtime": _realtime,
    "pass-through": _pass_through,
    "fallback": _fallback,
    "cached": _cached,
    "failed": _failed,
}


def _wav() -> bytes:
    """Half a second of silence."""
    size = 8000
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    form = b"\x01\x00\x01\x00" + (8000).to_bytes(4, "little") + (16000).to_bytes(4, "little") + b"\x02\x00\x10\x00"
    return head + form + b"data" + size.to_bytes(4, "little") + bytes(size)
