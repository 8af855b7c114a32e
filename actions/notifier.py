"""The notifier seam: tells people about an incident once, and edits what it said in place."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from stream.records import Alert, LedgerEntry


class Notice(NamedTuple):
    """What to say now about one incident: the newest revision and what Curb did about it so far."""

    #: Unique per (channel, alert_id, what it says); the outbox key and the idempotency key of the call.
    key: str
    alert: Alert
    ledger: tuple[LedgerEntry, ...] = ()


class Notifier(Protocol):
    """Sends notices to one channel.

    `send` posts a new message, or edits the one called `ref` in place where the channel can, and returns the
    reference of the message. `find` returns the reference of a message sent earlier with this key, or None where
    there is none or the channel cannot tell; it is asked after a crash between sending and remembering.
    They raise TransientError or PermanentError, and never retry or sleep.
    """

    async def send(self, notice: Notice, ref: str) -> str: ...

    async def find(self, key: str) -> str | None: ...

    async def close(self) -> None: ...
