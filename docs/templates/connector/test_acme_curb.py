"""Acme's connector keeps every promise of the seam."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curb.testing.connectors import PULL_PROMISES, PullBench, PullPromise
from curb.testing.faults import served


class AcmeBench(PullBench):
    """Acme's API on this machine."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def serve(self, directory: Path) -> AbstractAsyncContextManager[str]:
        app = web.Application()
        app.router.add_get("/charges", self.charges)
        return served(app)

    async def charges(self, request: web.Request) -> web.Response:
        start = int(request.query["offset"])
        return web.json_response(self.rows[start : start + 4])

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        return {"kind": "acme", "name": "acme", "url": address, "key": "secret", "timeout_s": timeout_s}

    def fill(self, number: int, at: float) -> float:
        new = [{"id": f"{number}-{n}", "at": at - 60, "usd": 1.5 + n, "team": "search"} for n in range(9)]
        self.rows += new
        return sum(row["usd"] for row in new)

    def spoil(self, at: float) -> None:
        self.rows.insert(-3, {"id": "bad", "at": at - 60, "usd": "much", "team": "search"})


@pytest.mark.parametrize("promise", PULL_PROMISES, ids=lambda promise: promise.__name__)
async def test_promise(promise: PullPromise, tmp_path: Path) -> None:
    await promise(AcmeBench, tmp_path)
