"""Usage that upstreams restate: only what grew since the last reading is given, exactly once, and kept in the cursor.

A reading that finds growth gives no record. It gives a cursor that says what will be given, and the next reading gives
exactly that, without asking the upstream. So whatever dies in between, the same records come again with the same ids.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from curb.stream.errors import PermanentError

#: Growth promised by one cursor; the rest of a reading waits for the next.
MAX_GROWN = 5000
#: Brokers refuse messages of 1 MB.
MAX_CURSOR_CHARS = 900_000


class Row(NamedTuple):
    """What the upstream says of one bucket and one combination of labels: sums so far."""

    start: float
    key: tuple[str, ...]
    numbers: tuple[float, ...]


class Grown(msgspec.Struct, array_like=True, frozen=True):
    """By how much a row grew. `ordinal` counts the growths of the same row from 0."""

    start: float
    key: tuple[str, ...]
    ordinal: int
    numbers: tuple[float, ...]

    def id(self, source: str, feed: str) -> str:
        """Unique per growth, the same whenever it is given."""
        digest = hashlib.sha256("\x1f".join((feed, *self.key)).encode("utf-8", "replace")).hexdigest()[:20]
        return f"{source}/{int(self.start)}/{digest}/{self.ordinal}"


class Feed(msgspec.Struct, omit_defaults=True):
    """One report of the upstream, as far as it was read.

    Buckets that start before `settled` are not asked for again. `seen` holds the sums of the others. `current_at` is
    the minute of the last reading up to the present; `grown` is recent unless it gathered over a pause since then.
    """

    settled: float
    seen: list[Grown] = []
    grown: list[Grown] = []
    current_at: float = 0.0
    recent: bool = msgspec.field(default=False, name="news")

    def take(self, rows: Iterable[Row], *, signed: bool = False) -> bool:
        """Promise the growth of `rows`; whether all of it fitted. A row that comes twice counts once.

        Numbers that shrank are ignored, unless `signed`: then the growth is negative, also of a row that is gone.
        """
        seen = {(row.start, row.key): row for row in self.seen}
        latest = {(row.start, row.key): row for row in rows}
        if signed:
            gone = (row for place, row in seen.items() if place not in latest)
            latest |= {(row.start, row.key): Row(row.start, row.key, (0.0,) * len(row.numbers)) for row in gone}
        for place in sorted(latest):
            if len(self.grown) >= MAX_GROWN:
                break
            row, before = latest[place], seen.get(place)
            known = before.numbers if before else (0.0,) * len(row.numbers)
            now = row.numbers if signed else tuple(map(max, row.numbers, known))
            if now == known:
                continue
            ordinal = before.ordinal + 1 if before else 0
            seen[place] = Grown(row.start, row.key, ordinal, now)
            more = tuple(a - b for a, b in zip(now, known, strict=True))
            self.grown.append(Grown(row.start, row.key, ordinal, more))
        else:
            self.seen = list(seen.values())
            return True
        self.seen = list(seen.values())
        return False

    def settle(self, before: float) -> None:
        """Buckets that start earlier are done with."""
        self.settled = max(self.settled, before)
        self.seen = [row for row in self.seen if row.start >= self.settled]


class Progress(msgspec.Struct, omit_defaults=True):
    """The cursor: every report by name, and whose turn it is."""

    feeds: dict[str, Feed] = {}
    turn: int = 0
    #: There is more to read at once when what is promised has been given.
    more: bool = False


def load(cursor: str | None) -> Progress:
    """What `dump` gave, or a new beginning."""
    if cursor is None:
        return Progress()
    return msgspec.json.decode(zlib.decompress(base64.b85decode(cursor)), type=Progress)


def dump(progress: Progress) -> str:
    """As text. Raises PermanentError when more is open than a cursor can hold."""
    text = base64.b85encode(zlib.compress(msgspec.json.encode(progress))).decode()
    if len(text) > MAX_CURSOR_CHARS:
        raise PermanentError("too many rows in the buckets that are read again: shorten reread_minutes or group_by")
    return text
