"""One HTTP exchange with a JSON answer, its failures turned into the two error classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status


class NotFoundError(PermanentError):
    """The other side answered 404: it does not know the thing that was asked for."""


async def exchange(
    http: aiohttp.ClientSession,
    clock: Clock,
    method: str,
    url: URL,
    *,
    timeout_s: float,
    headers: Mapping[str, str],
    json: Any = None,
    data: bytes | None = None,
) -> bytes:
    """The body of a 2xx answer. Errors name method, host and path, never the query, a header or a body."""
    what = f"{method} {url.host}{url.path}"
    try:
        async with http.request(
            method,
            url,
            headers=headers,
            json=json,
            data=data,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
        ) as answer:
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{what}: {type(error).__name__}") from error
    if answer.status == 404:
        raise NotFoundError(f"{what}: HTTP 404")
    if 300 <= answer.status < 400:
        raise PermanentError(f"{what}: HTTP {answer.status} redirects elsewhere; configure the final address")
    error_found = error_for_status(answer.status, answer.headers, what, now=clock.now())
    if error_found is not None:
        raise error_found
    return body


async def exchange_object(
    http: aiohttp.ClientSession,
    clock: Clock,
    method: str,
    url: URL,
    *,
    timeout_s: float,
    headers: Mapping[str, str],
    json: Any = None,
) -> dict[str, Any]:
    """Like `exchange`, for an answer that is a JSON object; TransientError when it is not."""
    body = await exchange(http, clock, method, url, timeout_s=timeout_s, headers=headers, json=json)
    try:
        answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TransientError(f"{method} {url.host}{url.path}: the answer is not a JSON object") from error
    return answer
