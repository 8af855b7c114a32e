"""The connector seam: one upstream, read forward; the runner retries, sleeps, appends and saves the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import aiohttp

from stream.clock import Clock
from stream.log import Message
from stream.records import PlannedActivity, SpendRecord

if TYPE_CHECKING:
    from connectors.prices import PriceBook


class Context(NamedTuple):
    """What wiring hands to `Config.build`: shared things a connector may use but does not own."""

    clock: Clock
    http: aiohttp.ClientSession
    prices: PriceBook


class Batch(NamedTuple):
    """What one read gave. `cursor` is where the next read goes on; `more` asks for it at once."""

    records: Sequence[SpendRecord]
    cursor: str
    more: bool = False
    #: Dead letters for what could not be read; appended with the records.
    dead: Sequence[Message] = ()
    #: Where each record was read, parallel to `records`; goes into the dead letter when the door refuses the record.
    locations: Sequence[str] = ()
    #: Work that was announced in the source; goes to the commands topic.
    plans: Sequence[PlannedActivity] = ()


@runtime_checkable
class Connector(Protocol):
    """Reads one upstream.

    `read(cursor)` is called by the runner, one call at a time; None means "from the beginning". It returns what lies
    behind the cursor and the cursor behind that; called again with the same cursor it returns at least the same
    records with the same ids. It never retries, sleeps or writes: it raises TransientError or PermanentError.
    """

    async def read(self, cursor: str | None) -> Batch: ...

    async def close(self) -> None: ...


@runtime_checkable
class PushSource(Protocol):
    """Turns the body of one push request into records; the inbox answers 200 only after they are on the log.

    `parse` is pure: same body, same records. What cannot be read becomes dead letters, the rest is kept; it never
    raises for bad content. `location` names the request for dead letters, `at` is when it arrived (epoch seconds).
    """

    def parse(self, body: bytes, *, location: str, at: float) -> Batch: ...
