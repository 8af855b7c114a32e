"""OpenAI's organization usage and costs over HTTP: sums of calls that were made, in pages, with faults on demand."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from aiohttp import web

from tests.fakes.faults import Faults

KIND = "openai"
KEY = "sk-admin-test"
#: What OpenAI takes at most for each width.
LIMITS = {"1m": 1440, "1h": 168, "1d": 31}
WIDTHS_S = {"1m": 60, "1h": 3600, "1d": 86400}


class Call(NamedTuple):
    """One call to a model, as the reports count it."""

    at: float
    project: str
    key: str
    model: str
    input: int
    output: int
    cached: int = 0
    endpoint: str = "completions"
    batch: bool = False
    dollars: float = 0.0


class Organization:
    """`page_buckets` is how many buckets fit on a page; `stuck` repeats the same next page for ever; `extra` are rows
    put into the first bucket as they are."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults = Faults()
        self.page_buckets = 1440
        self.stuck = False
        self.repeats = False
        self.extra: list[Any] = []
        self.queries: list[dict[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/organization/usage/{endpoint}", self._usage)
        app.router.add_get("/organization/costs", self._costs)
        return app

    async def _usage(self, request: web.Request) -> web.Response:
        groups = request.query.getall("group_by[]", [])

        def results(calls: list[Call]) -> list[dict[str, Any]]:
            sums: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
            for call in calls:
                labels = {"project_id": call.project, "api_key_id": call.key, "model": call.model, "batch": call.batch}
                key = tuple(labels.get(group) if group in labels else None for group in groups)
                counts = {"input_tokens": call.input, "input_cached_tokens": call.cached, "output_tokens": call.output}
                sums[key].update({**counts, "num_model_requests": 1})
            return [{**dict(zip(groups, key, strict=True)), **counts} for key, counts in sums.items()]

        wanted = [call for call in self.calls if call.endpoint == request.match_info["endpoint"]]
        return self._answer(request, wanted, results)

    async def _costs(self, request: web.Request) -> web.Response:
        def results(calls: list[Call]) -> list[dict[str, Any]]:
            sums: dict[tuple[str, str], float] = defaultdict(float)
            for call in calls:
                sums[call.project, f"{call.model}, input"] += call.dollars
            return [
                {"project_id": project, "line_item": item, "amount": {"value": value, "currency": "usd"}}
                for (project, item), value in sums.items()
            ]

        return self._answer(request, self.calls, results)

    def _answer(self, request: web.Request, calls: list[Call], results: Any) -> web.Response:
        query = request.query
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, status=401)
        self.queries.append(dict(query))
        width_s, limit = WIDTHS_S[query["bucket_width"]], int(query["limit"])
        start, end = int(query["start_time"]), int(query["end_time"])
        if limit > LIMITS[query["bucket_width"]] or start >= end:
            return web.json_response({"error": {"message": "Invalid limit or span"}}, status=400)
        start -= start % width_s
        buckets = [
            {
                "object": "bucket",
                "start_time": at,
                "end_time": at + width_s,
                "results": results([call for call in calls if at <= call.at < at + width_s]),
            }
            for at in range(start, end, width_s)
        ]
        if self.extra:
            buckets[0]["results"] += self.extra
        first, size = int(query.get("page", "page_0")[5:]), min(limit, self.page_buckets)
        more = first + size < len(buckets)
        if self.repeats:  # a page that begins inside the one before
            size += 1
        following = None if not more else "page_0" if self.stuck else f"page_{first + min(limit, self.page_buckets)}"
        page = {"object": "page", "data": buckets[first : first + size], "has_more": more, "next_page": following}
        return web.json_response(page)
