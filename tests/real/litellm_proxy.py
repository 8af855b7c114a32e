"""The real LiteLLM proxy that CURB_TEST_LITELLM names, as an administrator and as a client see it.

It needs virtual keys (a database) and the configuration and environment of `tests/real/litellm.yaml`: models, and a
callback that posts to http://127.0.0.1:18088/v1/ingest/gateway.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp

from tests.require import require

#: Where the proxy posts to, and with which token.
PORT, TOKEN = 18088, "ingest-token"


class Answer(NamedTuple):
    """HTTP status of one call, and what the proxy says it cost."""

    status: int
    usd: float


class Proxy:
    """The proxy's HTTP interface."""

    def __init__(self, http: aiohttp.ClientSession, url: str, master: str) -> None:
        self._http, self.url, self.master = http, url, master

    async def admin(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.master}"}
        async with self._http.request(method, self.url + path, headers=headers, **options) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def limit(self, key_hash: str) -> int | None:
        return (await self.admin("GET", "/key/info", params={"key": key_hash}))["info"]["rpm_limit"]

    async def team_key(self, alias: str) -> str:
        """A virtual key of a new team."""
        team = await self.admin("POST", "/team/new", json={"team_alias": alias})
        made = await self.admin("POST", "/key/generate", json={"team_id": team["team_id"], "models": ["fake-gpt"]})
        key: str = made["key"]
        return key

    async def call(self, key: str, customer: str = "", model: str = "fake-gpt") -> Answer:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "again and again"}]}
        body |= {"user": customer} if customer else {}
        headers = {"Authorization": f"Bearer {key}"}
        async with self._http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            return Answer(answer.status, float(answer.headers.get("x-litellm-response-cost", 0.0)))


@contextlib.asynccontextmanager
async def find_proxy() -> AsyncIterator[Proxy]:
    """The proxy. Skips, or fails where CURB_TEST_REQUIRE asks for LiteLLM."""
    url, _, master = os.environ.get("CURB_TEST_LITELLM", "").partition(",")
    if not master:
        require(
            "litellm", "set CURB_TEST_LITELLM=URL,MASTER_KEY; tests/real/litellm_proxy.py says what the proxy needs"
        )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        yield Proxy(http, url.rstrip("/"), master)
