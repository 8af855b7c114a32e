"""The open connections of the port: which of them are too slow, and which one gives its place to a new one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, cast

from aiohttp import web

from curb.stream import metrics

#: A client that takes nothing of its answer for so long (seconds) is gone, or means to hold a place.
_STALLED_S = 20.0
#: A client may hold a place for so long (seconds), whoever waits for one: it had time to send what it has.
_RESTED_S = 0.25
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Patience(NamedTuple):
    """How long (seconds) a client may take for the head and for the body of a request."""

    head_s: float
    body_s: float


class Seat(Protocol):
    """What holds a place: a connection, or what is to become one."""

    peer: str
    #: When its client made progress last.
    since: float

    @property
    def waits(self) -> bool: ...

    def overdue(self, now: float, patience: Patience) -> str | None: ...

    def has_more(self) -> bool:
        """Whether its client has sent something that the busy loop has not come to."""

    def close(self) -> None: ...


class Connection(asyncio.Protocol):
    """One accepted connection: passes everything on to aiohttp's protocol, and notes when the client made progress."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        peer: str,
        table: Connections,
        read: bytes = b"",
        instead_of: Seat | None = None,
    ) -> None:
        """`read` was read of it already, by `instead_of`, whose place it takes."""
        self.peer, self._read, self._instead_of = peer, read, instead_of
        self.since = table.now()
        self.transport: asyncio.Transport | None = None
        self._inner, self._table = inner, table
        #: The request whose head is complete and whose answer is not, and since when.
        self._request: web.BaseRequest | None = None
        self._request_at = 0.0
        #: Since when a head is awaited; None between the requests of a connection that is kept.
        self._head_at: float | None = table.now()
        self._head_begun = self._next_begun = False
        self._stalled_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._instead_of is not None:
            self._table.leave(self._instead_of)
            self._instead_of = None
        self._table.enter(transport, self)
        self._inner.connection_made(transport)
        if self._read:
            read, self._read = self._read, b""
            self.data_received(read)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._table.leave(self.transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is not None:
            self._table.progress(self.transport, self)
        if self._request is None:
            self._head_at, self._head_begun = self._head_at or self._table.now(), True
        elif self._request.content.is_eof():
            self._next_begun = True
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._stalled_at = self._table.now()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stalled_at = None
        self._inner.resume_writing()

    def begin(self, request: web.BaseRequest) -> None:
        """The head of a request is complete."""
        self._request, self._request_at = request, self._table.now()
        self._head_at, self._head_begun, self._next_begun = None, False, False

    def end(self) -> None:
        """Its answer is made."""
        self._request = None
        self._head_at, self._head_begun = self._table.now() if self._next_begun else None, self._next_begun

    @property
    def waits(self) -> bool:
        """Whether the client is awaited: its next request, the rest of this one, or that it takes the answer."""
        return self._request is None or self._stalled_at is not None or not self._request.content.is_eof()

    def overdue(self, now: float, patience: Patience) -> str | None:
        """What the client was too slow with: head, body or answer."""
        if self._stalled_at is not None and now - self._stalled_at > _STALLED_S:
            return "answer"
        if self._request is None:
            return "head" if self._head_at is not None and now - self._head_at > patience.head_s else None
        # The body's own time-out answers first.
        late = now - self._request_at > patience.body_s + 1.0
        return "body" if late and not self._request.content.is_eof() else None

    def has_more(self) -> bool:
        """What its transport has not read yet is not seen from here."""
        return False

    def close(self) -> None:
        """Close it at once, whatever is still to be sent; a head that was begun is answered that it took too long."""
        if self.transport is None:
            return
        if self._head_begun and self._stalled_at is None:
            self.transport.write(TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()


class Connections:
    """At most `most` of them. `now` gives monotonic seconds."""

    def __init__(self, most: int, patience: Patience, now: Callable[[], float]) -> None:
        self.most, self.now, self._patience = most, now, patience
        #: By transport, or by what is to become a connection; those whose clients made no progress for longest first.
        self._open: dict[object, Seat] = {}
        self._peers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, key: object, place: Seat) -> None:
        """It holds a place from now on."""
        self._open[key] = place
        self._peers[place.peer] += 1
        metrics.HTTP_CONNECTIONS.set(len(self._open))

    def leave(self, key: object) -> None:
        """It holds none any more."""
        place = self._open.pop(key, None)
        if place is None:
            return
        self._peers[place.peer] -= 1
        if not self._peers[place.peer]:
            del self._peers[place.peer]
        metrics.HTTP_CONNECTIONS.set(len(self._open))

    def progress(self, key: object, place: Seat) -> None:
        """Its client has sent something."""
        if self._open.pop(key, None) is not None:
            place.since = self.now()
            self._open[key] = place

    def make_room(self, peer: str) -> float | None:
        """Seconds until one more may be opened: 0, now; None: never, every place is being answered.

        Where there are too many, closes the one whose client has made no progress for longest. A client that holds more
        than half of all places gives up one of its own, so that it cannot push out others.
        """
        while len(self._open) >= self.most:
            key, place = self._longest(peer if self._peers[peer] * 2 > self.most else "")
            if place is None:
                metrics.HTTP_CONNECTIONS_CLOSED.labels(reason="refused").inc()
                return None
            if (rest_s := place.since + _RESTED_S - self.now()) > 0:
                return rest_s
            if not place.has_more():
                self._end(key, place, "evicted")
        return 0.0

    def _longest(self, peer: str) -> tuple[object, Seat | None]:
        """What waits for its client for longest, of one peer where it is given."""
        waiting = ((key, place) for key, place in self._open.items() if place.waits and peer in ("", place.peer))
        return next(waiting, (None, None))

    def sweep(self) -> None:
        """Close those whose client is too slow."""
        now = self.now()
        for key, place in list(self._open.items()):
            what = place.overdue(now, self._patience)
            if what is not None:
                self._end(key, place, what)

    def close_waiting(self) -> None:
        """Close those that are not being answered."""
        for key, place in list(self._open.items()):
            if place.waits:
                self.leave(key)
                place.close()

    @web.middleware
    async def watch(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Notes on a request's connection that it is being answered."""
        connection = self._open.get(request.transport) if request.transport is not None else None
        if not isinstance(connection, Connection):
            return await handler(request)
        connection.begin(request)
        try:
            return await handler(request)
        finally:
            connection.end()
            if request.transport is not None:
                self.progress(request.transport, connection)

    def _end(self, key: object, place: Seat, reason: str) -> None:
        metrics.HTTP_CONNECTIONS_CLOSED.labels(reason=reason).inc()
        # It counts no longer, although a transport reports its end only later.
        self.leave(key)
        place.close()
