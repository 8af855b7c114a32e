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
from typing import NamedTuple

import msgspec

from curb.actions.action import Action, DriftError
from curb.actions.calls.bounded import Backoff, ended, undo, within
from curb.actions.ledger.ledger import NOT_UNDONE, REAPER, ActionState
from curb.actions.ledger.memory import Memory
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.records.spend import LedgerEntry, LedgerState
from curb.stream.retry import RetryPolicy

logger = logging.getLogger(__name__)

_POLICY = RetryPolicy(first_s=5.0, cap_s=120.0)


class _Wish(NamedTuple):
    """Which actions are to be ended, and what the ledger says of it."""

    is_due: Callable[[ActionState], bool]
    by: str
    why: str
    #: A person asks, now.
    asked: bool


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
        self._backoff = Backoff(clock, _POLICY)
        #: Said once per process, for nothing changes until a person does something.
        self._reported: set[str] = set()

    async def once(self) -> list[str]:
        """One pass over the ledger; the ids of actions that are overdue and may still be in force after it.

        TransientError when the log cannot be reached: call again later, whatever was done already.
        """
        return await self._end_all(_Wish(self._is_overdue, REAPER, "the lease ended", asked=False))

    async def overdue(self) -> list[LedgerEntry]:
        """The newest entry of everything that `once` would end."""
        await self._memory.read(self._clock.now())
        return [state.last for state in self._memory.ledger.actions() if self._is_overdue(state)]

    async def held(self) -> list[LedgerEntry]:
        """The newest entry of everything that may be in force."""
        await self._memory.read(self._clock.now())
        return [state.last for state in self._memory.ledger.actions() if _may_be_in_force(state)]

    async def newest(self, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
        """What the ledger says of the same actions now."""
        await self._memory.read(self._clock.now())
        found = (self._memory.ledger.action(entry.action_id) for entry in entries)
        return [state.last for state in found if state is not None]

    async def restore_all(self, by: str) -> list[str]:
        """Undo all that may be in force, whenever its lease ends; the ids of what may still be in force after it.

        What could not be undone before is tried again: a person asks.
        """
        return await self._end_all(_Wish(_may_be_in_force, by, f"asked for by {by}: restore all", asked=True))

    def _is_overdue(self, state: ActionState) -> bool:
        ends_at = state.last.lease_expires_at
        return _may_be_in_force(state) and ends_at is not None and self._clock.now() >= ends_at + self._grace_s

    async def _end_all(self, wish: _Wish) -> list[str]:
        await self._memory.read(self._clock.now())
        due = [state.last.action_id for state in self._memory.ledger.actions() if wish.is_due(state)]
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
        if state.is_stuck and not wish.asked:
            self._report_once(entry, f"{entry.detail}; a person must look")
            return False
        action = self._actions.get(entry.plan.action)
        if action is None:
            self._report_once(entry, f"the action {entry.plan.action!r} is no longer configured")
            return False
        if not self._backoff.is_due(action_id):
            return False
        if entry.state == "planned" and not entry.ending:
            entry = msgspec.structs.replace(entry, at=self._clock.now(), by=wish.by, detail=wish.why, ending=True)
            await self._memory.record(entry)
        outcome = await self._undo(action, entry, wish.why)
        if outcome is None:
            return False
        result, detail = outcome
        await self._memory.record(
            msgspec.structs.replace(entry, state=result, at=self._clock.now(), by=wish.by, detail=detail)
        )
        said = logger.info if result == "restored" else logger.error
        said(f"lease: {result}", extra={"action_id": action_id, "what": entry.plan.summary, "detail": detail})
        return result != "failed"

    async def _undo(self, action: Action, entry: LedgerEntry, why: str) -> tuple[LedgerState, str] | None:
        """State and detail for the ledger, or None: to be tried again in a later pass."""
        try:
            await within(undo(action, entry.plan, None), self._call_timeout_s, f"{entry.plan.action}.undo")
        except DriftError as error:
            return "drift", f"{error}; found {error.found}, left alone"
        except PermanentError as error:
            return "failed", f"{NOT_UNDONE}{error}"
        except TransientError as error:
            wait_s = self._backoff.failed(entry.action_id, error)
            logger.warning(
                "will try again",
                extra={"action_id": entry.action_id, "error": str(error), "wait_s": round(wait_s, 1)},
            )
            return None
        except Exception as error:  # a defect in one action must not keep other leases from ending
            logger.exception("undo failed", extra={"action_id": entry.action_id})
            self._backoff.failed(entry.action_id, error)
            return None
        return "restored", ended(entry.plan, why)

    def _report_once(self, entry: LedgerEntry, why: str) -> None:
        if entry.action_id not in self._reported:
            self._reported.add(entry.action_id)
            logger.error("overdue lease cannot be ended", extra={"action_id": entry.action_id, "why": why})


def _may_be_in_force(state: ActionState) -> bool:
    return state.is_open or state.is_stuck
