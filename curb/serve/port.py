"""The daemon's HTTP port: accepts no more connections than it can hold, and closes those of slow clients.

aiohttp accepts until no descriptor is left, and asyncio then logs every failed try. So the port accepts by itself and
passes what it accepted to aiohttp.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from aiohttp import web

from curb.serve.connections import Connection, Connections, Patience
from curb.serve.gate import Newcomer
from curb.stream import metrics

logger = logging.getLogger(__name__)
#: Connections that the kernel holds until they are accepted; it may allow fewer. When they are too many it drops what
#: comes, and clients try again after a second.
_BACKLOG = 4096
#: Accepted in one turn of the loop; what else waits has its turn too.
_AT_A_TIME = 64
#: A kept connection without a request is closed after this (seconds); longer than load balancers keep theirs.
_KEEP_S = 620.0
#: How long (seconds) the rest of a refused body is read, so that its sender sees the answer.
_LINGER_S = 5.0
#: Answers in the making get so long (seconds) when the daemon stops.
_FINISH_S = 10.0
_SWEEP_EVERY_S = 1.0
#: Rest (seconds) after an accept failed: the reason rarely ends at once.
_AFTER_ERROR_S = 0.1
#: More descriptors than this are never needed, and some libraries walk through all that are allowed.
_MOST_DESCRIPTORS = 65_536
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Place(NamedTuple):
    """Where to listen, and for how many."""

    host: str
    port: int
    max_connections: int
    patience: Patience


def raise_descriptors() -> int:
    """Allow this process as many open files as the system lets it; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Port:
    """One application behind listening sockets. Half of all descriptors are left to the rest of the daemon."""

    def __init__(self, app: web.Application, place: Place) -> None:
        self._place = place
        most = min(place.max_connections, max(1, raise_descriptors() // 2))
        if most < place.max_connections:
            extra = {"wanted": place.max_connections, "most": most}
            logger.warning("fewer connections than configured: too few descriptors are allowed", extra=extra)
        self.connections = Connections(most, place.patience, time.monotonic)
        app.middlewares.insert(0, self.connections.watch)
        # Bodies are decompressed by who reads them, after the token was checked and within a bound.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_KEEP_S,
            lingering_time=_LINGER_S,
            shutdown_timeout=_FINISH_S,
        )
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        #: Being passed on to the server.
        self._coming: set[asyncio.Task[None]] = set()
        self._spare: int | None = None

    @property
    def number(self) -> int:
        """The number of the port it listens on."""
        found: int = self._sockets[0].getsockname()[1]
        return found

    async def open(self) -> None:
        """Listen. Raises OSError where that is impossible."""
        await self._runner.setup()
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._sockets = await _listen(self._place.host, self._place.port)
        self._tasks = [asyncio.create_task(self._accept(each), name="accept") for each in self._sockets]
        self._tasks.append(asyncio.create_task(self._sweep(), name="sweep"))

    async def serve(self) -> None:
        """Until `close`; raises what broke."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Accept no more, finish the answers in the making, close everything. May be called twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._coming, return_exceptions=True)
        self._tasks.clear()
        for each in self._sockets:
            each.close()
        self.connections.close_waiting()
        await self._runner.cleanup()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                self._failed(error, listening)
                await asyncio.sleep(_AFTER_ERROR_S)
                continue
            # While the loop is busy, many wait; one for each of its turns would leave a probe behind all of them.
            for _ in range(_AT_A_TIME):
                await self._take(accepted, str(address[0]))
                try:
                    accepted, address = listening.accept()
                except OSError:  # none waits, or what the next turn meets as well
                    break
                accepted.setblocking(False)
            await asyncio.sleep(0)

    async def _take(self, accepted: socket.socket, peer: str) -> None:
        """Into the gate, as soon as a place may be had; meanwhile the others wait with the kernel."""
        while (wait_s := self.connections.make_room(peer)) != 0.0:
            if wait_s is None:
                _refuse(accepted)
                return
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:
                accepted.close()
                raise
        Newcomer(accepted, peer, self.connections, self._pass_on)

    def _pass_on(self, newcomer: Newcomer, read: bytes) -> None:
        """A request is there: to the server with it."""
        task = asyncio.create_task(self._connect(newcomer, read), name="connect")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, newcomer: Newcomer, read: bytes) -> None:
        protocol = partial(self._protocol, newcomer, read)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, newcomer.socket)
        except OSError:  # gone already
            self.connections.leave(newcomer)
            newcomer.socket.close()

    def _protocol(self, newcomer: Newcomer, read: bytes) -> Connection:
        server = self._runner.server
        assert server is not None
        return Connection(server(), newcomer.peer, self.connections, read, newcomer)

    def _failed(self, error: OSError, listening: socket.socket) -> None:
        """Without a descriptor, take the spare one to refuse the client that waits; else it would wait on."""
        metrics.HTTP_ACCEPT_ERRORS.inc()
        if error.errno in _NO_DESCRIPTOR and self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with suppress(OSError):
                _refuse(listening.accept()[0])
        if self._spare is None:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)
        extra = {"error": str(error), "connections": len(self.connections)}
        logger.error("connections cannot be accepted", extra=extra)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            self.connections.sweep()


def _refuse(accepted: socket.socket) -> None:
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        accepted.send(_BUSY)


async def _listen(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of `host`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.setblocking(False)
            try:
                listening.bind(address)
            except OSError as error:
                text = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}"
                raise OSError(error.errno, text) from None
            listening.listen(_BACKLOG)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets
