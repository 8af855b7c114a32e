"""The part of Kong's Admin API that keeps consumers, services, routes and rate-limiting plugins. Not the real one."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.levers.kong import PERIODS
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "kong"
TOKEN = "kong-admin-token"
_DEFAULTS = {**dict.fromkeys(PERIODS), "limit_by": "consumer", "policy": "local", "fault_tolerant": True}
_SCOPES = ("consumer", "service", "route")


def plugin(id_: str, *, scope: dict[str, str] | None = None, **config: Any) -> dict[str, Any]:
    refs = {name: {"id": (scope or {})[name]} if name in (scope or {}) else None for name in _SCOPES}
    return {"id": id_, "name": "rate-limiting", "enabled": True, "tags": None, "config": _DEFAULTS | config, **refs}


class KongFake:
    """`entities` by kind and id; `plugins` by id. Names of entities are unique and stand for the id as well."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, dict[str, Any]]] = {"consumers": {}, "services": {}, "routes": {}}
        self.plugins: dict[str, dict[str, Any]] = {}
        self.page_size = 1000
        self.faults = Faults()
        self.called: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware(), self._token])
        app.router.add_get("/plugins", self._list)
        app.router.add_get("/plugins/{id}", self._get)
        app.router.add_put("/plugins/{id}", self._put)
        app.router.add_patch("/plugins/{id}", self._patch)
        app.router.add_delete("/plugins/{id}", self._delete)
        app.router.add_get("/{entities:consumers|services|routes}/{name}", self._entity)
        return app

    @web.middleware
    async def _token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource else request.path
        entity = "GET /{consumers,services,routes}/{name}"
        self.called.add(entity if path.startswith("/{entities}") else f"{request.method} {path}")
        if request.headers.get("Kong-Admin-Token") != TOKEN:
            return web.json_response({"message": "Invalid credentials. Token or User credentials required"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _entity(self, request: web.Request) -> web.Response:
        things, name = self.entities[request.match_info["entities"]], request.match_info["name"]
        for id_, thing in things.items():
            if name in (id_, thing.get("username"), thing.get("name")):
                return web.json_response({"id": id_, **thing})
        return _missing()

    async def _list(self, request: web.Request) -> web.Response:
        start, everything = int(request.query.get("offset", 0)), list(self.plugins.values())
        end = start + min(self.page_size, int(request.query["size"]))
        more = {"offset": str(end), "next": f"/plugins?offset={end}"} if end < len(everything) else {"next": None}
        return web.json_response({"data": everything[start:end], **more})

    async def _get(self, request: web.Request) -> web.Response:
        found = self.plugins.get(request.match_info["id"])
        return web.json_response(found) if found else _missing()

    async def _put(self, request: web.Request) -> web.Response:
        id_, body = request.match_info["id"], await request.json()
        made = plugin(id_, scope={name: body[name]["id"] for name in _SCOPES if body.get(name)}, **body["config"])
        return self._keep(made | {"tags": body.get("tags")})

    async def _patch(self, request: web.Request) -> web.Response:
        body, found = await request.json(), self.plugins.get(request.match_info["id"])
        if found is None:
            return _missing()
        return self._keep({**found, **body, "config": found["config"] | body.get("config", {})})

    def _keep(self, changed: dict[str, Any]) -> web.Response:
        limits = [changed["config"][period] for period in PERIODS if changed["config"][period] is not None]
        if not limits or limits != sorted(limits) or min(limits) <= 0:
            message = "schema violation (config: the limit of a longer period cannot be lower than of a shorter one)"
            return web.json_response({"code": 2, "name": "schema violation", "message": message}, status=400)
        scope = [changed[name] for name in _SCOPES]
        others = [each for each in self.plugins.values() if each["id"] != changed["id"]]
        if any([each[name] for name in _SCOPES] == scope for each in others):
            return web.json_response({"code": 5, "name": "unique constraint violation"}, status=409)
        self.plugins[changed["id"]] = changed
        return web.json_response(changed)

    async def _delete(self, request: web.Request) -> web.Response:
        self.plugins.pop(request.match_info["id"], None)
        return web.Response(status=204)


def _missing() -> web.Response:
    return web.json_response({"message": "Not found"}, status=404)


class KongBench(ActionBench):
    """A consumer with a plugin for all and one for a route, and consumers that have none of their own."""

    secret = TOKEN

    def __init__(self) -> None:
        self.fake = KongFake()
        self.faults: Faults = self.fake.faults
        consumers = {"c1": {"username": "search"}, "c2": {"username": "ads & co"}, "c3": {"username": "lab"}}
        self.fake.entities["consumers"].update(consumers)
        self.fake.entities["services"]["s1"] = {"name": "chat"}
        self.fake.entities["routes"]["r1"] = {"name": "stream", "service": {"id": "s1"}}
        for each in (
            plugin("p1", scope={"consumer": "c1"}, second=100, minute=600, hour=5000),
            plugin("p2", scope={"consumer": "c1", "route": "r1"}, hour=900, policy="cluster"),
            plugin("p3", scope={"service": "s1"}, minute=900, hour=950),
        ):
            self.fake.plugins[each["id"]] = each
        self.cases = [(an_alert(), NORMAL), (an_alert(tags={"team": "ads & co"}), NORMAL)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        return {"kind": KIND, "name": "kong", "base_url": address, "admin_token": TOKEN, "timeout_s": 0.2}

    def world(self) -> Any:
        return copy.deepcopy(self.fake.plugins)

    def change_by_hand(self) -> None:
        for each in self.fake.plugins.values():
            known = {period: 33 for period in PERIODS if each["config"][period] is not None}
            each["config"] |= known

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return self.fake.called


class KongServiceBench(KongBench):
    """A service that has a plugin, and one that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.fake.entities["services"]["s2"] = {"name": "images"}
        self.cases = [(an_alert(tags={"team": team}), NORMAL) for team in ("chat", "images")]

    def config(self, address: str) -> dict[str, Any]:
        return super().config(address) | {"entity": "service"}


class KongRouteBench(KongBench):
    """A route whose service has a plugin, and one that has a plugin itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fake.entities["routes"]["r2"] = {"name": "batch", "service": {"id": "s1"}}
        self.fake.plugins["p2"] = plugin("p2", scope={"route": "r2"}, minute=90, limit_by="service")
        self.cases = [(an_alert(tags={"team": team}), NORMAL) for team in ("stream", "batch")]

    def config(self, address: str) -> dict[str, Any]:
        return super().config(address) | {"entity": "route"}
