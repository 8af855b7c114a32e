"""The life of an action: considered, planned, applied, verified, and undone when its lease ends.

Every step is decided from durable facts and the ledger alone, and every step may be repeated: a worker that starts
anew, after a crash or on another machine, goes on where the ledger ends. Nothing waits in place: what failed in passing
is tried again in a later pass (`Backoff`), so that one gateway that is down holds up no other lease.

A lease ends when it was announced to end. If the alert still fires then, the old values are restored first; after
`limits.cool_down_minutes`, if a newer revision still burns more than 1.5 times what is expected, the action is planned
afresh, with fresh values and a new id. What a person undid is not done again for the same alert.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from actions.action import Action, DriftError, Effect, Outcome
from actions.aim import to_normal
from actions.book import Book
from actions.calls import Backoff, within
from actions.ledger import CURB_ITSELF, NOT_UNDONE, ActionState, action_id_for
from actions.limits import raises_a_limit, refusal
from actions.routing import Act, decide
from actions.settings import ActionsSettings
from stream.clock import Clock
from stream.errors import PermanentError, TransientError
from stream.records import Alert, LedgerEntry, LedgerState, Plan
from stream.retry import RetryPolicy

logger = logging.getLogger(__name__)

T = TypeVar("T")
Step = Callable[[], Awaitable[None]]

#: The burn is normal again at this many times the expected, or has fallen at this share of what it was.
NORMAL_BURN = 1.5
FALLEN_BURN = 0.5
#: How soon a refused alert, and a limit that does not read back, are looked at again.
_RECHECK_S = 60.0
_READ_BACK_AGAIN_S = 15.0
_POLICY = RetryPolicy(first_s=1.0, cap_s=60.0)


class ActionWorker:
    """Does all work of one configured action, one step at a time."""

    def __init__(
        self, name: str, action: Action, book: Book, clock: Clock, settings: ActionsSettings, *, call_timeout_s: float
    ) -> None:
        self.name = name
        self._action, self._book, self._clock, self._settings = action, book, clock, settings
        self._call_timeout_s = call_timeout_s
        self._backoff = Backoff(clock, _POLICY)
        #: Planned by this process and not applied yet: the target cannot hold our value already.
        self._fresh: set[str] = set()
        self._outcomes: dict[str, Outcome] = {}
        #: Undo commands that ended in a failure; asked once, answered once.
        self.answered: set[str] = set()
        #: What cannot be reached right now, for people: subject → error.
        self.problems: dict[str, str] = {}

    def take_over(self) -> None:
        """Another process may have acted since: trust nothing but the ledger."""
        self._fresh.clear()
        self._outcomes.clear()

    async def work(self) -> None:
        """One pass: what is due for open actions, then alerts that ask for a new one.

        Open actions are looked after between any two alerts, and the first failure ends the pass: however many alerts
        there are and however slow the other side is, a lease that ends waits for one call at most.
        """
        await self._advance_all()
        for alert in self._book.facts.firing():
            act = next((act for act in decide(alert, self._settings).act if act.name == self.name), None)
            if act is None:
                continue
            if not await self._guarded(f"{alert.alert_id}/plan", partial(self._consider, alert, act)):
                return
            await self._advance_all()

    async def _advance_all(self) -> None:
        for state in self._book.ledger.actions():
            if state.last.plan.action == self.name and (next_step := self._next_step(state)):
                what, step = next_step
                await self._guarded(f"{state.last.action_id}/{what}", step)

    async def _guarded(self, key: str, step: Step) -> bool:
        """Run a step if it is due. What it raises postpones it and never reaches the other steps; False says so."""
        if not self._book.active or not self._backoff.is_due(key):
            return True
        try:
            await step()
        except TransientError as error:
            self._note_problem(key, error)
            return False
        except Exception as error:  # a defect in one action must not keep other leases from ending
            logger.exception("step of an action failed", extra={"action": self.name, "step": key})
            self._note_problem(key, error)
            return False
        self.problems.pop(key, None)
        self._backoff.succeeded(key)
        return True

    def _note_problem(self, key: str, error: Exception) -> None:
        wait_s = self._backoff.failed(key, error)
        self.problems[key] = str(error)
        logger.warning(
            "will try again", extra={"action": self.name, "step": key, "error": str(error), "wait_s": round(wait_s, 1)}
        )

    # --- open actions ---

    def _next_step(self, state: ActionState) -> tuple[str, Step] | None:
        entry = state.last
        if not state.is_open and not state.is_stuck:
            return None
        if reason := self._why_undo(state):
            by, why = reason
            return "undo", lambda: self._undo(state, by, why)
        if entry.state == "planned":
            return "apply", lambda: self._begin(state)
        if entry.state == "applied":
            return "verify", lambda: self._verify(state)
        return None

    def _why_undo(self, state: ActionState) -> tuple[str, str] | None:
        """Who wants it undone and why, or None."""
        entry, facts = state.last, self._book.facts
        command = facts.undo_requests.get(entry.action_id)
        if command is not None and command.id not in self.answered:
            return command.by, f"asked for by {command.by}"
        if state.is_stuck:
            return None
        if entry.lease_expires_at is not None and self._clock.now() >= entry.lease_expires_at:
            return "curb", "the lease ended"
        is_over = not facts.is_firing(entry.alert_id)
        if is_over and (entry.state == "planned" or self._settings.restore_on_resolve):
            return "curb", "the alert is resolved"
        if entry.state == "planned" and facts.halted and entry.action_id not in self._fresh:
            return "curb", "halted before it was confirmed"
        return None

    async def _begin(self, state: ActionState) -> None:
        """Apply a plan. One that may have been tried before is read back first: a person may have been there since."""
        entry = state.last
        if entry.action_id in self._fresh:
            if self._book.facts.halted:
                await self._record(entry, "skipped", detail="halted: the kill switch is on")
                return
            self._fresh.discard(entry.action_id)
            await self._apply(entry)
            return
        try:
            effect = await self._call("verify", self._action.verify(entry.plan))
        except PermanentError as error:
            await self._undo(state, "curb", f"could not be confirmed: {error}")
            return
        if effect.in_force:
            await self._record(entry, "applied", detail="found in force")
        elif _is_between(effect, entry.plan):
            await self._apply(entry)
        else:
            await self._record(entry, "drift", detail=f"found {effect.values} before it was applied")

    async def _apply(self, entry: LedgerEntry) -> None:
        try:
            outcome = await self._call("apply", self._action.apply(entry.plan))
        except PermanentError as error:
            await self._record(entry, "failed", detail=str(error))
            return
        self._outcomes[entry.action_id] = outcome
        await self._record(entry, "applied", detail=outcome.detail)

    async def _verify(self, state: ActionState) -> None:
        """Effective means both: the target reads back as planned, and the burn fell."""
        entry = state.last
        applied_at = state.applied_at or entry.at
        is_late = self._clock.now() >= applied_at + self._settings.limits.verify_within_minutes * 60.0
        fell, burn = self._burn_since(entry, applied_at)
        if not fell and not is_late:
            return
        effect = await self._read_back(entry.plan)
        if fell and effect.in_force:
            await self._record(entry, "effective", detail=effect.detail, burn=burn)
        elif is_late:
            what = "the burn did not fall" if effect.in_force else f"the target reads {effect.values} {effect.detail}"
            await self._record(entry, "ineffective", detail=what.strip(), burn=burn)
        else:
            self._backoff.postpone(f"{entry.action_id}/verify", _READ_BACK_AGAIN_S)

    async def _read_back(self, plan: Plan) -> Effect:
        try:
            return await self._call("verify", self._action.verify(plan))
        except PermanentError as error:
            return Effect(in_force=False, values={}, detail=str(error))

    def _burn_since(self, entry: LedgerEntry, applied_at: float) -> tuple[bool, float | None]:
        """Whether the burn fell since `applied_at`, and what it is now in $/h. No alert any more means it fell."""
        fact = self._book.facts.alerts.get(entry.alert_id)
        if fact is None:
            return True, None
        alert = fact.alert
        if alert.status == "resolved":
            return True, alert.usd_per_hour
        before = entry.usd_per_hour_before or 0.0
        bound = max(NORMAL_BURN * alert.expected_usd_per_hour, FALLEN_BURN * before)
        return alert.updated_at > applied_at and alert.usd_per_hour <= bound, alert.usd_per_hour

    async def _undo(self, state: ActionState, by: str, why: str) -> None:
        entry = state.last
        command = self._book.facts.undo_requests.get(entry.action_id)
        try:
            await self._call("undo", self._action.undo(entry.plan, self._outcomes.get(entry.action_id)))
        except DriftError as error:
            await self._record(entry, "drift", by=by, detail=f"{error}; found {error.found}, left alone")
        except PermanentError as error:
            await self._record(entry, "failed", by=by, detail=f"{NOT_UNDONE}{error}")
            if command is not None:
                self.answered.add(command.id)
        else:
            await self._record(entry, "restored", by=by, detail=why)
        self._outcomes.pop(entry.action_id, None)
        self._fresh.discard(entry.action_id)

    # --- new actions ---

    async def _consider(self, alert: Alert, act: Act) -> None:
        attempts = self._book.ledger.attempts(alert.alert_id, self.name)
        if not self._book.caught_up or not self._may_try(alert, attempts, act):
            return
        if why := self._refusal(alert):
            await self._skip(alert, attempts, why)
            return
        try:
            plans = await self._call("plan", self._action.plan(alert, to_normal(alert)))
        except PermanentError as error:
            await self._start(alert, attempts, _no_plan(self.name), "failed", detail=str(error))
            return
        plan = plans[0] if plans else None
        if plan is None:
            await self._skip(alert, attempts, "nothing to do: no such subject, or it is limited already")
        elif raises_a_limit(plan):
            await self._start(alert, attempts, plan, "failed", detail="the plan would raise a limit; not done")
        else:
            await self._enter(alert, attempts, plan, act)

    def _may_try(self, alert: Alert, attempts: list[ActionState], act: Act) -> bool:
        if not attempts:
            return True
        last = attempts[-1].last
        if last.state == "shadow":
            return act.mode == "auto"
        if last.state == "restored" and last.by in CURB_ITSELF:
            has_rested = self._clock.now() >= last.at + self._settings.limits.cool_down_minutes * 60.0
            still_burns = alert.usd_per_hour > NORMAL_BURN * alert.expected_usd_per_hour
            return has_rested and alert.updated_at > last.at and still_burns
        return last.state == "skipped"

    def _refusal(self, alert: Alert) -> str:
        facts = self._book.facts
        return refusal(alert, self._book.ledger, self._settings, halted=facts.halted is not None, now=self._clock.now())

    async def _enter(self, alert: Alert, attempts: list[ActionState], plan: Plan, act: Act) -> None:
        """Into the ledger, durable before anything is changed. All is checked again: the world moved since."""
        async with self._book.planning:
            holder = self._book.ledger.holder(plan.target)
            if not self._book.active or not self._book.facts.is_firing(alert.alert_id):
                return  # both may have changed while the target was read
            why = self._refusal(alert) or (f"held: {holder.last.action_id} has the same target" if holder else "")
            if why:
                await self._skip(alert, attempts, why)
            elif act.mode == "shadow":
                await self._start(alert, attempts, plan, "shadow", detail="shadow mode: nothing was changed")
            else:
                expires_at = self._clock.now() + act.lease_s
                entry = await self._start(alert, attempts, plan, "planned", lease_expires_at=expires_at)
                self._fresh.add(entry.action_id)

    async def _skip(self, alert: Alert, attempts: list[ActionState], why: str) -> None:
        """Said once per alert; the alert is looked at again while it fires, for reasons may go away."""
        self._backoff.postpone(f"{alert.alert_id}/plan", _RECHECK_S)
        if not any(attempt.last.state == "skipped" for attempt in attempts):
            await self._start(alert, attempts, _no_plan(self.name), "skipped", detail=why)

    async def _start(
        self,
        alert: Alert,
        attempts: list[ActionState],
        plan: Plan,
        state: LedgerState,
        *,
        detail: str = "",
        lease_expires_at: float | None = None,
    ) -> LedgerEntry:
        entry = LedgerEntry(
            action_id=action_id_for(alert.alert_id, self.name, len(attempts) + 1),
            state=state,
            at=self._clock.now(),
            alert_id=alert.alert_id,
            fingerprint=alert.fingerprint,
            plan=plan,
            lease_expires_at=lease_expires_at,
            detail=detail,
            usd_per_hour_before=alert.usd_per_hour,
        )
        await self._book.record(entry)
        return entry

    # --- both ---

    async def _record(
        self, entry: LedgerEntry, state: LedgerState, *, detail: str = "", by: str = "curb", burn: float | None = None
    ) -> None:
        after = burn if burn is not None else entry.usd_per_hour_after
        now = self._clock.now()
        await self._book.record(
            msgspec.structs.replace(entry, state=state, at=now, by=by, detail=detail, usd_per_hour_after=after)
        )

    async def _call(self, what: str, call: Awaitable[T]) -> T:
        return await within(call, self._call_timeout_s, f"{self.name}.{what}")


def _no_plan(action: str) -> Plan:
    return Plan(action=action, target="", summary="", before={}, after={})


def _is_between(effect: Effect, plan: Plan) -> bool:
    """Every field still holds the old value or already holds ours."""
    return all(effect.values.get(name) in (plan.before.get(name), value) for name, value in plan.after.items())
