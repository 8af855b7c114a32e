"""Pages of what a request, 1,000 tokens and a run cost over time: models, changes before and after, runs of jobs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from curb.serve.on_demand_runner import OnDemand
from curb.serve.pages.burn_chart import BurnChart, draw, numbered, range_words
from curb.serve.pages.frame import ROWS, Pages
from curb.serve.running import Running
from curb.stream.time import DAY_S, HOUR_S
from curb.views.explanation import Mark, Point
from curb.views.spend_reader import SpendReader
from curb.views.unit_history import ALL, JobRun, Subject, UnitHistory, Units

#: Seconds between two readings of what is new on the log, while somebody looks. By hand: figures are of whole hours.
_EVERY_S = 60.0
#: Seconds until a page looks again: while the log is read, and then. By hand.
_SOON_S, _REFRESH_S = 5, 60
#: Name and seconds of each span: of the figures, which are compared with as long before, and of the charts.
_SPANS = {"24h": DAY_S, "7d": 7 * DAY_S, "14d": 14 * DAY_S}
_CHART_S = 28 * DAY_S
#: Hours before and after a change. By hand: a day has all hours of it.
_AROUND_S = DAY_S
#: A model is a change when it is first seen so long (seconds) after the first hour known. By hand.
_NEW_AFTER_S = DAY_S
#: Runs that the last is compared with. By hand: as many as a person remembers.
_RUNS_BEFORE = 10
#: What costs more than this factor of before is shown as over. By hand.
_OVER = 1.2
_LONGEST_TAGS = 16


def add_routes(app: web.Application, pages: Pages) -> None:
    """Add `GET /models`, `/models/one` and `/models/runs`."""
    figures = _Figures(pages.daemon)
    app.on_shutdown.append(figures.close)
    models = _Models(pages, figures)
    app.router.add_get("/models", models.all)
    app.router.add_get("/models/one", models.one)
    app.router.add_get("/models/runs", models.runs)


class _Figures:
    """The history of units, as the log has it. Nothing is read before somebody looks."""

    def __init__(self, daemon: Running) -> None:
        self.history = UnitHistory(daemon.config.detector)
        self._spend = SpendReader(daemon.log, self.history.scopes, [self.history.add])
        self.reading = OnDemand("unit costs", self._spend.catch_up, _EVERY_S, daemon.clock)

    @property
    def until(self) -> float:
        """Up to where the log is read, epoch seconds."""
        return self._spend.read_until

    async def close(self, app: web.Application) -> None:
        await self.reading.close()


class _Change(NamedTuple):
    """A figure now and before, as a part of before."""

    now: float | None
    before: float | None

    @property
    def words(self) -> str:
        """ "+12 %"; "" where one of them is not known."""
        if self.now is None or not self.before:
            return ""
        percent = 100 * (self.now / self.before - 1)
        return "as before" if abs(percent) < 0.5 else f"{percent:+,.0f} %"

    @property
    def is_over(self) -> bool:
        return self.now is not None and bool(self.before) and self.now > _OVER * (self.before or 0.0)


class _Compared(NamedTuple):
    """Two sums and their figures."""

    now: Units
    before: Units

    @property
    def request(self) -> _Change:
        return _Change(self.now.usd_per_request, self.before.usd_per_request)

    @property
    def tokens(self) -> _Change:
        return _Change(self.now.usd_per_1k_tokens, self.before.usd_per_1k_tokens)


class _ModelRow(NamedTuple):
    name: str
    href: str
    sums: _Compared
    #: Of the dollars of all models.
    part: float


class _EventRow(NamedTuple):
    """Something that happened, and what units cost before and after."""

    at: float
    what: str
    subject: str
    sums: _Compared
    #: Seconds of the time after it that are known.
    after_s: float


class _JobRow(NamedTuple):
    name: str
    href: str
    runs: Sequence[JobRun]
    last: JobRun
    usd: _Change


class _Models:
    def __init__(self, pages: Pages, figures: _Figures) -> None:
        self._pages, self._figures, self._history = pages, figures, figures.history

    async def all(self, request: web.Request) -> web.Response:
        chosen = request.query.get("range", "24h")
        if chosen not in _SPANS:
            return self._refused(request, 400, f"range is one of {', '.join(_SPANS)}.")
        models = self._models(_SPANS[chosen])
        jobs = self._jobs()
        return self._render(
            request,
            "models.html",
            ranges=list(_SPANS),
            range=chosen,
            span=range_words(_SPANS[chosen]),
            models=models[:ROWS],
            more_models=max(0, len(models) - ROWS),
            all=self._compared(ALL, _SPANS[chosen]),
            chart=self._chart(ALL, "request"),
            events=self._events(),
            jobs=jobs[:ROWS],
            more_jobs=max(0, len(jobs) - ROWS),
        )

    async def one(self, request: web.Request) -> web.Response:
        subject = _subject(request)
        if not subject or not self._history.knows(subject):
            return self._refused(request, 404, self._unknown("There is no such model or owner."))
        return self._render(
            request,
            "one_model.html",
            subject=_name(subject),
            spans=[(range_words(span_s), self._compared(subject, span_s)) for span_s in _SPANS.values()],
            since=self._history.first_seen(subject),
            request_chart=self._chart(subject, "request"),
            token_chart=self._chart(subject, "tokens"),
        )

    async def runs(self, request: web.Request) -> web.Response:
        subject = _subject(request)
        runs = self._history.jobs().get(subject)
        if not runs:
            return self._refused(request, 404, self._unknown("There is no such job."))
        return self._render(
            request,
            "runs.html",
            subject=_name(subject),
            runs=list(reversed(runs)),
            most_usd=max(each.usd for each in runs) or 1.0,
            usual=statistics.median(each.usd for each in runs),
            units=[Units(each.usd, each.requests, each.tokens) for each in reversed(runs)],
        )

    def _unknown(self, why: str) -> str:
        done = self._figures.reading.done_at is not None
        return why if done else f"{why} The log is being read; load the page again in a moment."

    def _refused(self, request: web.Request, status: int, why: str) -> web.Response:
        self._figures.reading.want()
        return self._pages.render(request, "refused.html", code=status, why=why)

    def _render(self, request: web.Request, template: str, **values: Any) -> web.Response:
        figures = self._figures
        figures.reading.want()
        is_first = figures.reading.done_at is None
        return self._pages.render(
            request,
            template,
            refresh_s=_SOON_S if is_first else _REFRESH_S,
            reading=figures.reading,
            read_until=figures.until,
            left_out=len(self._history.left_out),
            **values,
        )

    # --- figures ----------------------------------------------------------------------------------------------------

    def _compared(self, subject: Subject, span_s: float) -> _Compared:
        """The last whole hours, and as many before; without these where the log does not go back so far."""
        until, history = self._history.until, self._history
        before = Units()
        if history.since <= until - 2 * span_s:
            before = history.between(subject, until - 2 * span_s, until - span_s)
        return _Compared(history.between(subject, until - span_s, until), before)

    def _models(self, span_s: float) -> list[_ModelRow]:
        found = [(subject, self._compared(subject, span_s)) for subject in self._history.models()]
        whole = sum(sums.now.usd for _, sums in found) or 1.0
        rows = [
            _ModelRow(_name(subject), _href("/models/one", subject), sums, sums.now.usd / whole)
            for subject, sums in found
            if sums.now.requests or sums.now.usd
        ]
        return sorted(rows, key=lambda row: -row.sums.now.usd)

    def _events(self) -> list[_EventRow]:
        """Deploys, launches and new models, the newest first."""
        history, models = self._history, self._history.models()
        seen = ((history.first_seen(subject), f"new model: {_name(subject)}", ALL) for subject in models)
        found = [each for each in seen if each[0] >= history.since + _NEW_AFTER_S]
        for said in islice(reversed(self._pages.daemon.view.annotations.values()), ROWS):
            owner = history.owner_of(said.tags)
            if owner is not None and said.kind != "note" and said.at >= history.since:
                found.append((said.at, f"{said.kind}: {said.text}".rstrip(": "), owner))
        newest = sorted(found, key=lambda each: -each[0])[:ROWS]
        return [self._event(*each) for each in newest]

    def _event(self, at: float, what: str, subject: Subject) -> _EventRow:
        """Whole hours before and after the hour in which it happened."""
        history, hour = self._history, at // HOUR_S * HOUR_S
        begin = hour if at == hour else hour + HOUR_S
        after = history.between(subject, begin, begin + _AROUND_S)
        before = history.between(subject, hour - _AROUND_S, hour)
        known_s = min(_AROUND_S, max(0.0, history.until - begin))
        return _EventRow(at, what, _name(subject) or "all", _Compared(after, before), known_s)

    def _jobs(self) -> list[_JobRow]:
        """The job that ran last first."""
        rows = []
        for job, runs in self._history.jobs().items():
            before = [run.usd for run in runs[-1 - _RUNS_BEFORE : -1]]
            change = _Change(runs[-1].usd, statistics.median(before) if before else None)
            rows.append(_JobRow(_name(job), _href("/models/runs", job), runs, runs[-1], change))
        return sorted(rows, key=lambda row: -row.last.end)

    def _chart(self, subject: Subject, unit: str) -> dict[str, Any]:
        hours, (usd, requests, tokens) = self._history.hourly(subject, self._history.until - _CHART_S)
        each = _quotient(usd, requests) if unit == "request" else 1000 * _quotient(usd, tokens)
        points = [
            Point(float(at) + HOUR_S / 2, float(value), float("nan")) for at, value in zip(hours, each, strict=True)
        ]
        known = [point for point in points if np.isfinite(point.usd_per_hour)]
        marks = [Mark(event.at, event.what) for event in self._events()] if known else []
        chart = BurnChart(points, marks=marks)
        words = "a request" if unit == "request" else "1,000 tokens"
        return {
            "svg": draw(chart, f"Dollars of {words}, hour by hour") if len(known) > 1 else None,
            "actual": f"dollars of {words}",
            "marks": numbered(chart),
            "why_not": "Nothing to draw yet: two hours with calls are needed.",
        }


def _quotient(usd: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dollars of a unit by hour; NaN where there was none."""
    found = np.full(len(usd), np.nan)
    np.divide(usd, units, out=found, where=units > 0)
    return found


def _subject(request: web.Request) -> Subject:
    pairs = [each.partition("=") for each in request.query.getall("tag", [])[:_LONGEST_TAGS]]
    return tuple((key, value) for key, _, value in pairs)


def _href(path: str, subject: Subject) -> str:
    return f"{path}?" + urlencode([("tag", f"{key}={value}") for key, value in subject])


def _name(subject: Subject) -> str:
    return " · ".join(value for _, value in subject)
