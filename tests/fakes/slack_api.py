"""The part of Slack's Web API that posts, edits and lists messages of one channel."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

TOKEN = "xoxb-test"
CHANNEL = "C0123456789"


class SlackApi:
    def __init__(self, now: float) -> None:
        self.faults = Faults()
        self.messages: dict[str, dict[str, Any]] = {}
        self.posted = 0
        self.page_size = 2
        self._now = now

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/api/chat.postMessage", self._post)
        app.router.add_post("/api/chat.update", self._update)
        app.router.add_route("*", "/api/conversations.history", self._history)
        return app

    async def _read(self, request: web.Request) -> tuple[dict[str, Any], web.Response | None]:
        if request.content_type == "application/json":
            body = await request.json()
        else:
            body = dict(request.query) | dict(await request.post())
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return body, _no("invalid_auth")
        if body.get("channel") != CHANNEL:
            return body, _no("channel_not_found")
        for field in ("blocks", "metadata"):
            if isinstance(body.get(field), str):
                body[field] = json.loads(body[field])
        return body, None

    async def _post(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        self.posted += 1
        ts = f"{self._now + self.posted:.6f}"
        self.messages[ts] = body
        return web.json_response({"ok": True, "channel": CHANNEL, "ts": ts})

    async def _update(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        if body["ts"] not in self.messages:
            return _no("message_not_found")
        self.messages[body["ts"]].update(body)
        return web.json_response({"ok": True, "channel": CHANNEL, "ts": body["ts"]})

    async def _history(self, request: web.Request) -> web.Response:
        body, refusal = await self._read(request)
        if refusal is not None:
            return refusal
        with_metadata = str(body.get("include_all_metadata")).lower() in ("1", "true")
        newest_first = sorted((ts for ts in self.messages if float(ts) >= float(body["oldest"])), reverse=True)
        start = int(body.get("cursor") or 0)
        page = newest_first[start : start + self.page_size]
        rows = [
            {"ts": ts, "text": self.messages[ts]["text"]}
            | ({"metadata": self.messages[ts]["metadata"]} if with_metadata else {})
            for ts in page
        ]
        more = start + self.page_size < len(newest_first)
        cursor = str(start + self.page_size) if more else ""
        return web.json_response(
            {"ok": True, "messages": rows, "has_more": more, "response_metadata": {"next_cursor": cursor}}
        )


def _no(error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error})
