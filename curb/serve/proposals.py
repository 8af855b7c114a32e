"""HTTP: what a person or an assistant proposes for approval. Nothing is done without an approval by a person."""

from __future__ import annotations

import uuid

import msgspec
from aiohttp import web

from curb.actions.notify.wording import clean
from curb.actions.policy.routing import decide
from curb.connectors.intake.body import Bodies, BodyRefusedError
from curb.serve.access import Caller
from curb.serve.answers import ProposalInput
from curb.serve.running import Running
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import Alert, Command

#: Characters of a reason. By hand: a sentence.
_LONGEST_REASON = 300


def may_propose(daemon: Running, alert: Alert) -> list[str]:
    """The actions that the routes have for an alert, by name; none where it is over."""
    if alert.status != "firing":
        return []
    return list(dict.fromkeys(act.name for act in decide(alert, daemon.config.actions).act))


def add_routes(app: web.Application, daemon: Running, bodies: Bodies, caller: Caller) -> None:
    """Add `POST /v1/proposals`: 202 it is on the log, 400, 404 no such alert, 409 with what may be proposed, 503."""

    async def propose(request: web.Request) -> web.Response:
        try:
            asked = msgspec.convert(await bodies.json(request), ProposalInput)
            alert_id, action = asked.alert_id, asked.action
            alert = daemon.view.alerts.get(alert_id)
            if alert is None:
                return _problem(404, "no such alert")
            may = may_propose(daemon, alert)
            if action not in may:
                what = f"its routes have {', '.join(may)}" if may else f"it is {alert.status} and has no action"
                return _problem(409, f"{clean(action)!r} cannot be proposed for this alert: {what}")
            args = {"alert_id": alert_id, "action": action, "reason": clean(asked.reason, _LONGEST_REASON)}
            now, by = daemon.clock.now(), caller(request)[0]
            command = Command(id=f"propose-{uuid.uuid4()}", kind="propose", at=now, by=by, args=args)
            message = Message(COMMANDS, encode(command), key=b"propose")
        except BodyRefusedError as refused:
            return _problem(refused.status, refused.detail)
        except UnicodeEncodeError:
            return _problem(400, "not a proposal: a text that is no Unicode")
        except (ValueError, msgspec.ValidationError, TypeError, RecursionError, OverflowError) as error:
            return _problem(400, f"not a proposal: {error}")
        try:
            await daemon.log.append([message])
        except TransientError as error:
            return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": "5"})
        return web.json_response({"id": command.id}, status=202)

    app.router.add_post("/v1/proposals", propose)


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response({"error": detail}, status=status)
