"""What changed, as server-sent events: a page renews itself when there is something new, and not every half minute."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from curb.serve.pages.frame import HEADERS, Pages

#: Seconds between two looks at what is new, and between two signs of life. By hand: a person sees no difference, and
#: proxies close what is silent for a minute.
LOOK_S, SIGN_S = 1.0, 15.0
#: Seconds that a client may take for a part; a client that does not read loses its place. By hand.
_WRITE_S = 10.0
#: A browser comes back after so long (milliseconds).
_RETRY_MS = 3000


class EventStreams:
    """The streams of one daemon: at most `most` are open, and all end when the port closes."""

    def __init__(self, pages: Pages, most: int, look_s: float, sign_s: float) -> None:
        self._pages, self._most, self._look_s, self._sign_s = pages, most, look_s, sign_s
        self.open = 0
        self._closing = asyncio.Event()

    async def close(self, app: web.Application) -> None:
        """End every stream, so that the port does not wait for them."""
        self._closing.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """503 when too many are open; else what changed, until the client or the sign-in is gone."""
        if self.open >= self._most or self._closing.is_set():
            return web.Response(status=503, headers=HEADERS | {"Retry-After": "30"})
        headers = HEADERS | {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        answer = web.StreamResponse(headers=headers)
        self.open += 1
        try:
            await answer.prepare(request)
            await self._follow(request, answer)
        except (ConnectionError, TimeoutError):
            pass  # gone, or it does not read
        finally:
            self.open -= 1
        return answer

    async def _follow(self, request: web.Request, answer: web.StreamResponse) -> None:
        view, was_signed_in = self._pages.daemon.view, self._pages.session(request) is not None
        seen, quiet_s = view.changes.count, 0.0
        await _write(answer, f"retry: {_RETRY_MS}\nid: {seen}\n\n")
        while not await self._closes():
            if was_signed_in and self._pages.session(request) is None:
                return  # signed out, or the sign-in is over
            if (now := view.changes.count) != seen:
                data = json.dumps(view.changes.since(seen))
                seen, quiet_s = now, 0.0
                await _write(answer, f"id: {seen}\nevent: changed\ndata: {data}\n\n")
            elif (quiet_s := quiet_s + self._look_s) >= self._sign_s:
                quiet_s = 0.0
                await _write(answer, ": still here\n\n")

    async def _closes(self) -> bool:
        """Whether the port closes before the next look."""
        try:
            await asyncio.wait_for(self._closing.wait(), self._look_s)
        except TimeoutError:
            return False
        return True


async def _write(answer: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_WRITE_S):
        await answer.write(text.encode())


def add_routes(app: web.Application, pages: Pages, most: int) -> EventStreams:
    """Add `GET /events`."""
    streams = EventStreams(pages, most, LOOK_S, SIGN_S)
    app.router.add_get("/events", streams.stream)
    app.on_shutdown.append(streams.close)
    return streams
