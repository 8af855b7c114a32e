"""One HTTP request, bounded in time and size: its answer, or one of the two errors of the runners."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from curb.connectors.connector import Check
from curb.connectors.decode import mend, without_content
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status
from curb.stream.log.codec import UNREADABLE

T = TypeVar("T")
Params = Sequence[tuple[str, str]]
_MAX_JSON_BYTES = 256 * 1024 * 1024


class HttpAnswer(NamedTuple):
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
    max_bytes: int,
    types: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    also: Sequence[int] = (),
    tls: ssl.SSLContext | None = None,
) -> HttpAnswer:
    """GET `url`, or POST it with `data` as a form. A body that ends early, a redirect (it would carry the
    key to another host) and a content type that is not among `types` are errors.

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
            if types and answer.content_type not in types and "Content-Type" in answer.headers:
                raise _wrong_type(what, answer.status, answer.content_type, types)
            body = await answer.content.read(max_bytes + 1)
            while len(body) <= max_bytes and (more := await answer.content.read(max_bytes + 1 - len(body))):
                body += more
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{what}: {type(error).__name__}") from error
    if len(body) > max_bytes:
        raise PermanentError(f"{what}: the answer is longer than {max_bytes} bytes")
    return HttpAnswer(answer.status, body)


def _wrong_type(what: str, status: int, found: str, types: Sequence[str]) -> PermanentError | TransientError:
    text = f"{what}: {found or 'no content type'} instead of {types[0]}"
    # A proxy's error page in front of a busy server passes; a page in place of the answer stays.
    return TransientError(f"{text} (HTTP {status})") if status >= 500 else PermanentError(text)


class JsonClient(NamedTuple):
    """GETs that answer JSON, with fixed headers."""

    http: aiohttp.ClientSession
    clock: Clock
    headers: Mapping[str, str]
    timeout_s: float

    async def get(self, url: str, params: Params, decoder: msgspec.json.Decoder[T]) -> T:
        """The decoded answer. Raises TransientError or PermanentError; their texts hold neither query nor body."""
        address = URL(url).extend_query(list(params))
        what = f"GET {address.host}{address.path}"
        answer = await fetch(
            self.http, self.clock, address, headers=self.headers, timeout_s=self.timeout_s, max_bytes=_MAX_JSON_BYTES
        )
        if answer.status != 200:
            raise PermanentError(f"{what}: HTTP {answer.status}, expected 200; is the URL right?")
        return decode_answer(decoder, answer.body, what)


def decode_answer(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """The answer to `what`, also where it holds what JSON forbids. Raises TransientError or PermanentError."""
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except (*UNREADABLE, ValueError):
            mended = mend(body)
            if mended is None:
                raise TransientError(f"{what}: the answer is not JSON") from None
            return decoder.decode(mended)
    except msgspec.ValidationError as error:
        raise PermanentError(f"{what}: not the expected answer: {without_content(error)}") from None
    except UNREADABLE:
        raise TransientError(f"{what}: the answer is not JSON") from None


async def tried(what: str, call: Awaitable[object], permission: str = "") -> Check:
    """A Check of one reading call: ok, or what the other side said."""
    try:
        await call
    except (TransientError, PermanentError) as error:
        return Check(what, False, str(error), permission)
    return Check(what, True, "answered", permission)
