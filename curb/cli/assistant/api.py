"""The daemon's API as an assistant's tools call it: by address and token, from any machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

#: Seconds for one answer. By hand: explaining an alert reads the log.
_TIMEOUT_S = 30.0


class ApiError(Exception):
    """The daemon refused or did not answer; the text says why, for people."""


class DaemonApi:
    """One daemon. It holds a connection only while it asks."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"User-Agent": "curb-mcp"} | ({"Authorization": f"Bearer {token}"} if token else {})

    async def get(self, *path: str, **query: str) -> Any:
        """The JSON of `GET /v1/<path>`; each part of the path is data. Raises ApiError."""
        return await self._ask("GET", path, query, None)

    async def post(self, *path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of `POST /v1/<path>`. Raises ApiError."""
        return await self._ask("POST", path, {}, body)

    async def _ask(
        self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Any:
        if any(part.strip(".") == "" for part in path):
            raise ApiError("an id is missing")
        parts = "/".join(quote(part, safe="") for part in path)
        url = URL(f"{self._url}/v1/{parts}", encoded=True).with_query(query)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session,
                session.request(method, url, json=body, allow_redirects=False) as answer,
            ):
                found = await answer.json() if "json" in answer.content_type else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(f"no daemon answers at {self._url} ({type(error).__name__})") from None
        if answer.status >= 300 or found is None:
            said = found.get("error") if isinstance(found, dict) else None
            raise ApiError(f"HTTP {answer.status}: {said or answer.reason}")
        return found
