"""Opsgenie's Alert API v2: keeps open alerts by their alias and counts what comes again."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

FIELDS = {"message", "alias", "description", "priority", "source", "entity", "details"}


class OpsgenieApi:
    """`alerts` by their alias, each with `count` and `status`; `closed` is what was to be closed, known or not."""

    def __init__(self, api_key: str) -> None:
        self.faults = Faults()
        self.alerts: dict[str, dict[str, Any]] = {}
        self.closed: list[str] = []
        self._api_key = api_key

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/v2/alerts", self._create)
        app.router.add_post("/v2/alerts/{alias}/close", self._close)
        return app

    async def _create(self, request: web.Request) -> web.Response:
        posted = json.loads(await request.read())
        if request.headers.get("Authorization") != f"GenieKey {self._api_key}":
            return web.json_response({"message": "Could not authenticate", "took": 0.0}, status=401)
        right = set(posted) <= FIELDS and 0 < len(posted["message"]) <= 130 and len(posted["alias"]) <= 512
        right &= len(posted["entity"]) <= 512 and len(posted["description"]) <= 15_000
        right &= sum(len(key) + len(value) for key, value in posted["details"].items()) <= 8000
        if not right or posted["priority"] not in {"P1", "P2", "P3", "P4", "P5"}:
            return web.json_response({"message": "Request body is not processable."}, status=422)
        known = self.alerts.get(posted["alias"])
        if known is not None and known["status"] == "open":
            known["count"] += 1
        else:
            self.alerts[posted["alias"]] = {**posted, "count": 1, "status": "open"}
        return _accepted()

    async def _close(self, request: web.Request) -> web.Response:
        if request.query.get("identifierType") != "alias":
            return web.json_response({"message": "Invalid identifier"}, status=422)
        if len(json.loads(await request.read())["note"]) > 25_000:
            return web.json_response({"message": "Request body is not processable."}, status=422)
        alias = request.match_info["alias"]
        self.closed.append(alias)
        if alias in self.alerts:
            self.alerts[alias]["status"] = "closed"
        # Whether there is one is found out later.
        return _accepted()


def _accepted() -> web.Response:
    return web.json_response({"result": "Request will be processed", "took": 0.1, "requestId": "r"}, status=202)
