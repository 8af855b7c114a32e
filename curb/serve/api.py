"""The daemon's HTTP port: health, metrics, the read API, commands, and the inbox of push connectors."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from curb.connectors.intake.body import HELD_BYTES, Bodies, BodyRefusedError
from curb.connectors.intake.inbox import add_routes
from curb.serve import http_explain, http_knowledge, proposals, slack_people
from curb.serve.acceptor import health
from curb.serve.access import Access, Caller, Handler
from curb.serve.connector_rows import of_daemon
from curb.serve.money_metrics import MoneyMetrics
from curb.serve.openapi import document
from curb.serve.pages import events, exposure, history, incident, models, overview, presses, series, sign_in
from curb.serve.pages.frame import Pages, add_static_routes
from curb.serve.pages.sessions import Sessions
from curb.serve.problems import as_problems, checked_filters
from curb.serve.running import Running
from curb.serve.status import readiness, refused_posts, status
from curb.stream import metrics
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import BudgetStatus, Command
from curb.views.burn import BurnOverTime
from curb.views.reconciliation import reconciliation_rows

#: Alerts and actions in one answer, unless ?limit= says otherwise.
_LIMIT = 200


def make_app(daemon: Running, doors: slack_people.Doors) -> web.Application:
    """The application of one daemon; Slack's signed requests go to `doors`."""
    http = daemon.config.http
    body_bytes = int(http.max_body_mib * 1024 * 1024)
    bodies = Bodies(http.body_timeout_s, max(HELD_BYTES, 4 * body_bytes))
    scopes = [scope.name for scope in daemon.config.detector.scopes]
    sessions = Sessions(daemon.clock)
    access = Access(http, sessions)
    api = _Api(daemon, bodies, access.caller)
    app = web.Application(
        middlewares=[guarded, as_problems, access.check, checked_filters(scopes)], client_max_size=body_bytes
    )
    app.router.add_get("/healthz", api.healthz)
    app.router.add_get("/readyz", api.readyz)
    app.router.add_get("/metrics", api.metrics)
    app.router.add_get("/openapi.json", api.openapi)
    app.router.add_get("/v1/status", api.status)
    app.router.add_get("/v1/alerts", api.alerts)
    app.router.add_get("/v1/alerts/{alert_id}", api.alert)
    app.router.add_get("/v1/actions", api.actions)
    app.router.add_get("/v1/actions/{action_id}", api.action)
    app.router.add_get("/v1/spend", api.spend)
    app.router.add_get("/v1/budgets", api.budgets)
    app.router.add_get("/v1/forecast", api.forecast)
    app.router.add_get("/v1/connectors", api.connectors)
    app.router.add_get("/v1/unit-costs", api.unit_costs)
    app.router.add_get("/v1/reconciliation", api.reconciliation)
    app.router.add_post("/v1/commands", api.command)
    _add_pages(app, Pages(daemon, sessions, access.caller), bodies)
    sign_in.add_routes(app, sessions, access, bodies)
    http_knowledge.add_routes(app, daemon, bodies, access.caller)
    http_explain.add_routes(app, daemon)
    proposals.add_routes(app, daemon, bodies, access.caller)
    slack_people.add_routes(app, doors, bodies)
    sources, refused = daemon.connectors.sources, daemon.connectors.refused_posts
    add_routes(app, sources, daemon.log, daemon.clock, bodies, lambda: _behind_s(daemon), http.max_lag_s, refused)
    return app


