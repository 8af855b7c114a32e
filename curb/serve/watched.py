"""A connection of aiohttp, watched: the table of connections learns when its client made progress."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from curb.serve.connections import TOO_SLOW, Connections, Patience, Seat
from curb.serve.leaving import Leaving

#: A client that takes nothing of its answer for so long (seconds) is gone, or means to hold a place.
_STALLED_S = 20.0


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

    def turn_away(self) -> Leaving | None:
        """Answer a request that was begun that it is to be sent again later. For aiohttp it is lost."""
        is_begun = self._head_begun or self._request is not None
        leaving = None
        if self.transport is not None and is_begun and self._stalled_at is None:
            # aiohttp closes its own, and would write an answer of its own behind this one.
            leaving = Leaving(self.transport.get_extra_info("socket").dup())
        if self.transport is not None:
            self.transport.abort()
        return leaving


def watcher(table: Connections) -> Middleware:
    """A middleware that notes on a request's connection that it is being answered."""

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = table.seat(request.transport) if request.transport is not None else None
        if not isinstance(connection, Connection):
            return await handler(request)
        connection.begin(request)
        try:
            return await handler(request)
        finally:
            connection.end()
            if request.transport is not None:
                table.progress(request.transport, connection)

    return watch
