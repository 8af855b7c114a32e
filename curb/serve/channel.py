"""Connections and counts from the process that accepts to the daemon, over one socket; frames with descriptors.

The first byte of a frame with a connection carries the connection's descriptor (SCM_RIGHTS), so descriptors come in the
order of their frames.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from contextlib import suppress
from typing import NamedTuple

#: Kind of a frame, and the bytes of its payload.
_HEAD = struct.Struct("!cI")
CONNECTION, COUNTS = b"C", b"N"
_READ_BYTES = 256 * 1024
#: Descriptors in one read. The kernel ends a read behind each; a few more cost nothing.
_DESCRIPTORS = 16


class Frame(NamedTuple):
    """`connection` is there for the kind CONNECTION, blocking as it was made."""

    kind: bytes
    payload: bytes
    connection: socket.socket | None


class FrameWriter:
    """Writes frames to a socket that does not block, as far as it takes them."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[tuple[memoryview, socket.socket | None]] = deque()

    def __len__(self) -> int:
        """Frames that wait."""
        return len(self._waiting)

    def put(self, kind: bytes, payload: bytes, connection: socket.socket | None = None) -> None:
        """Queue a frame. `connection` is closed here once it is sent."""
        self._waiting.append((memoryview(_HEAD.pack(kind, len(payload)) + payload), connection))

    def flush(self) -> bool:
        """Write what is taken now; False while some waits. Raises OSError where nobody reads any more."""
        while self._waiting:
            data, connection = self._waiting[0]
            try:
                if connection is not None:
                    sent = socket.send_fds(self._channel, [data], [connection.fileno()])
                else:
                    sent = self._channel.send(data)
            except (BlockingIOError, InterruptedError):
                return False
            if connection is not None:
                connection.close()
            if sent < len(data):
                self._waiting[0] = (data[sent:], None)
            else:
                self._waiting.popleft()
        return True

    def close(self) -> None:
        """Close connections that were not sent."""
        for _, connection in self._waiting:
            if connection is not None:
                with suppress(OSError):
                    connection.close()
        self._waiting.clear()


class FrameReader:
    """Reads frames from a socket that does not block."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._read = bytearray()
        self._descriptors: deque[int] = deque()

    def read(self) -> list[Frame]:
        """What has come whole. Raises EOFError at the end, OSError for a descriptor that was lost."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._channel, _READ_BYTES, _DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return []
        self._descriptors += descriptors
        if flags & socket.MSG_CTRUNC:
            # From here on a connection would get what another client sent.
            raise OSError("a descriptor was lost: too many are open")
        if not data:
            raise EOFError
        self._read += data
        return list(self._frames())

    def close(self) -> None:
        """Close connections whose frame never came whole."""
        while self._descriptors:
            socket.socket(fileno=self._descriptors.popleft()).close()

    def _frames(self) -> list[Frame]:
        frames, at = [], 0
        while len(self._read) - at >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._read, at)
            end = at + _HEAD.size + length
            if len(self._read) < end:
                break
            connection = socket.socket(fileno=self._descriptors.popleft()) if kind == CONNECTION else None
            frames.append(Frame(kind, bytes(self._read[at + _HEAD.size : end]), connection))
            at = end
        del self._read[:at]
        return frames
