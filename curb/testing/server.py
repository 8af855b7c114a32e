"""Faults on demand for the small HTTP servers that stand in for the other side."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

#: What any side may answer at any time.
FAULTS = ("429", "500", "slow", "reset")
#: What the other side, or something in between, may answer for as long as it lasts; none of it says that a thing is
#: gone or changed.
REFUSALS = ("401", "403", "404 page", "404 text", "404 route", "409", "422", "503", "page", "half")
#: The Retry-After of a 429, in seconds.
RETRY_AFTER_S = 7.0
#: Longer than any time-out of a bench.
_SLOW_S = 30.0
_LATER = {"Retry-After": f"{RETRY_AFTER_S:.0f}"}


class Faults:
    """`next` holds what happens to the next requests: "ok", or one of FAULTS or REFUSALS.

    `after` holds the same for requests that are carried out first.
    """

    def __init__(self) -> None:
        self.next: deque[str] = deque()
        #: What happens to every request, until it is "" again.
        self.always = ""
        #: Like `next`, but the request is carried out before its answer is lost.
        self.after: deque[str] = deque()
        #: "METHOD /path" of every request that came in.
        self.seen: list[str] = []

    def middleware(self) -> Middleware:
        @web.middleware
        async def faulty(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.seen.append(f"{request.method} {request.path}")
            if self.always:
                return await _fault(self.always, request)
            if self.next and (fault := self.next.popleft()) != "ok":
                return await _fault(fault, request)
            if self.after:
                await handler(request)
                return await _fault(self.after.popleft(), request)
            return await handler(request)

        return faulty


async def _fault(kind: str, request: web.Request) -> web.StreamResponse:
    if kind == "429":
        return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=_LATER)
    if kind == "401":
        return web.json_response({"error": {"message": "the token has expired"}}, status=401)
    if kind in ("403", "409", "422", "503"):
        return web.json_response({"error": {"message": f"refused with {kind}"}}, status=int(kind))
    if kind == "404 route":
        return web.json_response({"detail": "Not Found"}, status=404)
    if kind == "404 text":
        return web.Response(status=404, text="404 page not found")
    if kind in ("404 page", "page"):
        page = "<html><body>please log in</body></html>"
        return web.Response(status=404 if kind == "404 page" else 200, text=page, content_type="text/html")
    if kind == "half":
        cut = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        await cut.prepare(request)
        await cut.write(b'{"half": ')
    if kind == "500":
        return web.Response(status=500, text="<html>broken</html>", content_type="text/html")
    if kind == "slow":
        await asyncio.sleep(_SLOW_S)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
