"""PagerDuty's Events API v2: keeps incidents by their key, and refuses what it refuses."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

SEVERITIES = {"critical", "error", "warning", "info"}


class PagerdutyEvents:
    """`incidents` by their key: the events of each, in order."""

    def __init__(self, routing_key: str) -> None:
        self.faults = Faults()
        self.incidents: dict[str, list[dict[str, Any]]] = {}
        self._routing_key = routing_key

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/v2/enqueue", self._enqueue)
        return app

    async def _enqueue(self, request: web.Request) -> web.Response:
        read = await request.read()
        if len(read) > 512 << 10:
            return web.json_response({"message": "Payload too large"}, status=413)
        event = json.loads(read)
        if problem := self._problem(event):
            answer = {"status": "invalid event", "message": "Event object is invalid", "errors": [problem]}
            return web.json_response(answer, status=400)
        self.incidents.setdefault(event["dedup_key"], []).append(event)
        answer = {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]}
        return web.json_response(answer, status=202)

    def _problem(self, event: dict[str, Any]) -> str:
        if event.get("routing_key") != self._routing_key:
            return f"'routing_key' {event.get('routing_key')} is invalid"
        if not 0 < len(event.get("dedup_key", "")) <= 255:
            return "Length of 'dedup_key' is incorrect (should be between 1 and 255 characters)"
        if event.get("event_action") == "resolve":
            return ""
        payload = event.get("payload", {})
        if not payload.get("summary") or len(payload["summary"]) > 1024 or not payload.get("source"):
            return "'payload.summary' is missing or too long, or 'payload.source' is missing"
        return "" if payload.get("severity") in SEVERITIES else "'payload.severity' is invalid"
