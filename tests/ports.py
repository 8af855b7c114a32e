"""Ports for servers that a test starts, kills and starts again."""

from __future__ import annotations

import secrets
import socket

#: Below what systems give out by themselves (Linux from 32768, others from 49152). A port from up there can be taken
#: by any socket of another test while the server that owns it is down, and then the server cannot come back.
_FIRST, _LAST = 15_000, 32_000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that nobody is given who asks for just any port."""
    while True:
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
