"""The gate before the port's HTTP server: a connection costs little until a request of it is there.

Making a transport, a parser and a task for every connection is what a flood of half-open ones costs. So an accepted
socket is only watched, and read up to the end of its first request, or to the first part of a long body. What never
comes so far is closed from here.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from contextlib import suppress

from curb.serve.connections import TOO_SLOW, Connections, Patience
from curb.serve.leaving import Leaving

#: Bytes of a first request that are read here; a longer one is passed on when so much of it is there.
_MOST_BYTES = 32 * 1024
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,15})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
#: A body of unknown length, or a client that waits for a word before it sends one.
_UNKNOWN = re.compile(rb"^(transfer-encoding|expect|upgrade):", re.IGNORECASE | re.MULTILINE)


def is_there(read: bytes | bytearray) -> bool:
    """Whether a request is there, or as much of it as is read at the gate."""
    end = _END_OF_HEAD.search(read)
    if len(read) >= _MOST_BYTES or (end is not None and _UNKNOWN.search(read, 0, end.end())):
        return True
    if end is None:
        return False
    lengths = _LENGTH.findall(read, 0, end.end())
    # Several lengths are for the server to refuse.
    return len(lengths) != 1 or len(read) >= min(_MOST_BYTES, end.end() + int(lengths[0]))


class Newcomer:
    """An accepted socket of which no request is there yet. `pass_on` gets it with what was read."""

    def __init__(
        self, accepted: socket.socket, peer: str, table: Connections, pass_on: Callable[[Newcomer, bytes], None]
    ) -> None:
        self.peer, self.socket = peer, accepted
        self.since = self._began = table.now()
        self._table, self._pass_on = table, pass_on
        self._read = bytearray()
        self._head_is_there = False
        #: Being passed on: it is not for the gate to close it any more. Gone: its client has closed it.
        self._passed = self._gone = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(accepted.fileno(), self._readable)
        table.enter(self, self)
        self._readable()  # while the loop was busy its request may have come

    @property
    def waits(self) -> bool:
        """Whether its client is awaited."""
        return not self._passed

    def overdue(self, now: float, patience: Patience) -> str | None:
        """What the client was too slow with: head or body."""
        if self._passed:
            return None
        if not self._head_is_there:
            return "head" if now - self._began > patience.head_s else None
        return "body" if now - self._began > patience.body_s else None

    def has_more(self) -> bool:
        """Read what is there before its place is given away: while the loop is busy that may be its whole request."""
        before = len(self._read)
        self._readable()
        return self._gone or len(self._read) > before

    def close(self) -> None:
        """Close it at once; a request that was begun is answered that it took too long."""
        self._loop.remove_reader(self.socket.fileno())
        with suppress(OSError):
            if self._read:
                self.socket.send(TOO_SLOW)
            self.socket.close()

    def turn_away(self) -> Leaving | None:
        """Answer a request that was begun that it is to be sent again later."""
        if not self._read:
            self.close()
            return None
        self._loop.remove_reader(self.socket.fileno())
        return Leaving(self.socket)

    def _readable(self) -> None:
        try:
            data = self.socket.recv(_MOST_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._gone = True
            self._read.clear()
            self._table.leave(self)
            self.close()
            return
        self._read += data
        self._head_is_there = self._head_is_there or _END_OF_HEAD.search(self._read) is not None
        self._table.progress(self, self)
        if is_there(self._read):
            self._loop.remove_reader(self.socket.fileno())
            self._passed = True
            self._pass_on(self, bytes(self._read))
