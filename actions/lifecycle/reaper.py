"""The reaper: gives limits back whose lease is over, or all of them when asked to, and writes it on the same ledger.

It only ever undoes; it never plans, applies or extends anything. It reads the log without joining a group, so it can
neither take the daemon's place nor hold it up. A living daemon ends its leases on time, and an action becomes the
reaper's only `grace_s` after its end, so while a daemon lives the reaper finds nothing.

Where both meet nevertheless (clocks that disagree, a daemon that just came back), nothing is harmed: undo is
compare-and-swap, so whoever comes second finds the old value and has nothing to do, and the ledger says `restored`
twice. A crash between undo and ledger is the same: the next pass finds the old value and writes `restored`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from curb.actions.action import Action, DriftError
from curb.actions.calls.bounded import ended, undo, within
from curb.actions.ledger.ledger import NOT_APPLIED, REAPER, ActionState
from curb.actions.ledger.memory import Memory
from curb.actions.lifecycle.give_back import in_vain, undo_backoff, why_ending
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.records.spend import LedgerEntry, LedgerState

logger = logging.getLogger(__name__)


class _Wish(NamedTuple):
    """Which actions are to be ended, and what the ledger says of it."""

    is_due: Callable[[ActionState], bool]
    by: str
    why: str


class Reaper:
    """Ends leases that have been over for `grace_s` seconds. `actions` by name; whoever built them closes them."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        actions: Mapping[str, Action],
        *,
        grace_s: float = 120.0,
        call_timeout_s: float = 15.0,
    ) -> None:
        self._clock, self._actions = clock, actions
        self._grace_s, self._call_timeout_s = grace_s, call_timeout_s
        self._memory = Memory(log)
        self._backoff = undo_backoff(clock)
        #: Said once per process, for nothing changes until a person does something.
        self._reported: set[str] = set()

    async def once(self) -> list[str]:
        """One pass over the ledger; the ids of actions that are overdue and may still be in force after it.

        TransientError when the log cannot be reached: call again later, whatever was done already.
        """
        return await self._end_all(_Wish(self._is_overdue, REAPER, "the lease ended"))

    async def overdue(self) -> list[LedgerEntry]:
        """The newest entry of everything that `once` would end."""
        await self._memory.read(self._clock.now())
        return [state.last for state in self._memory.ledger.live() if self._is_overdue(state)]

    async def held(self) -> list[LedgerEntry]:
        """The newest entry of everything that may be in force."""
        await self._memory.read(self._clock.now())
        return [state.last for state in self._memory.ledger.live() if state.is_held]

    async def newest(self, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
        """What the ledger says of the same actions now."""
        await self._memory.read(self._clock.now())
        found = (self._memory.ledger.action(entry.action_id) for entry in entries)
        return [state.last for state in found if state is not None]

    async def restore_all(self, by: str) -> list[str]:
        """Undo all that may be in force, whenever its lease ends; the ids of what may still be in force after it.

        What could not be undone before is tried again: a person asks.
        """
        return await self._end_all(_Wish(_is_held, by, f"asked for by {by}: restore all"))

    async def leave(self, action_id: str, by: str) -> LedgerEntry | None:
        """Say on the ledger that a person leaves an action in force; None when it is not in force."""
        await self._memory.read(self._clock.now())
        state = self._memory.ledger.action(action_id)
        if state is None or not state.is_held:
            return None
        detail = f"left in force by {by}: {state.last.plan.after} stays until somebody changes it"
        await self._record(state.last, "drift", by, detail)
        return state.last

    def _is_overdue(self, state: ActionState) -> bool:
        entry, ends_at = state.last, state.last.lease_expires_at
        if entry.ending and ends_at is not None:  # a person asked before its end, and it was in vain
            ends_at = min(ends_at, entry.next_try_at or entry.at)
        return state.is_held and ends_at is not None and self._clock.now() >= ends_at + self._grace_s

    async def _end_all(self, wish: _Wish) -> list[str]:
        await self._memory.read(self._clock.now())
        due = [state.last.action_id for state in self._memory.ledger.live() if wish.is_due(state)]
        return [action_id for action_id in due if not await self._end(action_id, wish)]

    async def _end(self, action_id: str, wish: _Wish) -> bool:
        """False when the limit may still be in force."""
        # Others before it may have taken long. If a daemon came back meanwhile it has ended the lease itself, and may
        # even have acted again on the same target: that is not for the reaper to undo.
        await self._memory.read(self._clock.now())
        state = self._memory.ledger.action(action_id)
        if state is None or not wish.is_due(state):
            return True
        entry = state.last
        action = self._actions.get(entry.plan.action)
        if action is None:
            self._report_once(entry, f"the action {entry.plan.action!r} is no longer configured")
            return False
        if not self._backoff.is_due(action_id):
            return False
        if entry.state == "planned" and not entry.ending:
            about = {"by": wish.by, "detail": wish.why, "ending": True, "ending_why": wish.why}
            entry = msgspec.structs.replace(entry, at=self._clock.now(), **about)
            await self._memory.record(entry)
        # Why it was begun to be given back says more than that the reaper found it.
        by, why = (wish.by, wish.why) if wish.by != REAPER else why_ending(state) or (wish.by, wish.why)
        try:
            await within(undo(action, entry.plan, None), self._call_timeout_s, f"{entry.plan.action}.undo")
        except DriftError as error:
            await self._record(entry, "drift", wish.by, f"{error}; found {error.found}, left alone")
        except (TransientError, PermanentError) as error:
            await self._in_vain(entry, error, by, why)
            return False
        except Exception as error:  # a defect in one action must not keep other leases from ending
            logger.exception("undo failed", extra={"action_id": action_id})
            await self._in_vain(entry, error, by, why)
            return False
        else:
            refused = entry.state == "planned" and why.startswith(NOT_APPLIED)
            await self._record(entry, "failed" if refused else "restored", by, ended(entry.plan, why))
        return True

    async def _in_vain(self, entry: LedgerEntry, error: Exception, by: str, why: str) -> None:
        """On the ledger, and to be tried again in a later pass."""
        wait_s = self._backoff.failed(entry.action_id, error)
        extra = {"action_id": entry.action_id, "error": str(error), "wait_s": round(wait_s, 1)}
        logger.warning("will try again", extra=extra)
        fields = in_vain(entry, error, by=by, why=why, now=self._clock.now(), wait_s=wait_s)
        await self._memory.record(msgspec.structs.replace(entry, at=self._clock.now(), **fields))

    async def _record(self, entry: LedgerEntry, to: LedgerState, by: str, detail: str) -> None:
        over: dict[str, Any] = {"overdue": False, "refusal": "", "next_try_at": None, "command_id": ""}
        changed = msgspec.structs.replace(entry, state=to, at=self._clock.now(), by=by, detail=detail, **over)
        await self._memory.record(changed)
        said = logger.info if to == "restored" else logger.error
        said(f"lease: {to}", extra={"action_id": entry.action_id, "what": entry.plan.summary, "detail": detail})

    def _report_once(self, entry: LedgerEntry, why: str) -> None:
        if entry.action_id not in self._reported:
            self._reported.add(entry.action_id)
            logger.error("overdue lease cannot be ended", extra={"action_id": entry.action_id, "why": why})


def _is_held(state: ActionState) -> bool:
    return state.is_held
