"""The HTTP door for push sources: it answers 200 only after the events are on the log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs, web
from pydantic import SecretStr

from curb.connectors.connector import Batch, Door, Noted, Pathed, PushSource, Receiver
from curb.connectors.decode import Letters, Rejected
from curb.connectors.intake.append import Appended, append_batch, letters_report, report_messages
from curb.connectors.intake.attribution import Attribution
from curb.connectors.intake.body import ENCODINGS, Bodies, BodyRefusedError
from curb.connectors.intake.health import Health
from curb.connectors.intake.overload import Overload
from curb.connectors.intake.refused_posts import RefusedPosts, Why, there_are
from curb.connectors.validate import DEFAULT_LIMITS, IntakeLimits
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log, Message
from curb.stream.records.spend import DeadLetter

logger = logging.getLogger(__name__)
#: What the path of every connector begins with.
PREFIX = "/v1/ingest/"
DEFAULT_BODY_BYTES = 8 * 1024 * 1024
_RETRY_AFTER_S = 5.0
_TOO_MUCH = "Curb cannot keep up, and most of it comes from here"
#: Bodies from this size on are worked on one after the other, with the append. By hand: some milliseconds of work, so
#: that many small ones do not wait for one another's appends.
_LARGE_BYTES = 32 * 1024
#: Refused events that an answer names; more are counted.
_MAX_ERRORS = 100
#: A line, or a place in an array, at the end of a location.
_PLACE = re.compile(r"([:#])(\d+)$")
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
    #: Tokens that are for every inbox.
    more_tokens: Sequence[SecretStr] = ()
    #: When something was last received and appended (epoch seconds), or None.
    last_success: float | None = None
    health: Health = field(default_factory=Health)

    def notes(self) -> tuple[str, ...]:
        """What arrived and was not counted, where the source says it."""
        return self.source.notes() if isinstance(self.source, Noted) else ()

    def paths(self) -> list[str]:
        """Where senders may post."""
        own = f"{PREFIX}{self.name}"
        return [f"{own}/{each}" for each in self.source.paths()] if isinstance(self.source, Pathed) else [own]


def add_routes(
    app: web.Application,
    sources: Mapping[str, InboxSource],
    log: Log,
    clock: Clock,
    bodies: Bodies | None = None,
    behind_s: Callable[[], float] = lambda: 0.0,
    most_behind_s: float = math.inf,
    refused: RefusedPosts | None = None,
) -> None:
    """Add `POST /v1/ingest/{name}`, and paths below it, for these sources, by name, to the daemon's application.

    What reaches none of them is kept in `refused`.
    `behind_s` gives for how long (seconds) what is on the log has waited. Above `most_behind_s` all requests are
    refused. Well below, or while the event loop is late, those of the sources that send most are.
    """
    overload = Overload(time.monotonic, behind_s)
    app.cleanup_ctx.append(overload.watch)
    refused = RefusedPosts() if refused is None else refused
    inbox = _Inbox(
        sources, log, clock, bodies or Bodies(), lambda: _above(behind_s(), most_behind_s), overload, refused
    )
    app.router.add_post("/v1/ingest/{name:[^/]*}", inbox.receive)
    app.router.add_post("/v1/ingest/{name}/{path:.*}", inbox.receive)


def _above(behind_s: float, most_s: float) -> float:
    return behind_s if behind_s > most_s else 0.0


class _Inbox:
    def __init__(
        self,
        sources: Mapping[str, InboxSource],
        log: Log,
        clock: Clock,
        bodies: Bodies,
        behind_s: Callable[[], float],
        overload: Overload,
        refused: RefusedPosts,
    ) -> None:
        self._sources, self._log, self._clock, self._refused = sources, log, clock, refused
        self._bodies, self._behind_s, self._overload = bodies, behind_s, overload
        #: Of each source one body begins in a turn of the loop, so that a flood leaves turns to all others.
        self._turns = {name: asyncio.Lock() for name in sources}

    async def receive(self, request: web.Request) -> web.Response:
        """200 with counts, 207 some refused, 400 nothing kept, 401, 404, 413 too large, 415, 503 the log is away
        (with Retry-After)."""
        source = self._sources.get(request.match_info["name"])
        if source is None:
            return self._unknown(request)
        if not _authorised(request, source):
            why: Why = "wrong_token" if hdrs.AUTHORIZATION in request.headers else "no_token"
            self._refused.add(request.path, why, self._clock.now(), source.paths(), source.name)
            return _unauthorised()
        door = _door(source.source, request)
        if door is None:
            self._refused.add(request.path, "unknown_path", self._clock.now(), source.paths(), source.name)
            return _unknown_path(source.paths())
        if behind_s := self._behind_s():
            return self._busy(f"Curb is {behind_s:.0f} s behind", source, door)
        if self._overload.refuses(source.name):
            return self._busy(_TOO_MUCH, source, door)
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

    def _unknown(self, request: web.Request) -> web.Response:
        """404 for a path that no connector has, with the paths of those that the token is for.

        401 where it is for none: nobody learns names by trying.
        """
        own = [source for source in self._sources.values() if _authorised(request, source)]
        every = [path for source in self._sources.values() for path in source.paths()]
        self._refused.add(request.path, "unknown_path", self._clock.now(), every)
        if self._sources and not own:
            return _unauthorised()
        return _unknown_path([path for source in own for path in source.paths()])

    def _busy(self, why: str, source: InboxSource, door: Door) -> web.Response:
        """Nothing was made of the body, so that refusing costs little."""
        metrics.INGEST_REFUSED.labels(connector=source.name).inc()
        detail = f"{why}, send again later"
        source.health.failed("transient", detail, self._clock.now())
        return door.problem(503, detail, {hdrs.RETRY_AFTER: str(math.ceil(_RETRY_AFTER_S))})

    async def _ingest(self, request: web.Request, source: InboxSource, door: Door) -> web.Response:
        try:
            async with self._bodies.read(request, source.max_body_bytes) as body:
                with self._overload.holds(source.name, len(body)):
                    async with self._turns[source.name]:
                        await asyncio.sleep(0)
                        if self._overload.refuses(source.name):  # overload may have begun while it waited
                            return self._busy(_TOO_MUCH, source, door)
                        if len(body) > _LARGE_BYTES:
                            return await self._take(body, source, door)
                    return await self._take(body, source, door)
        except BodyRefusedError as refused:
            return await self._refuse(refused, source, door)

    async def _refuse(self, refused: BodyRefusedError, source: InboxSource, door: Door) -> web.Response:
        """Answer; what would be refused again as well is a dead letter."""
        at = self._clock.now()
        if refused.reason:
            letters = Letters(source.name, at)
            letters.add(
                Rejected(refused.reason, refused.detail), location=f"POST /v1/ingest/{source.name}", content=b""
            )
            dead = letters.messages()
            report = letters_report(dead, source=source.name, at=at)
            await self._log.append([*dead, *report_messages(report, self._log)])
        else:
            metrics.CONNECTOR_ERRORS.labels(connector=source.name, kind="transient").inc()
            source.health.failed("transient", refused.detail, at)
        headers: dict[str, str] = {hdrs.ACCEPT_ENCODING: ", ".join(ENCODINGS)} if refused.status == 415 else {}
        if refused.retry_after_s is not None:
            headers[hdrs.RETRY_AFTER] = str(refused.retry_after_s)
        return door.problem(refused.status, refused.detail, headers)

    async def _take(self, body: bytes, source: InboxSource, door: Door) -> web.Response:
        at, location = self._clock.now(), f"POST /v1/ingest/{source.name}"
        async with door.order:
            batch = door.parse(body, location=location, at=at)
            appended = await append_batch(
                self._log, batch, source=source.name, at=at, limits=source.limits, attribution=source.attribution
            )
            door.appended()
        source.health.heard(appended.newest, appended.accepted, appended.dead)
        if refused := door.refused(batch):
            return door.report(appended) if isinstance(door, PlainDoor) else door.problem(400, refused)
        # A source that counts nothing must not look healthy.
        if appended.accepted or not (source.notes() or appended.dead):
            source.last_success = at
            metrics.CONNECTOR_LAST_SUCCESS.labels(connector=source.name).set(at)
        metrics.RECORDS_READ.labels(connector=source.name).inc(appended.accepted)
        if isinstance(door, PlainDoor):
            return door.report(appended)
        return door.answer(appended.accepted, appended.dead)


class PlainDoor:
    """Curb's own answers: JSON with counts, and problem details (RFC 9457) where something was refused."""

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

    def report(self, appended: Appended) -> web.Response:
        """What was kept, each refused line with its reason, and what should be looked at."""
        content: dict[str, Any] = {"accepted": appended.accepted, "dead": appended.dead}
        warnings = list(appended.warnings)
        if appended.skewed:
            warnings.append(
                f"{appended.skewed} events are dated up to {appended.skew_s:.0f} s ahead of the receipt and count at "
                "the receipt: the sender's clock is off"
            )
        if warnings:
            content["warnings"] = warnings
        if not appended.dead:
            return web.json_response(content)
        errors = [_error(msgspec.json.decode(letter.value, type=DeadLetter)) for letter in appended.letters]
        status = 207 if appended.accepted else 400
        kept = "the others are kept" if appended.accepted else "nothing is kept"
        content["errors"] = errors[:_MAX_ERRORS]
        left_out = appended.dead - sum(each.get("count", 1) for each in content["errors"])
        if left_out:
            content["errors_left_out"] = left_out
        return _problem(
            status, f"{appended.dead} events were refused, {kept}; do not send them again as they are", more=content
        )

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return _problem(status, detail, headers)


