"""The open connections of the port: which of them are too slow, and which one gives its place to a new one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast

from aiohttp import web

from curb.stream import metrics

#: A client that takes nothing of its answer for so long (seconds) is gone, or means to hold a place.
_STALLED_S = 20.0
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Patience(NamedTuple):
    """How long (seconds) a client may take for the head and for the body of a request."""

    head_s: float
    body_s: float


class Connection(asyncio.Protocol):
    """One accepted connection: passes everything on to aiohttp's protocol, and notes when the client made progress."""

    def __init__(self, inner: asyncio.Protocol, peer: str, table: Connections) -> None:
        self.peer = peer
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
        self._table.opened(self)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.closed(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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

    def close(self) -> None:
        """Close it at once, whatever is still to be sent; a head that was begun is answered that it took too long."""
        if self.transport is None:
            return
        if self._head_begun and self._stalled_at is None:
            self.transport.write(_TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()


class Connections:
    """At most `most` of them. `now` gives monotonic seconds."""

    def __init__(self, most: int, patience: Patience, now: Callable[[], float]) -> None:
        self.most, self.now, self._patience = most, now, patience
        #: By transport, those that have waited longest first.
        self._open: dict[asyncio.BaseTransport, Connection] = {}
        self._peers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Connection) -> None:
        """It has a transport."""
        if connection.transport is not None:
            self._open[connection.transport] = connection
            self._peers[connection.peer] += 1
            metrics.HTTP_CONNECTIONS.set(len(self._open))

    def closed(self, connection: Connection) -> None:
        """Its transport is gone."""
        if connection.transport is None or self._open.pop(connection.transport, None) is None:
            return
        self._peers[connection.peer] -= 1
        if not self._peers[connection.peer]:
            del self._peers[connection.peer]
        metrics.HTTP_CONNECTIONS.set(len(self._open))

    def make_room(self, peer: str, coming: int = 0) -> bool:
        """Whether one more may be opened; where there are too many, closes what has waited longest.

        A client that holds more than half of all places gives up one of its own, so that it cannot push out others.
        """
        if len(self._open) + coming < self.most:
            return True
        own = self._peers[peer] * 2 > self.most
        for connection in self._open.values():
            if connection.waits and (not own or connection.peer == peer):
                self._end(connection, "evicted")
                return True
        metrics.HTTP_CONNECTIONS_CLOSED.labels(reason="refused").inc()
        return False

    def sweep(self) -> None:
        """Close those whose client is too slow."""
        now = self.now()
        for connection in list(self._open.values()):
            what = connection.overdue(now, self._patience)
            if what is not None:
                self._end(connection, what)

    def close_waiting(self) -> None:
        """Close those that are not being answered."""
        for connection in list(self._open.values()):
            if connection.waits:
                connection.close()

    @web.middleware
    async def watch(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Notes on a request's connection that it is being answered."""
        connection = self._open.get(request.transport) if request.transport is not None else None
        if connection is None:
            return await handler(request)
        connection.begin(request)
        try:
            return await handler(request)
        finally:
            connection.end()
            if request.transport is not None and self._open.pop(request.transport, None) is not None:
                self._open[request.transport] = connection

    def _end(self, connection: Connection, reason: str) -> None:
        metrics.HTTP_CONNECTIONS_CLOSED.labels(reason=reason).inc()
        # It counts no longer, although the transport reports its end only later.
        self.closed(connection)
        connection.close()
