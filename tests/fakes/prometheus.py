"""A server with Prometheus' query API: series that are functions of time; faults and odd answers on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

KIND = "prometheus"
Labels = dict[str, str]
#: What a query gives at a time: labels and value of each series that has one then.
Answer = Callable[[float], list[tuple[Labels, float]]]


class PrometheusServer:
    """`answers` is by a text that is part of the query; a query that none fits has no series."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.faults = Faults()
        self.queries: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.partial = False
        #: (status, body, content type) instead of the next answers.
        self.odd: list[tuple[int, str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/api/v1/query_range", self._query_range)
        return app

    async def _query_range(self, request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.queries.append(form)
        self.headers.append(dict(request.headers))
        if self.odd:
            status, text, content_type = self.odd.pop(0)
            return web.Response(status=status, text=text, content_type=content_type)
        answer = next((each for part, each in self.answers.items() if part in form["query"]), lambda at: [])
        data = {"resultType": "matrix", "result": _matrix(answer, form)}
        body: dict[str, Any] = {"status": "success", "data": data}
        if self.warnings:
            body["warnings"] = self.warnings
        if self.partial:
            body["isPartial"] = True
        return web.json_response(body)


def _matrix(answer: Answer, form: dict[str, str]) -> list[dict[str, Any]]:
    start, end, step = (float(form[key]) for key in ("start", "end", "step"))
    series: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    for number in range(round((end - start) / step) + 1):
        at = start + number * step
        for labels, value in answer(at):
            series.setdefault(tuple(labels.items()), []).append([at, str(value)])
    return [{"metric": dict(labels), "values": values} for labels, values in series.items()]
