"""The gateway of deploy/compose.yaml: it reports the recorded traffic to Curb's inbox as LiteLLM would."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.stream.clock import ScaledClock
from deploy.demo_gateway import parse, serve


@pytest.mark.parametrize("loop_after_minutes", ["1", "600"])
async def test_usage_is_reported_with_the_token(monkeypatch: pytest.MonkeyPatch, loop_after_minutes: str) -> None:
    received: asyncio.Queue[tuple[str, list[dict[str, Any]]]] = asyncio.Queue()

    async def ingest(request: web.Request) -> web.Response:
        received.put_nowait((request.headers["Authorization"], await request.json()))
        return web.Response()

    inbox = web.Application()
    inbox.router.add_post("/v1/ingest/litellm", ingest)
    async with TestServer(inbox) as server:
        monkeypatch.setenv("CURB_INGEST_URL", str(server.make_url("/v1/ingest/litellm")))
        monkeypatch.setenv("CURB_INGEST_TOKEN", "ingest-token")
        monkeypatch.setenv("CURB_GATEWAY_KEY", "gateway-key")
        options = parse(["--port", "0", "--loop-after-minutes", loop_after_minutes])
        # Minutes of traffic in a moment; 1.7e9 is a day like any other.
        running = asyncio.create_task(serve(options, ScaledClock(1.7e9, speed=3000)))
        try:
            aliases: set[str] = set()
            while not aliases:
                authorization, events = await received.get()
                aliases.update(event["metadata"]["user_api_key_alias"] for event in events)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    assert authorization == "Bearer ingest-token"
    assert aliases
