"""Alertmanager's API v2: keeps what is posted by its labels, as the real one does, and refuses what it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
KNOWN = {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}


class AlertmanagerApi:
    """`alerts` by their labels."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.alerts: dict[str, dict[str, Any]] = {}
        self.posts: list[list[dict[str, Any]]] = []
        self.authorization = ""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/api/v2/alerts", self._post)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization", "")
        posted = json.loads(await request.read())
        self.posts.append(posted)
        for alert in posted:
            labels = alert["labels"]
            right = set(alert) <= KNOWN and all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) for name in labels)
            if not right or not all(labels.values()) or not TIME.fullmatch(alert["endsAt"]):
                return web.json_response({"code": 601, "message": "validation failure"}, status=422)
            self.alerts[json.dumps(labels, sort_keys=True)] = alert
        return web.Response()
