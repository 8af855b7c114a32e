"""A LiteLLM proxy that makes keys, answers calls and enforces limits: at once, late, by worker, or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.faults import Faults

ADMIN_KEY = "sk-admin"
MODEL = "fake-gpt"
#: Dollars and tokens of a call.
PRICE_USD, TOKENS = 0.00004, 24


class LitellmProxy:
    """`ignores` are the limits that it shows and does not enforce; spend counts `behind` calls later."""

    def __init__(
        self, *, workers: int = 1, ignores: set[str] | None = None, behind: int = 0, price_usd: float = PRICE_USD
    ):
        self.workers, self.ignores, self.behind, self.price_usd = workers, ignores or set(), behind, price_usd
        self.keys: dict[str, dict[str, Any]] = {}
        #: Every key that was made.
        self.made: list[dict[str, Any]] = []
        self.faults = Faults()
        #: Answers of the model, instead of 200: (status, body).
        self.broken: tuple[int, Any] | None = None
        #: Called with every call that passes.
        self.on_call: Callable[[], None] = lambda: None
        self._worker = itertools.cycle(range(workers))

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware()])
        app.router.add_post("/key/generate", self._generate)
        app.router.add_post("/key/delete", self._delete)
        app.router.add_get("/key/info", self._info)
        app.router.add_post("/v1/chat/completions", self._call)
        return app

    async def _generate(self, request: web.Request) -> web.Response:
        if not _is_admin(request):
            return _error(401, "auth_error")
        body = await request.json()
        self.made.append(body)
        self.keys[body["key"]] = body | {"passed": [0] * self.workers}
        return web.json_response({"key": body["key"]})

    async def _delete(self, request: web.Request) -> web.Response:
        (key,) = (await request.json())["keys"]
        if not _is_admin(request) or self.keys.pop(key, None) is None:
            return _error(404, "not_found_error", "key not found")
        return web.json_response({"deleted_keys": [key]})

    async def _info(self, request: web.Request) -> web.Response:
        row = self.keys.get(request.query["key"])
        if row is None:
            return _error(404, "not_found_error", "key not found")
        return web.json_response({"key": "hash", "info": {"spend": sum(row["passed"]) * self.price_usd}})

    async def _call(self, request: web.Request) -> web.Response:
        row = self.keys.get(request.headers["Authorization"].removeprefix("Bearer "))
        if row is None:
            return _error(401, "auth_error")
        if self.broken is not None:
            return web.json_response(self.broken[1], status=self.broken[0])
        worker = next(self._worker)
        here, everywhere = row["passed"][worker], sum(row["passed"])
        if "rpm_limit" not in self.ignores and here >= row.get("rpm_limit", 1e9):
            return _error(429, "throttling_error")
        if "tpm_limit" not in self.ignores and here * TOKENS >= row.get("tpm_limit", 1e9):
            return _error(429, "throttling_error")
        spent = max(0, everywhere - self.behind) * self.price_usd
        if "max_budget" not in self.ignores and spent >= row["max_budget"]:
            return _error(422, "budget_exceeded")
        row["passed"][worker] += 1
        self.on_call()
        return web.json_response({"choices": [], "usage": {"total_tokens": TOKENS}})


def _is_admin(request: web.Request) -> bool:
    return request.headers.get("Authorization") == f"Bearer {ADMIN_KEY}"


def _error(status: int, kind: str, message: str = "refused") -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message}}, status=status)
