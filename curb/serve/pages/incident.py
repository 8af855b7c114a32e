"""The page of an incident: what happened, what Curb did and saved, what to do, and the buttons for it."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from curb.actions.ledger.ledger import IN_FORCE
from curb.actions.notify import wording
from curb.serve.http_explain import explained
from curb.serve.pages.burn_chart import BurnChart, draw, numbered
from curb.serve.pages.frame import HEADERS, Pages
from curb.serve.pages.rows import action_row, newest_of, series_href
from curb.serve.pages.what_to_do import WHAT_TO_DO
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, LedgerEntry
from curb.views.explain_chart import draw as draw_picture
from curb.views.explanation import Mark, Point, usual_range
from curb.views.recent_burn import RecentBurn

_REFRESH_S = 10
#: Figures that follow from two others.
_LATER = frozenset({"Over expected", "Money"})
#: Hours that planned work is proposed for. By hand: a working day.
_PLANNED_H = 8.0
#: Seconds that the chart begins before the incident, at most so long before its report.
_BEFORE_S, _LONGEST_BEFORE_S = 2 * 3600.0, 12 * 3600.0


def add_routes(app: web.Application, pages: Pages, recent: RecentBurn) -> None:
    """Add `GET /alerts/{alert_id}` and `/alerts/{alert_id}/chart.png`."""
    incident = _Incident(pages, recent)
    app.router.add_get("/alerts/{alert_id}", incident.page)
    app.router.add_get("/alerts/{alert_id}/chart.png", incident.picture)


class _Incident:
    def __init__(self, pages: Pages, recent: RecentBurn) -> None:
        self._pages, self._daemon, self._recent = pages, pages.daemon, recent

    async def page(self, request: web.Request) -> web.Response:
        view = self._daemon.view
        alert = view.alerts.get(request.match_info["alert_id"])
        if alert is None:
            why = "There is no such alert, or it is older than what is kept."
            return self._pages.render(request, "refused.html", code=404, why=why)
        ledger = view.entries_of(alert.alert_id)
        newest = newest_of(ledger)
        rate = wording.excess_rate(alert)
        return self._pages.render(
            request,
            "alert.html",
            refresh_s=_REFRESH_S,
            alert=alert,
            figures=_figures(alert),
            saved=sum(entry.saved_usd or 0.0 for entry in newest),
            refused=sum(entry.rejected or 0 for entry in newest),
            actions=[action_row(entry, view) for entry in newest if entry.plan.target],
            ledger=ledger,
            said=view.feedback.get(alert.alert_id, []),
            # What is no spend cannot be an anomaly of spend, nor planned.
            is_spend=wording.has_rate(alert),
            suggested_usd=max(1, math.ceil(rate * _PLANNED_H)),
            chart=self._chart(alert, ledger),
            series_href=series_href(alert.scope, alert.tags),
            what_to_do=WHAT_TO_DO[alert.kind],
        )

    def _chart(self, alert: Alert, ledger: Sequence[LedgerEntry]) -> dict[str, Any]:
        if not wording.has_rate(alert):
            return {"svg": None, "why_not": "This alert is about no rate of spend, so there is no line to draw."}
        points = self._points(alert)
        leases, without = _leases(ledger, points), _without(ledger, points)
        # Of all that is remembered from before it, not of the part that is drawn.
        band = usual_range([point for point in self._recent.points(alert) if point.at < alert.started_at])
        unit = "day" if wording.is_by_day(alert) else "hour"
        if unit == "day":
            points = [Point(each.at, 24 * each.usd_per_hour, 24 * each.expected_usd_per_hour) for each in points]
            without = [(at, 24 * rate) for at, rate in without]
        chart = BurnChart(points, band, without, _marks(alert, ledger), leases)
        return {
            "svg": draw(chart, f"Dollars per {unit} of this series against the expected, with what Curb did"),
            "actual": f"spent, $ per {unit}",
            "expected": "expected",
            "has_band": band is not None,
            "has_without": bool(without),
            "has_leases": bool(leases),
            "marks": numbered(chart),
            "why_not": "The burn is known at fewer than two moments: there is nothing to draw yet.",
        }

    def _points(self, alert: Alert) -> list[Point]:
        """Samples of the series, and the revisions of the alert between them."""
        begin = max(alert.started_at - _BEFORE_S, alert.fired_at - _LONGEST_BEFORE_S)
        found = {point.at: point for point in self._recent.points(alert)}
        for at, rate, expected in self._daemon.view.burn_of(alert.alert_id):
            found[at] = Point(at, rate, expected)
        end = math.inf if alert.resolved_at is None else alert.resolved_at + _BEFORE_S
        return [found[at] for at in sorted(found) if begin <= at <= end]

    async def picture(self, request: web.Request) -> web.Response:
        """404 without matplotlib, for an unknown alert, or where there is nothing to draw yet."""
        found = await explained(self._daemon, request.match_info["alert_id"])
        if isinstance(found, web.Response):
            return found
        if importlib.util.find_spec("matplotlib") is None:
            raise web.HTTPNotFound(text='pictures need the extra "charts"')
        try:
            picture = await asyncio.to_thread(draw_picture, found)
        except (ValueError, PermanentError) as error:
            raise web.HTTPNotFound(text=str(error)) from error
        return web.Response(body=picture, content_type="image/png", headers=HEADERS)


def _figures(alert: Alert) -> list[tuple[str, str]]:
    """What matters most first; what follows from two others last."""
    found = wording.figures(alert)
    return sorted(found, key=lambda pair: pair[0] in _LATER)


def _marks(alert: Alert, ledger: Sequence[LedgerEntry]) -> list[Mark]:
    found = [Mark(alert.started_at, "it starts"), Mark(alert.fired_at, "reported")]
    for entry in ledger:
        if entry.state in ("proposed", "applied", "restored", "drift", "failed", "denied"):
            found.append(Mark(entry.at, f"{entry.state}: {wording.clean(entry.plan.summary)}"))
    if alert.resolved_at is not None:
        found.append(Mark(alert.resolved_at, "resolved"))
    return found


def _leases(ledger: Sequence[LedgerEntry], points: Sequence[Point]) -> list[tuple[float, float]]:
    """When limits were in force: from the first entry that says so to the first that says otherwise."""
    found, since = [], dict[str, float]()
    for entry in ledger:
        if entry.state in IN_FORCE:
            since.setdefault(entry.action_id, entry.at)
        elif entry.action_id in since:
            found.append((since.pop(entry.action_id), entry.at))
    until = points[-1].at if points else 0.0
    return found + [(begin, until) for begin in since.values() if begin < until]


def _without(ledger: Sequence[LedgerEntry], points: Sequence[Point]) -> list[tuple[float, float]]:
    """What would have been burned: the burn before the first action, as long as a limit is in force.

    The dollars saved are counted in the same way.
    """
    leases = _leases(ledger, points)
    before = next((entry.usd_per_hour_before for entry in ledger if entry.state in IN_FORCE), None)
    if not leases or before is None:
        return []
    return [(min(begin for begin, _ in leases), before), (max(end for _, end in leases), before)]
