"""LiteLLM's spend logs over HTTP: what the proxy wrote to its database, in pages, with faults on demand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

KINDS = ("litellm",)
KEY = "sk-admin"


def row_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The row that LiteLLM 1.108 writes for what its callback posts.

    JSON as text, times in milliseconds; a cost that is read again and again has a suffix of its own; a failure has
    another start and an estimate of its tokens.
    """
    meta = payload["metadata"]
    kept = ("user_api_key_alias", "user_api_key_team_alias", "user_api_key_project_id", "usage_object")
    request_id, start, tokens = payload["id"], payload["startTime"], payload["prompt_tokens"]
    if payload["cache_hit"]:
        request_id = f"{request_id.partition('_cache_hit')[0]}_cache_hit{payload['endTime'] + 0.01}"
    if payload["call_type"] == "aretrieve_batch":
        request_id += "_batch_cost"
    if payload["status"] == "failure":
        start, tokens = start - 0.012, 10
    beside = {key: payload.get(key) for key in ("cost_breakdown", "model_map_information", "litellm_call_id")}
    return {
        "request_id": request_id,
        "litellm_call_id": payload["litellm_call_id"],
        "call_type": payload["call_type"],
        "api_key": meta["user_api_key_hash"],
        "spend": payload["response_cost"],
        "total_tokens": payload["total_tokens"],
        "prompt_tokens": tokens,
        "completion_tokens": payload["completion_tokens"],
        "startTime": datetime.fromtimestamp(round(start, 3), UTC).isoformat(timespec="milliseconds"),
        "model": payload["model"],
        "model_group": payload["model_group"],
        "custom_llm_provider": payload["custom_llm_provider"],
        "user": meta["user_api_key_user_id"],
        "team_id": meta["user_api_key_team_id"],
        "organization_id": "",
        "end_user": payload["end_user"],
        "cache_hit": str(payload["cache_hit"]),
        "status": payload["status"],
        "metadata": json.dumps({key: meta.get(key) for key in kept} | beside),
        "request_tags": json.dumps(payload["request_tags"]),
        "messages": {},
        "response": {},
    }


class SpendLogs:
    """`rows` may grow at any time. `repeat` makes every page show the rows of the first."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.faults = Faults()
        self.repeat = False
        self.queries: list[dict[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_get("/spend/logs/v2", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        """One page."""
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "Authentication Error"}}, status=401)
        query = dict(request.query)
        self.queries.append(query)
        start, end = (datetime.fromisoformat(query[key]).replace(tzinfo=UTC) for key in ("start_date", "end_date"))
        found = [row for row in self.rows if start <= datetime.fromisoformat(row["startTime"]) <= end]
        found.sort(key=lambda row: row["startTime"], reverse=query.get("sort_order") != "asc")
        page, size = int(query["page"]), int(query["page_size"])
        first = 0 if self.repeat else (page - 1) * size
        pages = -(-len(found) // size)
        answer = {"data": found[first : first + size], "total": len(found), "page": page, "page_size": size}
        return web.json_response({**answer, "total_pages": pages})
