"""One HTTP exchange with a JSON answer, its failures turned into the two error classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from curb.actions.action import GoneError
from curb.stream.clients.reason import names_the_thing, reason_in
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status


class NotFoundError(GoneError):
    """The other side answered 404 and says that it does not know the thing that was asked for."""


class NoSuchRouteError(PermanentError):
    """A 404 that says nothing about the thing: an address that is not known, an old version, a proxy in between."""

    def __init__(self, message: str, body: bytes) -> None:
        super().__init__(message)
        self.body = body


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
    secret_path: bool = False,
    secrets: Sequence[str] = (),
) -> bytes:
    """The body of a 2xx answer. Errors name method, host and path, and the reason that the answer gives for people.

    They never hold the query, a header or `secrets`, such as a key in the body, nor the path where it is a secret.
    """
    what = f"{method} {url.host}" if secret_path else f"{method} {url.host}{url.path}"
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
    said = (
        ""
        if answer.status < 400
        else reason_in(body, [*_secrets(headers), *secrets, *(url.parts if secret_path else ())])
    )
    if answer.status == 404:
        message = f"{what}: HTTP 404" + (f": {said}" if said else "")
        raise NotFoundError(message) if names_the_thing(body) else NoSuchRouteError(message, body)
    if 300 <= answer.status < 400:
        raise PermanentError(f"{what}: HTTP {answer.status} redirects elsewhere; configure the final address")
    error_found = error_for_status(answer.status, answer.headers, what, now=clock.now(), said=said)
    if error_found is not None:
        raise error_found
    return body


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """What was sent to show who asks: an answer may repeat it."""
    return [part for value in headers.values() for part in (value, value.rpartition(" ")[2])]


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
