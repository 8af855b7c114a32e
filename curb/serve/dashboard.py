"""The dashboard: pages of spend per tag, alerts, leases, budgets and sources, rendered for every request.

Plain HTML without scripts. Jinja escapes every value, so a tag is never markup; the policy header forbids the rest.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any, NamedTuple

from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from curb.actions.notify import wording
from curb.detector.state.wording import duration
from curb.format import tags_text
from curb.serve.connector_rows import of_daemon
from curb.serve.http_explain import explained
from curb.serve.running import Running
from curb.serve.status import status
from curb.stream.errors import PermanentError
from curb.stream.money import usd
from curb.stream.records.spend import BudgetStatus, LedgerEntry
from curb.stream.time import iso
from curb.views.explain_chart import draw
from curb.views.reconciliation import reconciliation_rows

_REFRESH_S = 15
_MOST_ROWS = 100
#: A burn over this many times the expected one is shown as over.
_OVER = 1.5
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def add_routes(app: web.Application, daemon: Running) -> None:
    """Add `GET /`, `/alerts/{alert_id}` and `/alerts/{alert_id}/chart.png`."""
    pages = _Pages(daemon)
    app.router.add_get("/", pages.overview)
    app.router.add_get("/alerts/{alert_id}", pages.alert)
    app.router.add_get("/alerts/{alert_id}/chart.png", pages.chart)


def is_page(path: str) -> bool:
    """Whether a path is one of the dashboard's."""
    return path == "/" or path.startswith("/alerts/")


class _Pages:
    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._templates = _templates()

    async def overview(self, request: web.Request) -> web.Response:
        daemon = self._daemon
        scopes = [scope.name for scope in daemon.config.detector.scopes]
        scope = request.query.get("scope", "team" if "team" in scopes else scopes[0])
        found = reconciliation_rows(daemon.reconciliations(), daemon.config.reconcile)
        return self._page(
            "dashboard.html",
            status=status(daemon),
            scopes=scopes,
            scope=scope,
            spend=_spend(daemon, scope),
            firing=daemon.view.firing()[:_MOST_ROWS],
            budgets=_budgets(daemon),
            pairs=found,
            sources=of_daemon(daemon),
        )

    async def alert(self, request: web.Request) -> web.Response:
        alert_id = request.match_info["alert_id"]
        view = self._daemon.view
        if alert_id not in view.alerts:
            raise web.HTTPNotFound(text="no such alert, or one older than what is kept")
        entries = [entry for each in view.actions.values() for entry in each if entry.alert_id == alert_id]
        alert = view.alerts[alert_id]
        # A budget is a sum, and one revision is a single point: neither has a line to draw.
        has_chart = alert.kind != "budget" and alert.revision > 1 and importlib.util.find_spec("matplotlib") is not None
        return self._page(
            "alert.html", alert=alert, figures=wording.figures(alert), actions=_by_time(entries), chart=has_chart
        )

    async def chart(self, request: web.Request) -> web.Response:
        """404 without matplotlib, for an unknown alert, or where there is nothing to draw yet."""
        found = await explained(self._daemon, request.match_info["alert_id"])
        if isinstance(found, web.Response):
            return found
        try:
            picture = await asyncio.to_thread(draw, found)
        except (ValueError, PermanentError) as error:
            raise web.HTTPNotFound(text=str(error)) from error
        return web.Response(body=picture, content_type="image/png", headers=_HEADERS)

    def _page(self, name: str, **values: Any) -> web.Response:
        text = self._templates.get_template(name).render(refresh_s=_REFRESH_S, **values)
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("curb.serve"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"usd": _usd, "time": _time, "tags": tags_text, "percent": _percent}
    templates.filters |= {"after": lambda seconds: f"after {duration(seconds)}"}
    templates.filters |= {"spent": wording.dollars, "over": wording.over, "achieved": wording.achieved}
    return templates


def _usd(value: float | None) -> str:
    return "–" if value is None else usd(value)


def _time(at: float | None) -> str:
    return "–" if at is None else iso(at).replace("T", " ").replace("Z", " UTC")


def _percent(part: float) -> str:
    return f"{100 * min(1.0, max(0.0, part)):.1f}%"


def _spend(daemon: Running, scope: str) -> list[dict[str, Any]]:
    """The series of a scope that burn most, with the lengths of their bars."""
    found = [row for shard in daemon.shards() for row in shard.top(_MOST_ROWS, scope)]
    found.sort(key=lambda row: (-row.usd_per_hour, -row.total_usd))
    found = found[:_MOST_ROWS]
    longest = max((max(row.usd_per_hour, row.expected_usd_per_hour) for row in found), default=0.0) or 1.0
    return [
        {
            **row._asdict(),
            "name": " · ".join(row.tags.values()),
            "part": row.usd_per_hour / longest,
            "mark": row.expected_usd_per_hour / longest,
            "over": row.usd_per_hour > _OVER * row.expected_usd_per_hour > 0,
        }
        for row in found
    ]


class _Budget(NamedTuple):
    """A row of the table; `part` is how much of the amount is spent."""

    tags: dict[str, str]
    budget: BudgetStatus
    part: float


def _budgets(daemon: Running) -> list[_Budget]:
    found = [each for shard in daemon.shards() for each in shard.budgets()]
    used = [_Budget(tags, one, one.spent_usd / one.amount_usd) for tags, one in found if one.amount_usd > 0]
    return sorted(used, key=lambda row: -row.part)[:_MOST_ROWS]


def _by_time(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    return sorted(entries, key=lambda entry: entry.at)