def _add_pages(app: web.Application, pages: Pages, bodies: Bodies) -> None:
    daemon = pages.daemon
    burn = BurnOverTime(daemon.shards, daemon.recent)
    overview.add_routes(app, pages, burn)
    incident.add_routes(app, pages, daemon.recent)
    series.add_routes(app, pages, burn)
    history.add_routes(app, pages)
    exposure.add_routes(app, pages)
    models.add_routes(app, pages)
    presses.add_routes(app, pages, bodies)
    http = daemon.config.http
    events.add_routes(app, pages, min(http.max_streams, http.max_connections // 4))
    add_static_routes(app)


def _behind_s(daemon: Running) -> float:
    """How far (seconds) Curb is behind what is on the log."""
    return max(daemon.lag_s().values(), default=0.0)


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A client that went away while it sent its body is no defect, and nothing to log."""
    try:
        return await handler(request)
    except ConnectionError:
        return web.Response(status=400)  # nobody reads it


class _Api:
    def __init__(self, daemon: Running, bodies: Bodies, caller: Caller) -> None:
        self._daemon, self._bodies, self._caller = daemon, bodies, caller
        self._metrics = MoneyMetrics(daemon)
        self._document = document([scope.name for scope in daemon.config.detector.scopes])

    async def healthz(self, request: web.Request) -> web.Response:
        """The answer for who asks on a connection that it keeps, or with a token; the acceptor answers all others."""
        return web.json_response(health(0.0)[1])

    async def readyz(self, request: web.Request) -> web.Response:
        ready = readiness(self._daemon)
        return web.json_response(ready, status=200 if ready["ready"] else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        for worker, lag_s in self._daemon.lag_s().items():
            metrics.LAG_SECONDS.labels(worker=worker).set(lag_s)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: web.Request) -> web.Response:
        return _json(self._document)

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(status(self._daemon))

    async def alerts(self, request: web.Request) -> web.Response:
        wanted = request.query.get("status")
        found = [a for a in reversed(self._daemon.view.alerts.values()) if wanted in (None, a.status)]
        return _json(found[: _limit(request)])

    async def alert(self, request: web.Request) -> web.Response:
        alert_id = request.match_info["alert_id"]
        view = self._daemon.view
        if alert_id not in view.alerts:
            return web.json_response({"error": "no such alert"}, status=404)
        actions = [e for entries in view.actions.values() for e in entries if e.alert_id == alert_id]
        alert = view.alerts[alert_id]
        return _json({"alert": alert, "actions": actions, "may_propose": proposals.may_propose(self._daemon, alert)})

    async def actions(self, request: web.Request) -> web.Response:
        newest = [entries[-1] for entries in reversed(self._daemon.view.actions.values())]
        return _json(newest[: _limit(request)])

    async def action(self, request: web.Request) -> web.Response:
        entries = self._daemon.view.actions.get(request.match_info["action_id"])
        if entries is None:
            return web.json_response({"error": "no such action"}, status=404)
        return _json(entries)

    async def budgets(self, request: web.Request) -> web.Response:
        shards = self._daemon.shards()
        every = "limit" not in request.query
        found = (shard.budgets() if every else shard.fullest_budgets(_limit(request))[0] for shard in shards)
        return web.Response(body=budgets_json(row for rows in found for row in rows), content_type="application/json")

    async def forecast(self, request: web.Request) -> web.Response:
        scope = request.query.get("scope", "team")
        return web.json_response(await self._daemon.forecasts.report(scope, _limit(request)))

    async def unit_costs(self, request: web.Request) -> web.Response:
        found = self._daemon.units.recent.rows()
        return web.json_response({"unit_costs": [{"by": w.by, "unit": w.unit, "rows": rows} for w, rows in found]})

    async def connectors(self, request: web.Request) -> web.Response:
        refused = refused_posts(self._daemon)
        return web.json_response({"connectors": of_daemon(self._daemon), "refused_posts": refused})

    async def reconciliation(self, request: web.Request) -> web.Response:
        found = reconciliation_rows(self._daemon.reconciliations(), self._daemon.config.reconcile)
        return web.json_response({"pairs": found})

    async def spend(self, request: web.Request) -> web.Response:
        scope = request.query.get("scope", "key")
        rows = [row._asdict() for shard in self._daemon.shards() for row in shard.top(_limit(request), scope)]
        rows.sort(key=lambda row: -row["usd_per_hour"])
        return web.json_response({"scope": scope, "series": rows[: _limit(request)]})

    async def command(self, request: web.Request) -> web.Response:
        try:
            body = await self._bodies.json(request)
            who, roles = self._caller(request)
            if "operate" not in roles:
                if body.get("kind") not in ("approve", "deny"):
                    return web.json_response({"error": "this token may only approve and deny"}, status=403)
                body["by"] = who  # it answers in no name but its own
            command = msgspec.convert(
                {
                    **body,
                    "id": str(uuid.uuid4()),
                    "at": self._daemon.clock.now(),
                    "by": by[:128] if isinstance(by := body.get("by", "api"), str) else by,
                },
                Command,
            )
            message = Message(COMMANDS, encode(command), key=command.kind.encode())
        except BodyRefusedError as refused:
            return web.json_response({"error": refused.detail}, status=refused.status)
        except UnicodeEncodeError:
            return web.json_response({"error": "not a command: a text that is no Unicode"}, status=400)
        except (ValueError, msgspec.ValidationError, TypeError, RecursionError, OverflowError) as error:
            return web.json_response({"error": f"not a command: {error}"}, status=400)
        try:
            await self._daemon.log.append([message])
        except TransientError as error:
            return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": "5"})
        return web.json_response({"id": command.id}, status=202)


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def budgets_json(rows: Iterable[tuple[dict[str, str], BudgetStatus]]) -> bytes:
    """The answer with these rows; each is encoded once and gets its tags in front, as there may be 100,000."""
    encode = msgspec.json.encode
    return b'{"budgets":[%b]}' % b",".join(
        b'{"tags":%b,%b' % (encode(tags), encode(status)[1:]) for tags, status in rows
    )


def _limit(request: web.Request) -> int:
    try:
        return max(1, min(10_000, int(request.query.get("limit", _LIMIT))))
    except ValueError:
        return _LIMIT
