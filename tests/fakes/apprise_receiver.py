"""A service that Apprise speaks to: its generic JSON notification, kept in order."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults


class AppriseReceiver:
    """Takes messages at /notify and, for those who are told with it, at /second."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.messages: list[dict[str, Any]] = []
        self.second: list[dict[str, Any]] = []
        self.refuse_second = False

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/notify", self._notify)
        app.router.add_post("/second", self._second)
        return app

    async def _notify(self, request: web.Request) -> web.Response:
        self.messages.append(await request.json())
        return web.Response()

    async def _second(self, request: web.Request) -> web.Response:
        if self.refuse_second:
            return web.Response(status=500)
        self.second.append(await request.json())
        return web.Response()
