"""The process that accepts: gathers first requests, answers `/healthz`, passes all else to the daemon.

The daemon has one event loop. While it works off a flood, a probe would wait behind it and 2,000 half-open connections
would cost it turns. Here they cost the daemon nothing, and a probe is answered with how long the daemon's loop has
stood still. Nothing but the standard library is imported, so that the process starts in a tenth of a second.

Run by the port as `python -m curb.serve.acceptor ORDER`, with the sockets that listen and the channel as descriptors.
It ends when the daemon closes the channel, or ends itself.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NamedTuple

from curb.serve.channel import CONNECTION, COUNTS, FrameWriter
from curb.serve.connections import Connections, Patience
from curb.serve.gate import Newcomer
from curb.serve.leaving import BUSY, LINGER_S

#: Accepted in one turn of the loop; what else waits has its turn too.
_AT_A_TIME = 64
_SWEEP_EVERY_S = 1.0
#: Rest (seconds) after an accept failed: the reason rarely ends at once.
_AFTER_ERROR_S = 0.1
#: Rest (seconds) before a frame is tried again that the kernel did not take for another reason than a full channel.
_AGAIN_S = 0.01
#: Seconds between two beats of the daemon's loop.
BEAT_S = 0.25
#: The daemon's loop is said to stand still from here on (seconds). By hand: a snapshot of a large state takes seconds.
STALLED_S = 10.0
#: When the daemon stops, what is on its way to it gets so long (seconds).
_FLUSH_S = 2.0
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_HEALTH = re.compile(rb"(GET|HEAD) /healthz(?:\?[^ ]*)? HTTP/1\.[01]\r?\n")


class Order(NamedTuple):
    """What the port says to its acceptor; lists of descriptors, the rest as in `Place`."""

    listening: list[int]
    channel: int
    most: int
    head_s: float
    body_s: float
    #: Whether `/healthz` is answered here; else the daemon checks its token.
    health: bool


def health(stalled_s: float) -> tuple[int, dict[str, object]]:
    """The status and the answer of `/healthz`, for a loop that has shown no sign of life for so many seconds."""
    ok = stalled_s < STALLED_S
    return (200 if ok else 503), {"ok": ok, "stalled_s": round(stalled_s, 1)}


class Acceptor:
    """Accepts until the daemon is gone."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._channel = socket.socket(fileno=order.channel)
        self._channel.setblocking(False)
        self._listening = [socket.socket(fileno=each) for each in order.listening]
        self._table = Connections(order.most, Patience(order.head_s, order.body_s), time.monotonic)
        self._frames = FrameWriter(self._channel)
        self._beat_at = time.monotonic()
        self._gone = asyncio.Event()
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._errors, self._error = 0, ""
        #: Whether the channel is awaited, to take more.
        self._blocked = False

    async def run(self) -> None:
        """Until the daemon closes its end of the channel."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._hear)
        tasks = [asyncio.create_task(self._accept(each)) for each in self._listening]
        tasks.append(asyncio.create_task(self._sweep()))
        await self._gone.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self._listening:
            each.close()
        leaving = self._table.turn_away_waiting()
        self._channel.settimeout(_FLUSH_S)
        with suppress(OSError):
            self._frames.flush()
        self._channel.close()
        if leaving:
            await asyncio.sleep(LINGER_S)
        for connection in leaving:
            connection.close()

    def _hear(self) -> None:
        """Beats of the daemon's loop, one byte each."""
        try:
            data = self._channel.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._beat_at = time.monotonic()
        else:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._gone.set()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                self._failed(error, listening)
                await asyncio.sleep(_AFTER_ERROR_S)
                continue
            # Many may wait; one for each turn of the loop would leave a probe behind all of them.
            for left in reversed(range(_AT_A_TIME)):
                await self._take(accepted, str(address[0]))
                if not left:
                    break
                try:
                    accepted, address = listening.accept()
                except OSError:  # none waits, or what the next turn meets as well
                    break
                accepted.setblocking(False)
            await asyncio.sleep(0)

    async def _take(self, accepted: socket.socket, peer: str) -> None:
        """Into the gate, as soon as a place may be had; meanwhile the others wait with the kernel."""
        while wait_s := self._table.make_room(peer):
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:
                accepted.close()
                raise
        Newcomer(accepted, peer, self._table, self._pass_on)

    def _pass_on(self, newcomer: Newcomer, read: bytes) -> None:
        """A request is there: answer a probe, send all else to the daemon, refuse what it does not come to."""
        self._table.leave(newcomer)
        if self._order.health and (probe := _HEALTH.match(read)) is not None:
            self._hear()  # a beat may lie behind the probe
            late_s = max(0.0, time.monotonic() - self._beat_at - BEAT_S)
            _answer(newcomer.socket, late_s, whole=probe[1] == b"GET")
        elif len(self._frames) >= self._order.most:
            self._table.refused()
            refuse(newcomer.socket)
        else:
            self._frames.put(CONNECTION, newcomer.peer.encode() + b"\0" + read, newcomer.socket)
            self._flush()

    def _flush(self) -> None:
        if self._blocked or self._gone.is_set():
            return
        loop = asyncio.get_running_loop()
        try:
            if self._frames.flush():
                return
        except OSError as error:
            if error.errno == errno.EPIPE:
                return  # the daemon is gone; `_hear` says so
            # Too many descriptors are under way, or the kernel has no memory for one more.
            self._blocked = True
            loop.call_later(_AGAIN_S, self._unblocked)
            return
        self._blocked = True
        loop.add_writer(self._channel.fileno(), self._unblocked)

    def _unblocked(self) -> None:
        asyncio.get_running_loop().remove_writer(self._channel.fileno())
        self._blocked = False
        self._flush()

    def _failed(self, error: OSError, listening: socket.socket) -> None:
        """Without a descriptor, take the spare one to refuse the client that waits; else it would wait on."""
        self._errors, self._error = self._errors + 1, str(error)
        if error.errno in _NO_DESCRIPTOR and self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with suppress(OSError):
                refuse(listening.accept()[0])
        if self._spare is None:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    async def _sweep(self) -> None:
        """Close slow clients, and send counts."""
        shown = -1
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            self._table.sweep()
            closed, held = self._table.take_closed(), len(self._table)
            if closed or self._errors or held != shown:
                counts = {"open": held, "closed": closed, "errors": self._errors, "error": self._error}
                self._errors, shown = 0, held
                self._frames.put(COUNTS, json.dumps(counts).encode())
                self._flush()


def refuse(accepted: socket.socket) -> None:
    """Answer that there is no place, and close."""
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        accepted.send(BUSY)


def _answer(accepted: socket.socket, stalled_s: float, *, whole: bool) -> None:
    """What the probe asked for; without the body for HEAD."""
    status, found = health(stalled_s)
    body = json.dumps(found).encode()
    reason = "OK" if status == 200 else "Service Unavailable"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with accepted, suppress(OSError):
        accepted.send(head.encode() + (body if whole else b""))
        accepted.shutdown(socket.SHUT_WR)


def main() -> None:
    """Signals are for the daemon, which still answers while it drains; a closed channel ends this process."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    order = Order(**json.loads(sys.argv[1]))

    async def run() -> None:
        await Acceptor(order).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
