"""Alertmanager's API v2: keeps what is posted by its labels, as the real one does, and refuses what it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


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
        refusals = [_refusal(alert) for alert in posted]
        if unread := [each for each in refusals if isinstance(each[1], dict)]:
            return web.json_response(unread[0][1], status=unread[0][0])
        for alert, (code, _) in zip(posted, refusals, strict=True):
            if not code:  # a refused alert does not keep the others out
                self.alerts[json.dumps(alert["labels"], sort_keys=True)] = alert
        said = [each for each in refusals if each[0]]
        return web.json_response(said[0][1], status=said[0][0]) if said else web.Response()


def _refusal(alert: dict[str, Any]) -> tuple[int, Any]:
    """Status and body; 0 for an alert that is taken."""
    times = [alert[key] for key in ("startsAt", "endsAt") if key in alert]
    labels = alert.get("labels")
    if labels is None:
        return 422, {"code": 602, "message": "0.labels in body is required"}
    if wrong := [each for each in times if not TIME.fullmatch(each)]:
        return 400, {"code": 400, "message": f'parsing alerts body from "" failed, because parsing time {wrong[0]}'}
    if len(times) == 2 and times[0] > times[1]:
        return 400, "start time must be before end time"
    if wrong := [name for name in labels if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)]:
        return 400, f'invalid label set: invalid name "{wrong[0]}"'
    if not any(labels.values()):
        return 400, "at least one label pair required"
    return 0, None
