"""The explorer of series: search, filters by tags, the way down from team to model, and the page of one series."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from curb.detector.state.scopes import Scope
from curb.serve.pages.burn_chart import BurnChart, draw, range_words
from curb.serve.pages.frame import ROWS, Pages
from curb.serve.pages.overview import bars
from curb.serve.pages.rows import series_href
from curb.stream.records.spend import Alert
from curb.views.burn import RANGES, BurnOverTime
from curb.views.explanation import Mark
from curb.views.series_list import ORDERS, SeriesCursor, SeriesFound, SeriesWanted, find_series

_REFRESH_S = 30
#: Characters of a search, and tags of a filter. By hand.
_LONGEST_SEARCH, _MOST_TAGS = 200, 16


def add_routes(app: web.Application, pages: Pages, burn: BurnOverTime) -> None:
    """Add `GET /series` and `/series/one`."""
    explorer = _Explorer(pages, burn)
    app.router.add_get("/series", explorer.find)
    app.router.add_get("/series/one", explorer.one)


class Link(NamedTuple):
    """A link with its text."""

    text: str
    href: str


class _Explorer:
    def __init__(self, pages: Pages, burn: BurnOverTime) -> None:
        self._pages, self._daemon, self._burn = pages, pages.daemon, burn
        self._scopes = {scope.name: scope for scope in pages.daemon.config.detector.scopes}

    async def find(self, request: web.Request) -> web.Response:
        try:
            wanted, after = self._wanted(request), _cursor(request)
        except ValueError as error:
            return self._pages.render(request, "refused.html", code=400, why=str(error))
        found = find_series(self._daemon.shards(), wanted, limit=ROWS, after=after)
        rows = [
            {**row, "below": self._below(wanted.scope, row["tags"], grouped=bool(wanted.by))}
            for row in bars(found.rows)
        ]
        return self._pages.render(
            request,
            "series.html",
            refresh_s=_REFRESH_S,
            wanted=wanted,
            scopes=[Link(name, _href(wanted._replace(scope=name))) for name in self._scopes],
            orders=ORDERS,
            tags=_tags_of(self._scopes[wanted.scope]),
            filters=[Link(f"{key}={value}", _href(_without(wanted, key))) for key, value in wanted.tags.items()],
            rows=rows,
            sums=found.sums,
            first=_href(wanted) if after is not None else "",
            next_page=_next(wanted, found),
        )

    async def one(self, request: web.Request) -> web.Response:
        chosen = request.query.get("range", "24h")
        try:
            wanted = self._wanted(request)
            if chosen not in RANGES:
                raise ValueError(f"range is one of {', '.join(RANGES)}.")
        except ValueError as error:
            return self._pages.render(request, "refused.html", code=400, why=str(error))
        found = find_series(self._daemon.shards(), wanted, limit=ROWS)
        row = next((each for each in found.rows if each.tags == wanted.tags), None)
        if row is None:
            return self._pages.render(request, "refused.html", code=404, why="There is no such series.")
        alerts = self._alerts(wanted)
        return self._pages.render(
            request,
            "one_series.html",
            refresh_s=_REFRESH_S,
            row=row,
            up=_href(SeriesWanted(wanted.scope)),
            below=self._below(wanted.scope, row.tags),
            ranges=[Link(name, f"{series_href(wanted.scope, row.tags)}&range={name}") for name in RANGES],
            range=chosen,
            chart=self._chart(wanted, chosen, alerts),
            alerts=alerts[:ROWS],
        )

    def _wanted(self, request: web.Request) -> SeriesWanted:
        """ValueError with the reason for what cannot be meant."""
        query = request.query
        default = "team" if "team" in self._scopes else next(iter(self._scopes))
        scope, order = query.get("scope", default), query.get("sort", "burn")
        if scope not in self._scopes:
            raise ValueError(f"There is no such scope; there are: {', '.join(self._scopes)}.")
        if order not in ORDERS:
            raise ValueError(f"sort is one of {', '.join(ORDERS)}.")
        pairs = [each.partition("=") for each in query.getall("tag", [])]
        if len(pairs) > _MOST_TAGS or not all(key and sign for key, sign, _ in pairs):
            raise ValueError(f"A tag is key=value; there are at most {_MOST_TAGS}.")
        words = query.get("q", "")
        if len(words) > _LONGEST_SEARCH:
            raise ValueError(f"A search has at most {_LONGEST_SEARCH} characters.")
        tags = {key: value for key, _, value in pairs}
        by = query.get("by", "")
        if by and by not in _tags_of(self._scopes[scope]):
            raise ValueError(f"by is a tag of the scope: {', '.join(_tags_of(self._scopes[scope]))}.")
        return SeriesWanted(scope, tags, words, order, by)

    def _below(self, scope: str, tags: dict[str, str], *, grouped: bool = False) -> list[Link]:
        """The way down: its parts by each tag of the scopes that have all its tags and more."""
        found: dict[str, Link] = {}
        for name, each in self._scopes.items():
            more = [tag for tag in each.group_by if tag not in tags]
            if not more or not set(_tags_of(each)) >= tags.keys() or (name == scope and not grouped):
                continue
            for tag in more:
                by = "" if tag == more[-1] and len(more) == 1 else tag
                found.setdefault(tag, Link(tag, _href(SeriesWanted(name, tags, by=by))))
        return list(found.values())

    def _alerts(self, wanted: SeriesWanted) -> list[Alert]:
        """Alerts on it and on its parts, newest first."""
        items = wanted.tags.items()
        return [alert for alert in reversed(self._daemon.view.alerts.values()) if items <= alert.tags.items()]

    def _chart(self, wanted: SeriesWanted, chosen: str, alerts: list[Alert]) -> dict[str, Any]:
        back_s, by_hours = RANGES[chosen]
        times = [shard.event_time for shard in self._daemon.shards() if shard.event_time is not None]
        since = max(times, default=self._daemon.clock.now()) - back_s
        points = self._burn.of_series(wanted.scope, wanted.tags, since, by_hours=by_hours)
        marks = [Mark(alert.started_at, f"{alert.tier} {alert.kind}") for alert in alerts if alert.tags == wanted.tags]
        return {
            "svg": draw(BurnChart(points, marks=marks), f"Dollars per hour, the last {range_words(back_s)}"),
            "expected": "usual at this hour" if by_hours else "expected",
            "why_not": "Nothing to draw: only series that cost most keep a history.",
        }


def _tags_of(scope: Scope) -> tuple[str, ...]:
    return (*scope.group_by, *scope.also_by)


def _cursor(request: web.Request) -> SeriesCursor | None:
    text = request.query.get("after", "")
    found = SeriesCursor.read(text) if text else None
    if text and found is None:
        raise ValueError("The page to go on from cannot be read; begin with the first page.")
    return found


def _without(wanted: SeriesWanted, key: str) -> SeriesWanted:
    return wanted._replace(tags={name: value for name, value in wanted.tags.items() if name != key})


def _next(wanted: SeriesWanted, found: SeriesFound) -> str:
    return "" if found.next is None else f"{_href(wanted)}&{urlencode({'after': str(found.next)})}"


def _href(wanted: SeriesWanted) -> str:
    pairs = [("scope", wanted.scope), *(("tag", f"{key}={value}") for key, value in wanted.tags.items())]
    pairs += [("q", wanted.words)] if wanted.words else []
    pairs += [("sort", wanted.order)] if wanted.order != "burn" else []
    pairs += [("by", wanted.by)] if wanted.by else []
    return "/series?" + urlencode(pairs)
