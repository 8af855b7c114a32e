"""The daemon's HTTP port: a process of its own accepts, and the daemon answers what it passes on.

aiohttp accepts until no descriptor is left, and asyncio then logs every failed try. So `curb.serve.acceptor` accepts,
and passes a connection on when a request of it is there.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import random
import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web

from curb.serve.acceptor import BEAT_S, Order, refuse
from curb.serve.channel import COUNTS, Frame, FrameReader
from curb.serve.connections import Connections, Patience
from curb.serve.leaving import LINGER_S, Leaving
from curb.serve.watched import Connection, watcher
from curb.stream import metrics
from curb.stream.retry import RetryPolicy

logger = logging.getLogger(__name__)
#: Connections that the kernel holds until they are accepted; it may allow fewer. When they are too many it drops what
#: comes, and clients try again after a second.
_BACKLOG = 4096
#: A kept connection without a request is closed after this (seconds); longer than load balancers keep theirs.
_KEEP_S = 620.0
#: How long (seconds) the rest of a refused body is read, so that its sender sees the answer.
_LINGER_S = 5.0
#: Answers in the making get so long (seconds) when the daemon stops.
_FINISH_S = 10.0
#: The acceptor gets so long (seconds) to pass on what it has when the daemon stops.
_END_S = 5.0
_SWEEP_EVERY_S = 1.0
#: Rests (seconds) before another acceptor is started after one has ended: short, as nobody is heard meanwhile, and
#: longer where one after the other ends, for which there is a reason that does not go by itself.
_AGAIN = RetryPolicy(first_s=0.5, cap_s=30.0)
#: An acceptor that ran for so long (seconds) ends for another reason than the one before it.
_SOUND_S = 60.0
#: How long (seconds) an address that is taken is tried: the acceptor of a daemon that was killed frees it in moments.
_TAKEN_S = 3.0
#: More descriptors than this are never needed, and some libraries walk through all that are allowed.
_MOST_DESCRIPTORS = 65_536


class Place(NamedTuple):
    """Where to listen, and for how many."""

    host: str
    port: int
    max_connections: int
    patience: Patience
    #: Whether anyone may ask `/healthz`, so that it is answered without the daemon.
    open_health: bool = False


def raise_descriptors() -> int:
    """Allow this process as many open files as the system lets it; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class _Coming:
    """The place of a connection that is on its way to the server."""

    waits = False

    def __init__(self, peer: str, since: float) -> None:
        self.peer, self.since = peer, since

    def overdue(self, now: float, patience: Patience) -> str | None:
        """Nobody waits for its client."""

    def has_more(self) -> bool:
        return False

    def close(self) -> None:
        """Its task does that."""

    def turn_away(self) -> Leaving | None:
        """Its task answers it."""


