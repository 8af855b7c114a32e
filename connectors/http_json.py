"""One GET that answers JSON: statuses, broken connections and wrong shapes become the two errors of the runners."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from curb.connectors.connector import Check
from curb.connectors.decode import without_content
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status

T = TypeVar("T")
Params = Sequence[tuple[str, str]]


class JsonClient(NamedTuple):
    """A GET with fixed headers. Redirects are refused: they would carry the key to another host."""

    http: aiohttp.ClientSession
    clock: Clock
    headers: Mapping[str, str]
    timeout_s: float

    async def get(self, url: str, params: Params, decoder: msgspec.json.Decoder[T]) -> T:
        """The decoded answer. Raises TransientError or PermanentError; their texts hold neither query nor body."""
        address = URL(url)
        what = f"GET {address.host}{address.path}"
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with self.http.get(
                address, params=list(params), headers=self.headers, timeout=timeout, allow_redirects=False
            ) as answer:
                refused = error_for_status(answer.status, answer.headers, what, now=self.clock.now())
                if refused is not None:
                    raise refused
                if answer.status != 200:
                    raise PermanentError(f"{what}: HTTP {answer.status}, expected 200; is the URL right?")
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"{what}: {type(error).__name__}") from error
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise PermanentError(f"{what}: not the expected answer: {without_content(error)}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TransientError(f"{what}: the answer is not JSON") from None


async def tried(what: str, call: Awaitable[object], permission: str = "") -> Check:
    """A Check of one reading call: ok, or what the other side said."""
    try:
        await call
    except (TransientError, PermanentError) as error:
        return Check(what, False, str(error), permission)
    return Check(what, True, "answered", permission)
