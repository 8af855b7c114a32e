"""A receiver of notices that drops copies by their Idempotency-Key."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults


class WebhookReceiver:
    def __init__(self) -> None:
        self.faults = Faults()
        self.accepted: dict[str, dict[str, Any]] = {}
        self.headers: dict[str, str] = {}
        self.body = b""
        self.refuse_with = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/hook", self._hook)
        return app

    async def _hook(self, request: web.Request) -> web.Response:
        self.body = await request.read()
        self.headers = dict(request.headers)
        if self.refuse_with:
            return web.Response(status=self.refuse_with, headers={"Location": "/elsewhere"})
        self.accepted.setdefault(request.headers["Idempotency-Key"], json.loads(self.body))
        return web.Response(status=202)
