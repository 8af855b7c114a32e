"""One bounded GET: the whole body of the right type, or one of the two errors."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import aiohttp
from yarl import URL

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status


class Answer(NamedTuple):
    """Status (200 to 299, or one of `also`) and body."""

    status: int
    body: bytes


async def fetch(
    http: aiohttp.ClientSession,
    clock: Clock,
    url: URL,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    types: Sequence[str],
    max_bytes: int,
    data: Mapping[str, str] | None = None,
    also: Sequence[int] = (),
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """GET `url`, or POST it with `data` as a form. A body that ends early or another content type is an error.

    Statuses in `also` are answers, not errors. Messages name host and path, never a query, a header or a body.
    """
    method = "GET" if data is None else "POST"
    what = f"{method} {url.host}{url.path}"
    try:
        async with http.request(
            method,
            url,
            headers=headers,
            data=data,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
            ssl=True if tls is None else tls,
        ) as answer:
            if 300 <= answer.status < 400:
                raise PermanentError(f"{what}: HTTP {answer.status} redirects elsewhere; configure the final address")
            if answer.status not in also:
                error = error_for_status(answer.status, answer.headers, what, now=clock.now())
                if error is not None:
                    raise error
            if answer.content_type not in types and "Content-Type" in answer.headers:
                raise _wrong_type(what, answer.status, answer.content_type, types)
            body = await answer.content.read(max_bytes + 1)
            while len(body) <= max_bytes and (more := await answer.content.read(max_bytes + 1 - len(body))):
                body += more
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{what}: {type(error).__name__}") from error
    if len(body) > max_bytes:
        raise PermanentError(f"{what}: the answer is longer than {max_bytes} bytes")
    return Answer(answer.status, body)


def _wrong_type(what: str, status: int, found: str, types: Sequence[str]) -> PermanentError | TransientError:
    text = f"{what}: {found or 'no content type'} instead of {types[0]}"
    # A proxy's error page in front of a busy server passes; a page in place of the answer stays.
    return TransientError(f"{text} (HTTP {status})") if status >= 500 else PermanentError(text)
