"""Anthropic's usage and cost reports over HTTP: sums of calls that were made, in pages, with faults on demand."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults
from tests.fakes.openai import WIDTHS_S, Call

KIND = "anthropic"
KEY = "sk-ant-admin-test"
LIMITS = {"1m": 1440, "1h": 168, "1d": 31}


class Organization:
    """The same knobs as the fake of OpenAI's organization. Project "" is the default workspace, key "" the Console."""

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
        app.router.add_get("/v1/organizations/usage_report/messages", self._usage)
        app.router.add_get("/v1/organizations/cost_report", self._costs)
        return app

    async def _usage(self, request: web.Request) -> web.Response:
        def results(calls: list[Call]) -> list[dict[str, Any]]:
            sums: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
            for call in calls:
                counts = {"in": call.input - call.cached, "out": call.output, "read": call.cached}
                sums[call.project, call.key, call.model].update(counts)
            return [
                {
                    "workspace_id": project or None,
                    "api_key_id": key or None,
                    "model": model,
                    "service_tier": "standard",
                    "context_window": None,
                    "uncached_input_tokens": counts["in"],
                    "output_tokens": counts["out"],
                    "cache_read_input_tokens": counts["read"],
                    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                    "server_tool_use": {"web_search_requests": 0},
                }
                for (project, key, model), counts in sums.items()
            ]

        wanted = [call for call in self.calls if call.endpoint == "completions"]
        return self._answer(request, wanted, results)

    async def _costs(self, request: web.Request) -> web.Response:
        def results(calls: list[Call]) -> list[dict[str, Any]]:
            sums: dict[tuple[str, str], float] = defaultdict(float)
            for call in calls:
                sums[call.project, f"{call.model} Usage - Input Tokens"] += call.dollars
            return [
                {
                    "workspace_id": project or None,
                    "description": item,
                    "amount": f"{100 * value:.6f}",
                    "currency": "USD",
                    "cost_type": "tokens",
                }
                for (project, item), value in sums.items()
            ]

        return self._answer(request, self.calls, results)

    def _answer(self, request: web.Request, calls: list[Call], results: Any) -> web.Response:
        query = {"bucket_width": "1d", **request.query}
        if request.headers.get("x-api-key") != KEY or request.headers.get("anthropic-version") != "2023-06-01":
            problem = {"type": "authentication_error", "message": "invalid x-api-key"}
            return web.json_response({"type": "error", "error": problem}, status=401)
        self.queries.append(dict(query))
        width_s, limit = WIDTHS_S[query["bucket_width"]], int(query["limit"])
        start, end = (int(datetime.fromisoformat(query[key]).timestamp()) for key in ("starting_at", "ending_at"))
        if limit > LIMITS[query["bucket_width"]] or start >= end:
            return web.json_response({"type": "error", "error": {"type": "invalid_request_error"}}, status=400)
        start -= start % width_s
        buckets = [
            {
                "starting_at": _text(at),
                "ending_at": _text(at + width_s),
                "results": results([call for call in calls if at <= call.at < at + width_s]),
            }
            for at in range(start, end, width_s)
        ]
        if self.extra:
            buckets[0]["results"] += self.extra
        first, size = int(query.get("page", "page_0")[5:]), min(limit, self.page_buckets)
        more = first + size < len(buckets)
        following = None if not more else "page_0" if self.stuck else f"page_{first + size}"
        if self.repeats:  # a page that ends inside the next
            size += 1
        return web.json_response({"data": buckets[first : first + size], "has_more": more, "next_page": following})


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
