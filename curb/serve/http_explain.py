"""HTTP: the explanation of an alert."""

from __future__ import annotations

import msgspec
from aiohttp import web

from curb.serve.running import Running
from curb.stream.errors import TransientError
from curb.views.explanation import BudgetLine, Explanation, NoSuchAlertError, explain, read_log


def add_routes(app: web.Application, daemon: Running) -> None:
    """Add `GET /v1/alerts/{alert_id}/explain`: an `Explanation`; 404 for no such alert, 503 when the log is away."""
    app.router.add_get("/v1/alerts/{alert_id}/explain", _Door(daemon).explain)


class _Door:
    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon

    async def explain(self, request: web.Request) -> web.Response:
        found = await explained(self._daemon, request.match_info["alert_id"])
        if isinstance(found, web.Response):
            return found
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")


async def explained(daemon: Running, alert_id: str) -> Explanation | web.Response:
    """The explanation of an alert with the budgets as they stand, or the answer that says why there is none."""
    if alert_id not in daemon.view.alerts:
        return web.json_response({"error": "no such alert"}, status=404)
    try:
        recorded = await read_log(daemon.log, alert_id)
    except TransientError as error:
        return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": "5"})
    recorded.budgets = [BudgetLine(tags, budget) for shard in daemon.shards() for tags, budget in shard.budgets()]
    try:
        return explain(alert_id, recorded, daemon.config.detector)
    except NoSuchAlertError:  # older than what the log keeps
        return web.json_response({"error": "no such alert on the log any more"}, status=404)
