"""How a push source speaks to its senders: most get Curb's own answers, some protocols have theirs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol, runtime_checkable

import msgspec
from aiohttp import web

from curb.connectors.connector import Batch, PushSource
from curb.stream.log.protocol import Message
from curb.stream.records.spend import DeadLetter

_UNREADABLE = frozenset({"not_json", "not_utf8"})


class Door(Protocol):
    """One request: its body is parsed and appended inside `order`, then `appended` is called, then it is answered."""

    #: Held from parse to appended; a lock where the one changes what the other means.
    order: AbstractAsyncContextManager[object]

    def parse(self, body: bytes, *, location: str, at: float) -> Batch: ...

    def refused(self, batch: Batch) -> str | None:
        """Why nothing of the body could be read, or None."""

    def appended(self) -> None:
        """What parse gave is on the log."""

    def answer(self, accepted: int, dead: int) -> web.Response: ...

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response: ...


@runtime_checkable
class Receiver(Protocol):
    """A push source with paths below its own and answers of its own.

    `door` gives None for a path it does not know. `content_type` is the request's, without parameters.
    """

    def door(self, path: str, content_type: str) -> Door | None: ...


class PlainDoor:
    """Curb's own answers: JSON with counts."""

    def __init__(self, source: PushSource) -> None:
        self._source = source
        self.order: AbstractAsyncContextManager[object] = nullcontext()

    def parse(self, body: bytes, *, location: str, at: float) -> Batch:
        return self._source.parse(body, location=location, at=at)

    def refused(self, batch: Batch) -> str | None:
        nothing = bool(batch.dead) and not batch.records and not batch.plans
        unreadable = nothing and all(_reason(letter) in _UNREADABLE for letter in batch.dead)
        return "the body is not JSON" if unreadable else None

    def appended(self) -> None:
        return None

    def answer(self, accepted: int, dead: int) -> web.Response:
        return web.json_response({"accepted": accepted, "dead": dead})

    def problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response({"error": detail}, status=status, headers=headers)


def _reason(letter: Message) -> str:
    return msgspec.json.decode(letter.value, type=DeadLetter).reason
