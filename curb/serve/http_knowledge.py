"""HTTP: plans, silences, increases, annotations and feedback. A POST is answered after the append to the log."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from curb.connectors.intake.body import Bodies, BodyRefusedError
from curb.serve.access import Caller
from curb.serve.running import Running
from curb.stream.errors import TransientError
from curb.stream.records import spend as records
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import Knowledge
from curb.views import knowledge_input as entries


class _Kind(NamedTuple):
    path: str
    asked: type[entries.Input]
    record: type[Any]
    #: Whether DELETE /v1/<path>/{id} ends it.
    ends: bool


_KINDS = (
    _Kind("plans", entries.PlanInput, records.PlannedActivity, ends=True),
    _Kind("silences", entries.SilenceInput, records.Silence, ends=True),
    _Kind("budget-increases", entries.IncreaseInput, records.BudgetIncrease, ends=True),
    _Kind("annotations", entries.AnnotationInput, records.Annotation, ends=False),
    _Kind("feedback", entries.FeedbackInput, records.Feedback, ends=False),
)


def add_routes(app: web.Application, daemon: Running, bodies: Bodies, caller: Caller) -> None:
    """Add `GET` and `POST /v1/plans`, `/v1/silences`, `/v1/budget-increases`, `/v1/annotations`, `/v1/feedback`, and
    `DELETE /v1/<plans|silences|budget-increases>/{id}`."""
    for kind in _KINDS:
        door = _Door(daemon, kind, bodies, caller)
        app.router.add_post(f"/v1/{kind.path}", door.add)
        app.router.add_get(f"/v1/{kind.path}", door.list)
        if kind.ends:
            app.router.add_delete(f"/v1/{kind.path}/{{id}}", door.end)


class _Door:
    """One kind of knowledge. 202 it is on the log, 400 with what is wrong, 403, 404, 503 the log is away."""

    def __init__(self, daemon: Running, kind: _Kind, bodies: Bodies, caller: Caller) -> None:
        self._daemon, self._kind, self._bodies, self._caller = daemon, kind, bodies, caller

    async def add(self, request: web.Request) -> web.Response:
        try:
            asked = await self._bodies.json(request)
            record = entries.accept(self._kind.asked, asked, at=self._daemon.clock.now(), by="api")
        except BodyRefusedError as refused:
            return _problem(refused.status, refused.detail)
        except entries.NotAcceptedError as error:
            return _problem(400, str(error))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            return _problem(400, "the body is not JSON")
        except (ValueError, ArithmeticError):
            return _problem(400, "the body has a value that cannot be read")
        if self._accepts(record) and "admin" not in self._caller(request)[1]:
            return _problem(403, "this token may not admin: what fires would be the usual from then on")
        answer: dict[str, Any] = {"id": record.id}
        if isinstance(record, records.Feedback) and record.alert_id not in self._daemon.view.alerts:
            answer["warning"] = f"no alert {record.alert_id!r} is known here; the feedback is kept"
        return await self._append(record, answer)

    def _accepts(self, record: Knowledge) -> bool:
        """Whether what still fires is to be the usual."""
        if not isinstance(record, records.Feedback) or record.verdict != "not_an_anomaly":
            return False
        alert = self._daemon.view.alerts.get(record.alert_id)
        return alert is not None and alert.status == "firing"

    async def list(self, request: web.Request) -> web.Response:
        try:
            found = await entries.known(self._daemon.log, self._kind.record, self._daemon.clock.now())
        except TransientError as error:
            return _unavailable(error)
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def end(self, request: web.Request) -> web.Response:
        now = self._daemon.clock.now()
        try:
            found = await entries.known(self._daemon.log, self._kind.record, now)
        except TransientError as error:
            return _unavailable(error)
        record = next((each for each in found if each.id == request.match_info["id"]), None)
        if record is None:
            return _problem(404, f"nothing with this id is in force; see GET /v1/{self._kind.path}")
        return await self._append(entries.withdrawn(record, now, "api"), {"id": record.id})

    async def _append(self, record: Knowledge, answer: dict[str, Any]) -> web.Response:
        try:
            message = knowledge_message(record)
        except UnicodeEncodeError:
            return _problem(400, "a text that is no Unicode")
        try:
            await self._daemon.log.append([message])
        except TransientError as error:
            return _unavailable(error)
        return web.json_response(answer, status=202)


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response({"error": detail}, status=status)


def _unavailable(error: TransientError) -> web.Response:
    return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": "5"})
