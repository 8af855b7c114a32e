"""The body of a request: received within a time, decompressed within a bound, and of all at once no more than fits.

The server must pass bodies on as they come (`auto_decompress=False`): nothing is decompressed before the token was
checked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from curb.stream.records.dead_letters import Reason

#: What can be decompressed; a body in another encoding would reach its reader as it is.
ENCODINGS = ("gzip", "deflate", "zstd")
#: Longest time (seconds) for the whole body, unless it is set.
BODY_S = 20.0
#: Bytes of all bodies that are being read or worked on, before and after decompression.
HELD_BYTES = 256 * 1024 * 1024
#: A body that grows more than so many times was made to: events of one key repeated without end grow 200 times.
_MOST_GROWTH = 400
#: Growth is looked at from so many bytes on; a few bytes of header say little.
_GROWTH_FROM = 1024 * 1024
#: Decompressed in the loop up to this size, some milliseconds of work at worst; larger ones in a thread.
_INLINE_BYTES = 16 * 1024
#: Threads that decompress at one time.
_THREADS = 2
_STEP_BYTES = 256 * 1024
#: Longest window of zstd (log2 of bytes), as RFC 9659 sets it for HTTP; it is held in memory.
_ZSTD_WINDOW = 23
_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class BodyRefusedError(Exception):
    """A body that is not taken: the status of the answer, and the reason of its dead letter, if any."""

    def __init__(self, status: int, reason: Reason | None, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.retry_after_s = status, reason, detail, retry_after_s


class Bodies:
    """Reads bodies, and keeps count of the bytes of all that are in use."""

    def __init__(self, timeout_s: float = BODY_S, held_bytes: int = HELD_BYTES) -> None:
        """`timeout_s` is for one whole body, `held_bytes` for all of them together."""
        self._timeout_s, self._most_held, self._held = timeout_s, held_bytes, 0
        self._threads = asyncio.Semaphore(_THREADS)

    @asynccontextmanager
    async def read(self, request: web.BaseRequest, most_bytes: int) -> AsyncIterator[bytes]:
        """The decompressed body of at most `most_bytes`. Raises BodyRefusedError.

        413 too large, 408 too slow, 415 an unknown encoding, 400 not what its encoding says, 503 too many at once.
        """
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            held += count
            self._held += count
            if self._held > self._most_held:
                raise BodyRefusedError(503, None, "too many bodies at once, send again later", retry_after_s=1)

        try:
            encoding = _encoding(request)
            body = await _receive(request, most_bytes, self._timeout_s, hold)
            if encoding != "identity" and body:
                body = await self._inflate(body, encoding, most_bytes)
                hold(len(body))
            yield body
        finally:
            self._held -= held

    async def json(self, request: web.Request) -> Any:
        """The body as JSON. Raises BodyRefusedError, and what `json.loads` raises."""
        async with self.read(request, request.client_max_size) as body:
            return json.loads(body)

    async def _inflate(self, body: bytes, encoding: str, most_bytes: int) -> bytes:
        if len(body) <= _INLINE_BYTES:
            return inflate(body, encoding, most_bytes)
        async with self._threads:
            return await asyncio.to_thread(inflate, body, encoding, most_bytes)


def _encoding(request: web.BaseRequest) -> str:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() or "identity"
    if encoding not in (*ENCODINGS, "identity"):
        raise BodyRefusedError(415, "invalid", f"Content-Encoding must be one of {', '.join(ENCODINGS)}, or none")
    return encoding


async def _receive(request: web.BaseRequest, most_bytes: int, timeout_s: float, hold: Callable[[int], None]) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.content.iter_any():
                hold(len(chunk))
                body += chunk
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise BodyRefusedError(408, None, f"the body was not complete within {timeout_s:g} s") from None
    except (HttpProcessingError, web.RequestPayloadError):
        raise BodyRefusedError(400, "invalid", "the body does not match its Content-Encoding or length") from None
    except RuntimeError as error:  # aiohttp's word for a client that is gone
        if request.transport is not None:
            raise
        raise ConnectionResetError("the client is gone") from error
    return bytes(body)


def inflate(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """What was compressed, in steps, so that a bomb costs no more than `most_bytes`. Raises BodyRefusedError."""
    out, rest = bytearray(), body
    damaged = zlib.error if encoding != "zstd" else _zstd().ZstdError
    stream = _stream(rest, encoding)
    while not (stream.eof and not stream.unused_data):
        if stream.eof:  # another member follows, as where compressed files were put together
            rest = stream.unused_data
            stream = _stream(rest, encoding)
        try:
            step = stream.decompress(rest, max_length=_STEP_BYTES)
        except damaged as error:
            raise _damaged() from error
        out += step
        if len(out) > most_bytes:
            raise _too_large(most_bytes)
        if len(out) > max(_GROWTH_FROM, _MOST_GROWTH * len(body)):
            detail = f"the body grows more than {_MOST_GROWTH} times when it is decompressed"
            raise BodyRefusedError(413, "too_large", detail)
        rest = getattr(stream, "unconsumed_tail", b"")
        # zlib may hold the end of a long repetition back although it took all of its input.
        if not (stream.eof or rest or len(step) == _STEP_BYTES or not getattr(stream, "needs_input", True)):
            raise _damaged()
    return bytes(out)


def _stream(body: bytes, encoding: str) -> Any:
    if encoding == "gzip":
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if encoding == "deflate":
        # Some senders leave out the header that the standard asks for.
        return zlib.decompressobj(zlib.MAX_WBITS if body[0] & 0xF == 8 else -zlib.MAX_WBITS)
    zstd = _zstd()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW})


def _zstd() -> Any:
    try:
        return import_module(_ZSTD)
    except ImportError:
        raise BodyRefusedError(415, "invalid", 'zstd needs the extra "otel": pip install "curbd[otel]"') from None


def _too_large(most_bytes: int) -> BodyRefusedError:
    return BodyRefusedError(413, "too_large", f"the body is longer than {most_bytes} bytes after decompression")


def _damaged() -> BodyRefusedError:
    return BodyRefusedError(400, "invalid", "the body does not match its Content-Encoding or length")
