"""The action seam: one reversible thing Curb can do; the runner keeps the ledger, retries, verifies and undoes."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import aiohttp

from stream.clock import Clock
from stream.records import Alert, Plan


class Context(NamedTuple):
    """What wiring hands to `Config.build`: shared things an action or notifier may use but does not own."""

    clock: Clock
    http: aiohttp.ClientSession


class Outcome(NamedTuple):
    """What `apply` did: the values the other side holds now, read from its answer."""

    values: dict[str, Any]
    detail: str = ""


class Effect(NamedTuple):
    """What `verify` read back. `in_force` is True when the target holds the plan's `after` values."""

    in_force: bool
    values: dict[str, Any]
    detail: str = ""


class DriftError(Exception):
    """The target no longer holds the value Curb set: somebody else changed it, so undo must not touch it."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


class Action(Protocol):
    """Changes one kind of target. Every call may be repeated safely.

    `plan` only reads; it returns None when there is nothing to do (no such subject, or the limit found is already at
    or below what Curb would set). `before` and `after` hold absolute values of only the fields Curb changes; `after` is
    never above what was found. `apply` sets `after`. `verify` reads back. `undo` sets `before`, field by field, only
    where the field still equals `after`; where it equals `before` already there is nothing to do; anything else
    raises DriftError. They raise TransientError or PermanentError, and never retry or sleep.
    """

    permissions: ClassVar[tuple[str, ...]]

    async def plan(self, alert: Alert) -> Plan | None: ...

    async def apply(self, plan: Plan) -> Outcome: ...

    async def verify(self, plan: Plan) -> Effect: ...

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None: ...

    async def close(self) -> None: ...