def _error(letter: DeadLetter) -> dict[str, Any]:
    """One refused event: its line from 1 on, or its place in the array from 0 on, the reason and the field."""
    found: dict[str, Any] = {"reason": letter.reason, "detail": letter.detail}
    if letter.count > 1:
        return {"count": letter.count, **found}
    place = _PLACE.search(letter.location)
    if place is None:
        return found
    return {"line" if place[1] == ":" else "index": int(place[2]), **found}


def _reason(letter: Message) -> str:
    return msgspec.json.decode(letter.value, type=DeadLetter).reason


def _door(source: PushSource | Receiver, request: web.Request) -> Door | None:
    path = request.match_info.get("path", "")
    if isinstance(source, Receiver):
        return source.door(path, request.content_type)
    return None if path else PlainDoor(source)


def _authorised(request: web.Request, source: InboxSource) -> bool:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")
    tokens = (source.token, *source.more_tokens)
    same = [hmac.compare_digest(sent, token.get_secret_value().encode()) for token in tokens]
    return any(same) and scheme.lower() == "bearer"


def _unauthorised() -> web.Response:
    return _problem(401, "a valid bearer token is required", {hdrs.WWW_AUTHENTICATE: "Bearer"})


def _unknown_path(paths: list[str]) -> web.Response:
    """`paths` are those that this token may post to."""
    return _problem(404, f"no connector has this path; {there_are(paths)}", more={"paths": paths})


def _problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> web.Response:
    """Problem details (RFC 9457); `error` is `detail` under its earlier name."""
    title = HTTPStatus(status).phrase
    content = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "error": detail,
        **(more or {}),
    }
    return web.json_response(content, status=status, headers=headers, content_type="application/problem+json")
