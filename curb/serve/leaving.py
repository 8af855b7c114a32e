"""Connections that are turned away while the server ends: each is answered, and what still comes of it is thrown away.

A connection that is closed with unread bytes is reset, and its client, still sending, may never see the answer.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
#: What still comes is read for so long (seconds).
LINGER_S = 1.0
_READ_BYTES = 64 * 1024


class Leaving:
    """Answers a request that was begun that it is to be sent again later. The socket is closed by `close`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._loop = connection, asyncio.get_running_loop()
        connection.setblocking(False)
        self._loop.add_reader(connection.fileno(), self._readable)
        with suppress(OSError):
            connection.send(BUSY)
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """May be called twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        try:
            if self._socket.recv(_READ_BYTES):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.close()