class Port:
    """One application behind listening sockets. Half of all descriptors are left to the rest of the daemon."""

    def __init__(self, app: web.Application, place: Place) -> None:
        self._place = place
        most = min(place.max_connections, max(1, raise_descriptors() // 2))
        if most < place.max_connections:
            extra = {"wanted": place.max_connections, "most": most}
            logger.warning("fewer connections than configured: too few descriptors are allowed", extra=extra)
        self.connections = Connections(most, place.patience, time.monotonic)
        app.middlewares.insert(0, watcher(self.connections))
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
        self._acceptor: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        #: Connections of which the acceptor has no request yet.
        self._at_the_gate = 0
        self._closing = False
        self._rng = random.Random()

    @property
    def number(self) -> int:
        """The number of the port it listens on."""
        found: int = self._sockets[0].getsockname()[1]
        return found

    @property
    def acceptor_pid(self) -> int | None:
        """The process that accepts, while there is one."""
        return self._acceptor.pid if self._acceptor is not None else None

    async def open(self) -> None:
        """Listen. Raises OSError where that is impossible."""
        await self._runner.setup()
        self._sockets = await _listen(self._place.host, self._place.port)
        self._start_acceptor()
        self._tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (("arrivals", self._arrivals()), ("beat", self._beat()), ("sweep", self._sweep()))
        ]

    async def serve(self) -> None:
        """Until `close`; raises what broke."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Accept no more, finish the answers in the making, close everything. May be called twice."""
        self._closing = True
        for each in self._sockets:
            each.close()
        arrivals, *others = self._tasks or (None,)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if arrivals is not None:
            with suppress(OSError):
                if self._channel is not None:
                    self._channel.shutdown(socket.SHUT_WR)
            # What was passed on before is answered.
            await asyncio.wait([arrivals], timeout=_END_S)
            arrivals.cancel()
            await asyncio.gather(arrivals, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*self._coming, return_exceptions=True)
        leaving = self.connections.turn_away_waiting()
        await asyncio.gather(self._end_acceptor(), asyncio.sleep(LINGER_S if leaving else 0.0))
        for connection in leaving:
            connection.close()
        await self._runner.cleanup()

    def _start_acceptor(self) -> None:
        """Start the process that accepts. It gets the listening sockets and one end of the channel."""
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        listening = [each.fileno() for each in self._sockets]
        patience = self._place.patience
        order = Order(
            listening, theirs.fileno(), self.connections.most, patience.head_s, patience.body_s, self._place.open_health
        )
        with theirs:
            self._acceptor = subprocess.Popen(
                [sys.executable, "-P", "-m", "curb.serve.acceptor", json.dumps(order._asdict())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *listening),
            )

    async def _end_acceptor(self) -> int | None:
        """Close the channel, which ends it, and wait for it. Its exit code; None where there was none."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is None:
            return None
        try:
            return await asyncio.to_thread(acceptor.wait, _END_S)
        except subprocess.TimeoutExpired:
            acceptor.kill()
            return await asyncio.to_thread(acceptor.wait)

    async def _beat(self) -> None:
        """Show the acceptor that the loop goes round."""
        while True:
            if self._channel is not None:
                # A full channel holds beats enough, and a closed channel is for `_arrivals`.
                with suppress(OSError):
                    self._channel.send(b".")
            await asyncio.sleep(BEAT_S)

    async def _arrivals(self) -> None:
        """Take what the acceptor passes on; start another one when it ends before the port is closed."""
        ended = 0
        while not self._closing:
            began = time.monotonic()
            if self._channel is not None:
                await self._follow(self._channel)
                if self._closing:
                    return
            metrics.HTTP_ACCEPT_ERRORS.inc()
            ended = 1 if time.monotonic() - began > _SOUND_S else ended + 1
            wait_s = _AGAIN.wait(ended - 1, None, self._rng)
            code = await self._end_acceptor()
            if code is not None:
                extra = {"code": code, "times": ended, "wait_s": round(wait_s, 1)}
                logger.error("the process that accepts connections has ended; another one is started", extra=extra)
            await asyncio.sleep(wait_s)
            try:
                if not self._closing:
                    self._start_acceptor()
            except OSError as error:  # no descriptor, process or memory is left now: the rest of the daemon goes on
                await self._end_acceptor()
                logger.error("no process that accepts connections can be started", extra={"error": str(error)})

    async def _follow(self, channel: socket.socket) -> None:
        """Until the acceptor ends, or is cut off because it cannot be followed."""
        frames, there = FrameReader(channel), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(channel.fileno(), there.set)
        try:
            while True:
                await there.wait()
                there.clear()
                for frame in frames.read():
                    await self._arrived(frame)
                await asyncio.sleep(0)
        except EOFError:
            return
        except OSError as error:
            logger.error("connections are lost on their way", extra={"error": str(error)})
        finally:
            loop.remove_reader(channel.fileno())
            frames.close()

    async def _arrived(self, frame: Frame) -> None:
        if frame.kind == COUNTS:
            self._count(json.loads(frame.payload))
        elif frame.connection is not None:
            peer, _, read = frame.payload.partition(b"\0")
            await self._take(frame.connection, peer.decode(), read)

    async def _take(self, accepted: socket.socket, peer: str, read: bytes) -> None:
        """To the server, as soon as a place may be had; meanwhile the others wait with the acceptor."""
        while (wait_s := self.connections.make_room(peer)) != 0.0:
            if wait_s is None:
                refuse(accepted)
                return
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:
                accepted.close()
                raise
        accepted.setblocking(False)
        coming = _Coming(peer, self.connections.now())
        self.connections.enter(coming, coming)
        task = asyncio.create_task(self._connect(accepted, coming, read), name="connect")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, accepted: socket.socket, coming: _Coming, read: bytes) -> None:
        protocol = partial(self._protocol, coming, read)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, accepted)
        except OSError:  # gone already
            self.connections.leave(coming)
            accepted.close()

    def _protocol(self, coming: _Coming, read: bytes) -> Connection:
        server = self._runner.server
        assert server is not None
        return Connection(server(), coming.peer, self.connections, read, coming)

    def _count(self, counts: dict[str, Any]) -> None:
        """Of the acceptor: what it holds, what it closed, and why it could not accept."""
        self._at_the_gate = counts["open"]
        for reason, count in counts["closed"].items():
            metrics.HTTP_CONNECTIONS_CLOSED.labels(reason=reason).inc(count)
        if counts["errors"]:
            metrics.HTTP_ACCEPT_ERRORS.inc(counts["errors"])
            extra = {"error": counts["error"], "connections": counts["open"]}
            logger.error("connections cannot be accepted", extra=extra)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            self.connections.sweep()
            for reason, count in self.connections.take_closed().items():
                metrics.HTTP_CONNECTIONS_CLOSED.labels(reason=reason).inc(count)
            metrics.HTTP_CONNECTIONS.set(len(self.connections) + self._at_the_gate)


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
                await _bind(listening, address)
            except OSError as error:
                text = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}"
                raise OSError(error.errno, text) from None
            listening.listen(_BACKLOG)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


async def _bind(listening: socket.socket, address: Any) -> None:
    """Bind it, again while the address is taken: whoever has it may be about to end."""
    until = time.monotonic() + _TAKEN_S
    while True:
        try:
            listening.bind(address)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise
        await asyncio.sleep(0.1)
