"""A proxy in front of an upstream that refuses, delays, cuts and mixes up answers on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

#: What can happen to a request, without the two that only make sense by themselves: `slow` and `repeat`.
FAULTS = ("401", "429", "500", "503", "reset", "half", "page")
RETRY_AFTER_S = 7.0
_OF_A_CONNECTION = {
    hdrs.CONNECTION,
    hdrs.KEEP_ALIVE,
    hdrs.TRANSFER_ENCODING,
    hdrs.CONTENT_LENGTH,
    hdrs.HOST,
    hdrs.DATE,
    hdrs.SERVER,
}


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve on a free port of this machine; the address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class FaultyProxy:
    """Forwards every request, unless `always` names a fault, or `chance` strikes and one of FAULTS is drawn.

    `429` has a Retry-After, `half` ends the connection in the middle of the body, `page` is a web page with status 200.
    """

    def __init__(self, target: str, rng: random.Random) -> None:
        self._target, self._rng = target.rstrip("/"), rng
        self.always = ""
        self.chance = 0.0
        self.requests = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Listen on a free port of this machine; the address."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as self._http:
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", self._handle)
            async with served(app) as address:
                yield address

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        fault = self.always
        if not fault and self._rng.random() < self.chance:
            fault = self._rng.choice(FAULTS)
        match fault:
            case "429":
                headers = {hdrs.RETRY_AFTER: f"{RETRY_AFTER_S:g}"}
                return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
            case "401" | "500" | "503":
                return web.json_response({"error": {"message": "no"}}, status=int(fault))
            case "page":
                return web.Response(text="<html>log in</html>", content_type="text/html")
            case "slow":
                await asyncio.sleep(30)
            case "reset":
                return _cut(request)
        answer = await self._forward(request)
        return await self._half(request, answer) if fault == "half" else answer

    async def _forward(self, request: web.Request) -> web.Response:
        headers = {key: value for key, value in request.headers.items() if key not in _OF_A_CONNECTION}
        url = URL(self._target + request.raw_path, encoded=True)
        async with self._http.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            kept = {key: value for key, value in answer.headers.items() if key not in _OF_A_CONNECTION}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _half(self, request: web.Request, whole: web.Response) -> web.StreamResponse:
        body = whole.body if isinstance(whole.body, bytes) else b""
        headers = {hdrs.CONTENT_TYPE: whole.headers.get(hdrs.CONTENT_TYPE, ""), hdrs.CONTENT_LENGTH: str(len(body))}
        cut = web.StreamResponse(status=whole.status, headers=headers)
        await cut.prepare(request)
        await cut.write(body[: len(body) // 2])
        return _cut(request)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
