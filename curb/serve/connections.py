"""The open connections of the port: which of them are too slow, and which one gives its place to a new one.

The process that accepts has such a table too, so nothing but the standard library is imported here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

from curb.serve.leaving import Leaving

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

    def turn_away(self) -> Leaving | None:
        """The server ends: close it, but for a request that was begun, which gets an answer."""


class Connections:
    """At most `most` of them. `now` gives monotonic seconds."""

    def __init__(self, most: int, patience: Patience, now: Callable[[], float]) -> None:
        self.most, self.now, self._patience = most, now, patience
        #: By transport, or by what is to become a connection; those whose clients made no progress for longest first.
        self._open: dict[object, Seat] = {}
        self._peers: Counter[str] = Counter()
        #: How many were closed, by reason, since `take_closed` was called last.
        self._closed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, key: object, place: Seat) -> None:
        """It holds a place from now on."""
        self._open[key] = place
        self._peers[place.peer] += 1

    def leave(self, key: object) -> None:
        """It holds none any more."""
        place = self._open.pop(key, None)
        if place is None:
            return
        self._peers[place.peer] -= 1
        if not self._peers[place.peer]:
            del self._peers[place.peer]

    def seat(self, key: object) -> Seat | None:
        """What holds a place under this key."""
        return self._open.get(key)

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
                self.refused()
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

    def refused(self) -> None:
        """One more was refused, by who asked for its place."""
        self._closed["refused"] += 1

    def take_closed(self) -> Counter[str]:
        """How many were closed, by reason, since the last call."""
        closed, self._closed = self._closed, Counter()
        return closed

    def turn_away_waiting(self) -> list[Leaving]:
        """Turn away those that are not being answered. What is returned is to be closed after `LINGER_S`."""
        waiting = [(key, place) for key, place in self._open.items() if place.waits]
        for key, _ in waiting:
            self.leave(key)
        return [leaving for _, place in waiting if (leaving := place.turn_away()) is not None]

    def _end(self, key: object, place: Seat, reason: str) -> None:
        self._closed[reason] += 1
        # It counts no longer, although a transport reports its end only later.
        self.leave(key)
        place.close()
