"""The HTTP door for push sources: it answers 200 only after the events are on the log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import SecretStr

from curb.connectors.connector import Batch, Door, PushSource, Receiver
from curb.connectors.decode import Letters, Rejected
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.attribution import Attribution
from curb.connectors.intake.health import Health
from curb.connectors.intake.validate import DEFAULT_LIMITS, IntakeLimits
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log, Message
from curb.stream.records.spend import DeadLetter

logger = logging.getLogger(__name__)
DEFAULT_BODY_BYTES = 8 * 1024 * 1024
_RETRY_AFTER_S = 5.0
_UNREADABLE = frozenset({"not_json", "not_utf8"})


@dataclass
class InboxSource:
    """One push connector behind `POST /v1/ingest/{name}`."""

    name: str
    source: PushSource | Receiver
    token: SecretStr
    #: Largest body after decompression.
    max_body_bytes: int = DEFAULT_BODY_BYTES
    limits: IntakeLimits = DEFAULT_LIMITS
    attribution: Attribution | None = None
    #: When something was last received and appended (epoch seconds), or None.
    last_success: float | None = None
    health: Health = field(default_factory=Health)


def add_routes(app: web.Application, sources: Mapping[str, InboxSource], log: Log, clock: Clock) -> None:
    """Add `POST /v1/ingest/{name}`, and paths below it, for these sources, by name, to the daemon's application."""
    inbox = _Inbox(sources, log, clock)
    app.router.add_post("/v1/ingest/{name}", inbox.receive)
    app.router.add_post("/v1/ingest/{name}/{path:.+}", inbox.receive)


class _Inbox:
    def __init__(self, sources: Mapping[str, InboxSource], log: Log, clock: Clock) -> None:
        self._sources, self._log, self._clock = sources, log, clock

    async def receive(self, request: web.Request) -> web.Response:
        """200 with counts, 400 nothing readable, 401, 404, 413 too large, 503 the log is away (with Retry-After)."""
        source = self._sources.get(request.match_info["name"])
        if source is None:
            return _problem(404, "no push connector of this name")
        if not _authorised(request, source.token):
            return _problem(401, "a valid bearer token is required", {hdrs.WWW_AUTHENTICATE: "Bearer"})
        door = _door(source.source, request)
        if door is None:
            return _problem(404, "this push connector has no such path")
        started = asyncio.get_running_loop().time()
        try:
            response = await self._ingest(request, source, door)
        except TransientError as error:
            logger.warning("ingest refused: log unavailable", extra={"connector": source.name, "detail": str(error)})
            metrics.CONNECTOR_ERRORS.labels(connector=source.name, kind="transient").inc()
            source.health.failed("transient", str(error), self._clock.now())
            wait_s = math.ceil(error.retry_after or _RETRY_AFTER_S)
            return door.problem(503, "the log is unavailable, send again later", {hdrs.RETRY_AFTER: str(wait_s)})
        metrics.INGEST_SECONDS.labels(connector=source.name).observe(asyncio.get_running_loop().time() - started)
        return response

    async def _ingest(self, request: web.Request, source: InboxSource, door: Door) -> web.Response:
        at, location = self._clock.now(), f"POST /v1/ingest/{source.name}"
        body = await _read_body(request, source.max_body_bytes)
        if isinstance(body, Rejected):
            letters = Letters(source.name, at)
            letters.add(body, location=location, content=b"")
            await self._log.append(letters.messages())
            return door.problem(413 if body.reason == "too_large" else 400, body.detail)
        async with door.order:
            batch = door.parse(body, location=location, at=at)
            appended = await append_batch(
                self._log, batch, source=source.name, at=at, limits=source.limits, attribution=source.attribution
            )
            door.appended()
        source.health.heard(batch.records, appended.accepted, appended.dead)
        if refused := door.refused(batch):
            return door.problem(400, refused)
        source.last_success = at
        metrics.CONNECTOR_LAST_SUCCESS.labels(connector=source.name).set(at)
        metrics.RECORDS_READ.labels(connector=source.name).inc(appended.accepted)
        return door.answer(appended.accepted, appended.dead)


class PlainDoor:
    """Curb's own answers: JSON with counts."""

    def __init__(self, source: PushSource) -> None:
        self._source = source
        self.order: AbstractAsyncContextManager[object] = nullcontext()

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        return self._source.parse(body, location=location, at=at)

    def refused(self, batch: Batch) -> str | None:
        nothing = bool(batch.dead) and not batch.records and not batch.plans
        unreadable = nothing and all(_reason(letter) in _UNREADABLE for letter in batch.dead)
        return "the body is not JSON" if unreadable else None

    def appended(self) -> None:
        return None

    def answer(self, accepted: int, dead: int) -> web.Response:
        return web.json_response({"accepted": accepted, "dead": dead})

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response({"error": detail}, status=status, headers=headers)


def _reason(letter: Message) -> str:
    return msgspec.json.decode(letter.value, type=DeadLetter).reason


def _door(source: PushSource | Receiver, request: web.Request) -> Door | None:
    path = request.match_info.get("path", "")
    if isinstance(source, Receiver):
        return source.door(path, request.content_type)
    return None if path else PlainDoor(source)


async def _read_body(request: web.Request, max_bytes: int) -> bytes | Rejected:
    """The decompressed body; stops reading, and decompressing, as soon as it is longer than `max_bytes`."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                return Rejected("too_large", f"the body is longer than {max_bytes} bytes after decompression")
    except (HttpProcessingError, web.RequestPayloadError):
        return Rejected("invalid", "the body does not match its Content-Encoding or length")
    return bytes(body)


def _authorised(request: web.Request, token: SecretStr) -> bool:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    expected = token.get_secret_value().encode()
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
    return same and scheme.lower() == "bearer"


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": detail}, status=status, headers=headers)
