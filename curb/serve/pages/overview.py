"""The first page: what is not seen, what fires and waits, burn against expected, spend, budgets and sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from curb.detector.state.registry import SeriesStatus
from curb.serve.connector_rows import of_daemon
from curb.serve.pages.burn_chart import BurnChart, draw, range_words
from curb.serve.pages.frame import ROWS, Pages
from curb.serve.pages.rows import ActionRow, action_row, series_href
from curb.serve.running import Running
from curb.serve.status import status
from curb.stream.records.spend import BudgetStatus, LedgerEntry
from curb.views.burn import RANGES, BurnOverTime
from curb.views.reconciliation import reconciliation_rows
from curb.views.series_list import SeriesWanted, find_series

_REFRESH_S = 15
#: A burn over this many times the expected one is shown as over.
_OVER = 1.5


def add_routes(app: web.Application, pages: Pages, burn: BurnOverTime) -> None:
    """Add `GET /`."""
    app.router.add_get("/", Overview(pages, burn).page)


class Overview:
    """The first page of one daemon."""

    def __init__(self, pages: Pages, burn: BurnOverTime) -> None:
        self._pages, self._daemon, self._burn = pages, pages.daemon, burn

    async def page(self, request: web.Request) -> web.Response:
        daemon = self._daemon
        scopes = [scope.name for scope in daemon.config.detector.scopes]
        scope = request.query.get("scope", "team" if "team" in scopes else scopes[0])
        chosen = request.query.get("range", "24h")
        found, sources = status(daemon), of_daemon(daemon)
        listed = find_series(daemon.shards(), SeriesWanted(scope), limit=ROWS)
        firing = daemon.view.firing()
        return self._pages.render(
            request,
            "dashboard.html",
            refresh_s=_REFRESH_S,
            status=found,
            blind=_blind(found, sources),
            sums=listed.sums,
            is_over=listed.sums.usd_per_hour > _OVER * listed.sums.expected_usd_per_hour > 0,
            at_risk_usd=sum(alert.dollars_at_risk for alert in firing),
            proposed=self._actions(found["proposed"]),
            leases=self._actions(found["leases"]),
            firing=firing[:ROWS],
            ranges=list(RANGES),
            range=chosen if chosen in RANGES else "24h",
            chart=self._chart(scope, chosen if chosen in RANGES else "24h"),
            scopes=scopes,
            scope=scope,
            spend=bars(listed.rows),
            budgets=_budgets(daemon),
            units=_unit_costs(daemon),
            pairs=reconciliation_rows(daemon.reconciliations(), daemon.config.reconcile),
            sources=sources,
        )

    def _actions(self, plain: list[dict[str, Any]]) -> list[ActionRow]:
        entries = [msgspec.convert(each, LedgerEntry, strict=False) for each in plain[:ROWS]]
        return [action_row(entry, self._daemon.view) for entry in entries]

    def _chart(self, scope: str, chosen: str) -> dict[str, Any]:
        back_s, by_hours = RANGES[chosen]
        times = [shard.event_time for shard in self._daemon.shards() if shard.event_time is not None]
        until = max(times, default=self._daemon.clock.now())
        points = self._burn.of_scope(scope, until - back_s, by_hours=by_hours)
        label = f"Dollars per hour of all {scope} series and the expected, the last {range_words(back_s)}"
        return {
            "svg": draw(BurnChart(points), label),
            "expected": "usual at this hour" if by_hours else "expected",
            "why_not": "Nothing to draw yet: minutes are drawn a few minutes after the start, hours when one is over.",
        }


#: Units of a figure for people.
_UNITS = {"requests": "request", "tokens": "1,000 tokens", "runs": "run"}
#: Subjects of one figure. By hand: a screen of a phone.
_MOST_UNITS = 10


class _Blind(NamedTuple):
    """Something that Curb does not see."""

    what: str
    why: str
    tone: str = "bad"


def _blind(found: dict[str, Any], sources: list[dict[str, Any]]) -> list[_Blind]:
    """What keeps Curb from seeing or acting, first."""
    problems = [_Blind(f"Source {row['name']}:", each) for row in sources for each in row["problems"]]
    silent = [row["name"] for row in sources if row["last_heard"] is None]
    if silent and found["series"]:
        problems.append(_Blind("Never heard of:", ", ".join(silent), "warn"))
    problems += [_Blind("Not taken:", each["says"], "warn") for each in found["refused_posts"]]
    problems += [_Blind(f"{row['scope']}:", each, "warn") for row in found["scopes"] for each in row["problems"]]
    return problems + [_Blind(f"{subject}:", why) for subject, why in found["problems"].items()]


def bars(found: Sequence[SeriesStatus]) -> list[dict[str, Any]]:
    """Series as rows with the lengths of their bars."""
    longest = max((max(row.usd_per_hour, row.expected_usd_per_hour) for row in found), default=0.0) or 1.0
    return [
        {
            **row._asdict(),
            "name": " · ".join(row.tags.values()),
            "href": series_href(row.scope, row.tags),
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
    found = [each for shard in daemon.shards() for each in shard.fullest_budgets(ROWS)[0]]
    used = [_Budget(tags, one, one.spent_usd / one.amount_usd) for tags, one in found if one.amount_usd > 0]
    return sorted(used, key=lambda row: -row.part)[:ROWS]


class _UnitCosts(NamedTuple):
    """One configured figure, such as dollars per request of each team, over the last day."""

    title: str
    rows: list[dict[str, Any]]


def _unit_costs(daemon: Running) -> list[_UnitCosts]:
    """The subjects that cost most, of each figure that has any."""
    found = []
    for wanted, rows in daemon.units.recent.rows():
        known = [row for row in rows if row["usd_per_unit"] is not None]
        known.sort(key=lambda row: -row["total_usd"])
        unit = _UNITS.get(wanted.unit, wanted.unit)
        if known:
            found.append(_UnitCosts(f"Dollars per {unit} by {', '.join(wanted.by)}", known[:_MOST_UNITS]))
    return found
