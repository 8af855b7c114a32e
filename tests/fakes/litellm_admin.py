"""The part of the LiteLLM proxy's admin API that reads and updates keys; merges like the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from stream.records import Alert
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "litellm_limits"
ADMIN_KEY = "sk-admin"


class LitellmAdmin:
    def __init__(self, keys: dict[str, dict[str, Any]]) -> None:
        self.keys = keys
        self.faults = Faults()
        #: Bodies of POST /key/update, and who sent them.
        self.updates: list[tuple[str, dict[str, Any]]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/key/info", self._info)
        app.router.add_post("/key/update", self._update)
        return app

    async def _info(self, request: web.Request) -> web.Response:
        key = request.query["key"]
        return self._row(request, key) or web.json_response({"key": key, "info": self.keys[key]})

    async def _update(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = body.pop("key")
        refusal = self._row(request, key)
        if refusal is not None:
            return refusal
        self.updates.append((request.headers.get("litellm-changed-by", ""), body))
        self.keys[key].update(body)
        return web.json_response({"key": key, **self.keys[key]})

    def _row(self, request: web.Request, key: str) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {ADMIN_KEY}":
            return web.json_response({"error": {"message": "not allowed"}}, status=401)
        if key not in self.keys:
            return web.json_response({"error": {"message": "Key not found"}}, status=404)
        return None


class LitellmBench:
    """One key that has a higher limit and one that has none."""

    secret = ADMIN_KEY

    def __init__(self) -> None:
        self.fake = LitellmAdmin({"k1": {"rpm_limit": 600, "metadata": {"owner": "ana"}}, "k2": {"rpm_limit": None}})
        self.faults: Faults = self.fake.faults
        #: Each asks for at least one plan.
        self.asks = [(an_alert(), NORMAL), (an_alert(tags={"api_key": "k2"}), NORMAL)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        limits = {"kind": KIND, "name": "limits", "timeout_s": 0.2}
        return limits | {"base_url": address, "api_key": ADMIN_KEY}

    def world(self) -> Any:
        return {key: dict(values) for key, values in self.fake.keys.items()}

    def change_by_hand(self) -> None:
        for values in self.fake.keys.values():
            values["rpm_limit"] = 33

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"api_key": "nobody"})

    def called(self) -> set[str]:
        return set(self.faults.seen)
