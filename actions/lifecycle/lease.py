"""The life of an action after it was entered in the ledger: applied, verified, watched, undone when its lease ends.

Every step is decided from durable facts and the ledger alone, and every step may be repeated: a worker that
starts again, after a crash or on another machine, goes on where the ledger ends. Nothing waits in place: what failed
in passing is tried again in a later pass (`Backoff`), so that one gateway that is down holds up no other lease.

A lease ends when it was announced to end, by the wall clock or by the seconds counted, whichever is first. If the alert
still fires then, the old values are restored first; after the rung's cool-down, if a newer revision still burns more
than 1.5 times what is expected, the action is planned afresh, with fresh values and a new id. What a person undid is
not done again for the same alert. How an action comes into the ledger is in `propose.py` and `answer.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from curb.actions.action import Action, DriftError, Effect, GoneError
from curb.actions.calls.bounded import Backoff, Turns, ended, undo
from curb.actions.ledger.ledger import NOT_APPLIED, SOMEBODY, ActionState, Ledger
from curb.actions.ledger.memory import Memory
from curb.actions.lifecycle.action_calls import ActionCalls
from curb.actions.lifecycle.answer import Approvals
from curb.actions.lifecycle.ceilings import Ceilings
from curb.actions.lifecycle.give_back import NotGivenBackError, in_vain, why_ending
from curb.actions.lifecycle.propose import Proposals
from curb.actions.policy.guards import must_not_touch
from curb.actions.policy.ladder import FALLEN_BURN, NORMAL_BURN, climb
from curb.actions.policy.roles import is_one_of
from curb.actions.policy.routing import Ladder, decide
from curb.actions.settings import ActionsSettings
from curb.actions.target import normal_usd_per_hour
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Alert, Command, LedgerEntry, LedgerState, Plan

logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]

#: Seconds until a limit that does not read back is read again. By hand: gateways apply a change within that.
_READ_BACK_AGAIN_S = 15.0
#: Seconds between two reads of a limit in force. By hand: a change by a person is noticed, at 12 calls an hour.
_WATCH_S = 300.0
#: Seconds that open actions wait at most while new alerts are looked at. By hand: unnoticed in a lease of minutes.
_AT_MOST_S = 0.25
#: Seconds until an alert is looked at again of which nothing was heard. By hand: rungs and rests last minutes.
_LOOK_AGAIN_S = 1.0
#: Seconds in vain, in passing, until an undo is reported, and between reports. By hand: longer than a restart.
_OVERDUE_S = 60.0


class _Look(NamedTuple):
    """What an alert asked for when it was looked at last, and until when nothing else is to be expected of it."""

    alert: Alert
    ladders: tuple[Ladder, ...]
    #: Entries about it on the ledger then.
    entries: int
    until: float


class ActionWorker:
    """Does all work of one configured action, one step at a time."""

    def __init__(
        self,
        name: str,
        action: Action,
        memory: Memory,
        clock: Clock,
        settings: ActionsSettings,
        *,
        call_timeout_s: float,
    ) -> None:
        self.name = name
        self._action, self._memory, self._clock, self._settings = action, memory, clock, settings
        self._calls = ActionCalls(name, action, memory, clock, settings, call_timeout_s=call_timeout_s)
        self._proposals = Proposals(self._calls)
        self._ceilings = Ceilings(self._calls)
        self._approvals = Approvals(self._calls, self._proposals, self._ceilings)
        self._backoff = self._calls.backoff
        #: The last look at each alert that fires, and the ledger that it was about.
        self._looks: dict[str, _Look] = {}
        self._looked_in: Ledger | None = None
        self._turns = Turns()
        #: Actions whose target did not read back when last looked at.
        self._missed: set[str] = set()
        #: Undo commands that were tried in vain: what they ask for is on the ledger, and it is tried again.
        self.answered: set[str] = set()
        #: Undo commands for which a wait was cut short, and since when (on the steady clock) an undo is in vain.
        self._heard: set[str] = set()
        self._in_vain_since: dict[str, float] = {}
        #: What cannot be reached right now, for people: subject → error.
        self.problems: dict[str, str] = {}

    def take_over(self) -> None:
        """Another process may have acted since: trust nothing but the ledger."""
        self._calls.take_over()
        self._missed.clear()

    async def work(self) -> None:
        """One pass: what is due for open actions, then alerts that ask for a new one.

        Open actions are looked after between any two alerts that took time, and the first failure ends the pass:
        however many alerts there are and however slow the other side is, a lease that ends waits for one call at most.
        """
        # What an earlier pass planned and did not come to is read back first: a person may have been there since.
        self._calls.fresh.clear()
        await self._advance_all()
        for key, command in list(self._memory.inbox.proposals.items()):
            if command.args["action"] == self.name:
                await self._guarded(f"{key}/propose", partial(self._proposals.propose, command))
        advanced_at = self._clock.steady()
        for alert in self._to_look_at():
            if not await self._look_at(alert):
                return
            if self._clock.steady() - advanced_at >= _AT_MOST_S:
                await self._advance_all()
                advanced_at = self._clock.steady()
            else:
                await self._advance(self._memory.ledger.for_alert(alert.alert_id))
            await self._turns.give_way()
        await self._look_at_ceilings(advanced_at)

    def _to_look_at(self) -> list[Alert]:
        """Alerts that fire, the most expensive first, without those of which nothing else is to be expected yet."""
        memory, steady = self._memory, self._clock.steady()
        if self._looked_in is not memory.ledger:
            self._looks, self._looked_in = {}, memory.ledger
        facts = memory.inbox.alerts
        if len(self._looks) > len(facts):
            self._looks = {alert_id: look for alert_id, look in self._looks.items() if alert_id in facts}
        looks, found = self._looks, []
        for alert_id, fact in facts.items():
            look, alert = looks.get(alert_id), fact.alert
            if (alert.status == "firing" and (look is None or look.alert is not alert or look.until <= steady)) or (
                look is not None and look.entries != memory.ledger.entries_about(alert_id)
            ):
                found.append(alert)
        return sorted(found, key=lambda alert: -alert.dollars_at_risk)

    async def _look_at(self, alert: Alert) -> bool:
        """Consider what its rung asks for; False when that failed."""
        look, ledger = self._looks.get(alert.alert_id), self._memory.ledger
        ladders = look.ladders if look is not None and look.alert is alert else decide(alert, self._settings).ladders
        key, again_s = f"{alert.alert_id}/plan", _LOOK_AGAIN_S if ladders else math.inf
        entries = ledger.entries_about(alert.alert_id)
        for ladder in ladders:
            states = ledger.for_alert(alert.alert_id)
            step = climb(ladder, states, alert, self._clock.now()).step
            act = next((act for act in step.acts if act.name == self.name), None)
            if act is None:
                continue
            consider = partial(self._proposals.consider, alert, act.suited(self._action.verbs))
            if not await self._guarded(key, consider):
                return False
        if self._memory.caught_up and self._memory.may_work:
            until = self._clock.steady() + (self._backoff.wait_s(key) or again_s)
            self._looks[alert.alert_id] = _Look(alert, ladders, entries, until)
        return True

    async def _look_at_ceilings(self, advanced_at: float) -> None:
        """Ceilings come last: nothing burns where they are due."""
        for ceiling in self._ceilings.due():
            if not await self._guarded(self._ceilings.key(ceiling), partial(self._ceilings.consider, ceiling)):
                return
            await self._advance(self._ceilings.states(ceiling))
            if self._clock.steady() - advanced_at >= _AT_MOST_S:
                self._ceilings.look_again()  # the next pass goes on with the others
                return
        await self._guarded(self._ceilings.ASK, self._ceilings.ask)

    async def _advance_all(self) -> None:
        ledger = self._memory.ledger
        late = [state for each in self._memory.inbox.approvals if (state := ledger.action(each)) is not None]
        await self._advance([*ledger.live(), *late])

    async def _advance(self, states: Iterable[ActionState]) -> None:
        for state in states:
            if state.last.plan.action == self.name and (next_step := self._next_step(state)):
                what, step = next_step
                await self._guarded(f"{state.last.action_id}/{what}", step)

    async def _guarded(self, key: str, step: Step) -> bool:
        """Run a step if it is due. What it raises postpones it and never reaches the other steps; False says so."""
        if not self._memory.may_work or not self._backoff.is_due(key):
            return True
        try:
            await step()
        except NotGivenBackError:
            return False
        except (TransientError, PermanentError) as error:
            self._note_problem(key, error, self._backoff)
            return False
        except Exception as error:  # a defect in one action must not keep other leases from ending
            logger.exception("step of an action failed", extra={"action": self.name, "step": key})
            self._note_problem(key, error, self._backoff)
            return False
        self.problems.pop(key, None)
        self._backoff.succeeded(key)
        return True

    def _note_problem(self, key: str, error: Exception, backoff: Backoff) -> float:
        wait_s = backoff.failed(key, error)
        self.problems[key] = str(error)
        logger.warning(
            "will try again", extra={"action": self.name, "step": key, "error": str(error), "wait_s": round(wait_s, 1)}
        )
        return wait_s

    # --- what comes next ---

    def _next_step(self, state: ActionState) -> tuple[str, Step] | None:
        entry = state.last
        if self._approvals.are_due(state):
            return "answer", lambda: self._approvals.settle(state)
        if not state.is_held:
            return None
        command = self._memory.inbox.undo_requests.get(entry.action_id)
        if command is not None and command.kind == "leave":
            return "leave", lambda: self._leave(state, command)
        wish = self._memory.inbox.extensions.get(entry.action_id)
        if wish is not None and state.in_force and command is None and not state.has_answered(wish.id):
            return "extend", lambda: self._extend(state, wish)
        if reason := self._why_undo(state):
            by, why = reason
            return ("undo", lambda: self._undo(state, by, why)) if self._undo_is_due(entry, command) else None
        if entry.state == "planned":
            return "apply", lambda: self._begin(state)
        if entry.state == "applied":
            return "verify", lambda: self._verify(state)
        is_watched = entry.read_back and (not state.is_standing or self._ceilings.must_renew(entry))
        return ("watch", lambda: self._watch(state)) if is_watched else None

    def _why_undo(self, state: ActionState) -> tuple[str, str] | None:
        """Who wants it undone and why, or None."""
        entry, inbox = state.last, self._memory.inbox
        command = inbox.undo_requests.get(entry.action_id)
        if command is not None and command.id not in self.answered:
            return command.by, f"asked for by {command.by}"
        if reason := why_ending(state):
            return reason
        if self._calls.lease_is_over(entry):
            return "curb", "the lease ended"
        if state.is_standing and (over := self._ceilings.why_end(state)):
            return "curb", over
        is_over = not state.is_standing and not inbox.is_firing(entry.alert_id)
        if is_over and (entry.state == "planned" or self._settings.restore_on_resolve):
            return "curb", "the alert is resolved"
        if entry.state == "planned" and (marked := must_not_touch(entry, self._settings.limits)):
            return "curb", marked
        if entry.state == "planned" and inbox.halted and entry.action_id not in self._calls.fresh:
            return "curb", "halted before it was confirmed"
        if (why := self._memory.make_way.get(entry.action_id)) and not inbox.halted:
            return "curb", why
        if self._steps_down(state):
            return "curb", f"stepped down: the burn has been normal for {self._settings.step_down_minutes:g} minutes"
        return None

    def _undo_is_due(self, entry: LedgerEntry, command: Command | None) -> bool:
        """Whether an undo may be tried now; what a person asks for does not wait for the next try."""
        key = f"{entry.action_id}/undo"
        if command is not None and command.id not in self._heard:
            self._heard.add(command.id)
            self._calls.undo_backoff.reset(key)
        return self._calls.undo_backoff.is_due(key)

    def _steps_down(self, state: ActionState) -> bool:
        """Above the first rung, the highest of an alert ends when the burn has been normal for a while."""
        entry = state.last
        if entry.rung <= 1 or entry.state != "effective":
            return False
        fact, steady = self._memory.inbox.alerts.get(entry.alert_id), self._clock.steady()
        alert = None if fact is None else fact.alert
        if alert is not None and alert.status == "firing" and alert.usd_per_hour > _normal(alert, entry):
            self._memory.calm_since.pop(entry.alert_id, None)
            return False
        since = self._memory.calm_since.setdefault(entry.alert_id, steady)
        others = self._memory.ledger.for_alert(entry.alert_id)
        is_highest = not any(other.is_open and other.last.rung > entry.rung for other in others)
        return is_highest and steady >= since + self._settings.step_down_minutes * 60.0

    # --- apply and verify ---

    async def _begin(self, state: ActionState) -> None:
        """Apply a plan. A plan that may have been tried before is read back first: a person may have come since."""
        entry = state.last
        if entry.action_id in self._calls.fresh:
            if self._memory.inbox.halted:
                await self._calls.record(state, "skipped", detail="halted: the kill switch is on")
                return
            self._calls.fresh.discard(entry.action_id)
            await self._apply(state)
            return
        try:
            effect = await self._calls.call("verify", self._action.verify(entry.plan))
        except PermanentError as error:
            await self._undo(state, "curb", f"could not be confirmed: {error}")
            return
        if effect.in_force:
            await self._calls.record(state, "applied", detail="found in force", read_back=True)
        elif _is_between(effect, entry.plan):
            await self._apply(state)
        else:
            await self._calls.record(state, "drift", detail=f"found {effect.values} before it was applied")

    async def _apply(self, state: ActionState) -> None:
        entry = state.last
        try:
            outcome = await self._calls.call("apply", self._action.apply(entry.plan))
        except PermanentError as error:
            await self._apply_refused(state, error)
            return
        self._calls.outcomes[entry.action_id] = outcome
        # The time the burn was normal counts from here: a rung never steps down on what was before it.
        self._memory.calm_since.pop(entry.alert_id, None)
        await self._calls.record(state, "applied", detail=outcome.detail)

    async def _apply_refused(self, state: ActionState, error: PermanentError) -> None:
        """It may have taken several calls, so nothing is over before the target shows that nothing of it is there."""
        plan = state.last.plan
        try:
            values = (await self._calls.call("verify", self._action.verify(plan))).values
        except GoneError:
            values = {}
        except (TransientError, PermanentError):
            values = dict(plan.after)
        done = [name for name, value in plan.after.items() if name in values and values[name] == value]
        if all(plan.before.get(name) == plan.after[name] for name in done):
            await self._calls.record(state, "failed", detail=str(error))
        else:
            await self._undo(state, "curb", f"{NOT_APPLIED}{error}")

    async def _verify(self, state: ActionState) -> None:
        """Effective means both: the target reads back as planned, and the burn fell."""
        entry = state.last
        applied_at = state.applied_at or entry.at
        is_late = self._clock.now() >= applied_at + self._proposals.verify_within_s(entry)
        fell, burn = self._burn_since(entry, applied_at)
        is_canary = bool(entry.also) and not entry.read_back
        if not fell and not is_late and not is_canary:
            return
        effect = await self._calls.read_back(entry)
        now_known: dict[str, Any] = {} if burn is None else {"usd_per_hour_after": burn}
        if fell and effect.in_force:
            self._watch_later(entry)
            await self._calls.record(state, "effective", detail=effect.detail, read_back=True, **now_known)
        elif is_late:
            what = self._why_ineffective(entry, applied_at, effect)
            self._watch_later(entry)
            await self._calls.record(state, "ineffective", detail=what.strip(), read_back=effect.in_force, **now_known)
        elif is_canary and effect.in_force:
            await self._calls.record(state, "applied", detail="reads back as planned", read_back=True)
        else:
            self._backoff.postpone(f"{entry.action_id}/verify", _READ_BACK_AGAIN_S)

    def _why_ineffective(self, entry: LedgerEntry, applied_at: float, effect: Effect) -> str:
        if not effect.in_force:
            return f"the target reads {effect.values} {effect.detail}"
        fact = self._memory.inbox.alerts.get(entry.alert_id)
        is_newer = fact is not None and fact.alert.updated_at > applied_at
        return "the burn did not fall" if is_newer else "nothing was heard of the burn since"

    def _burn_since(self, entry: LedgerEntry, applied_at: float) -> tuple[bool, float | None]:
        """Whether the burn fell since `applied_at`, and what it is now in $/h. No alert any more means it fell."""
        fact = self._memory.inbox.alerts.get(entry.alert_id)
        if fact is None:
            return True, None
        alert = fact.alert
        if alert.status == "resolved":
            return True, alert.usd_per_hour
        before = entry.usd_per_hour_before or 0.0
        bound = _normal(alert, entry)
        if entry.do != "shave_to_budget":  # half is not enough where a budget has to last
            bound = max(bound, FALLEN_BURN * before)
        return alert.updated_at > applied_at and alert.usd_per_hour <= bound, alert.usd_per_hour

    def _watch_later(self, entry: LedgerEntry) -> None:
        """A ceiling is looked at when its lease is to be renewed."""
        if not entry.standing:
            self._backoff.postpone(f"{entry.action_id}/watch", _WATCH_S)

    async def _watch(self, state: ActionState) -> None:
        """Whether what is in force still is: what somebody changed is theirs, and reported when two looks agree."""
        entry = state.last
        effect = await self._calls.look(entry)  # what cannot be read was given back by nobody
        key = f"{entry.action_id}/watch"
        if effect.in_force:
            self._missed.discard(entry.action_id)
            self._watch_later(entry)
            if state.is_standing:
                await self._ceilings.renew(state)
        elif entry.action_id not in self._missed:
            self._missed.add(entry.action_id)
            self._backoff.postpone(key, _READ_BACK_AGAIN_S)
        else:
            self._missed.discard(entry.action_id)
            await self._undo(state, SOMEBODY, "found given back before the lease ended")

    # --- undo ---

    async def _undo(self, state: ActionState, by: str, why: str) -> None:
        entry = state.last
        if entry.state == "planned" and entry.action_id not in self._calls.fresh and not entry.ending:
            # After a crash the reason may be gone (say, the clock was set back), and it would be applied once more.
            await self._calls.record(state, "planned", by=by, detail=why, ending=True, ending_why=why)
        await self._calls.last_count(entry)
        try:
            await self._calls.call("undo", undo(self._action, entry.plan, self._calls.outcomes.get(entry.action_id)))
        except DriftError as error:
            detail = f"{error}; found {error.found}, left alone: please look"
            await self._calls.record(state, "drift", by=by, detail=detail)
        except Exception as error:  # a defect is tried again like a refusal: what is in force stays so until then
            await self._in_vain(state, by, why, error)
            raise NotGivenBackError from error
        else:
            refused = entry.state == "planned" and why.startswith(NOT_APPLIED)
            to: LedgerState = "failed" if refused else "restored"
            await self._calls.record(state, to, by=by, detail=ended(entry.plan, why))
        self._let_go(state)

    def _let_go(self, state: ActionState) -> None:
        """It is over."""
        entry, key = state.last, f"{state.last.action_id}/undo"
        self._ceilings.let_go(state, makes_way=entry.action_id in self._memory.make_way)
        self._calls.let_go(entry.action_id)
        self._calls.undo_backoff.reset(key)
        self._in_vain_since.pop(entry.action_id, None)
        self.problems.pop(key, None)
        self._memory.make_way.pop(entry.action_id, None)
        self._memory.calm_since.pop(entry.alert_id, None)

    async def _extend(self, state: ActionState, command: Command) -> None:
        """One more lease of the same length from now, because a person asks; or why not, on the ledger."""
        entry, now = state.last, self._clock.now()
        said: dict[str, Any] = {"by": command.by, "command_id": command.id}
        if entry.lease_s is None or (why := self._why_not_longer(entry, command.by)):
            why = "its lease has no length" if entry.lease_s is None else why
            await self._calls.record(state, entry.state, detail=f"not extended for {command.by}: {why}", **said)
            return
        said["lease_expires_at"] = now + entry.lease_s
        await self._calls.record(state, entry.state, detail=f"extended by {command.by}", **said)
        self._calls.renewed(entry.action_id)

    def _why_not_longer(self, entry: LedgerEntry, by: str) -> str:
        """Why a lease may not be extended, or ""."""
        if self._memory.inbox.halted:
            return "halted: the kill switch is on"
        if entry.ending or entry.tries or self._calls.lease_is_over(entry):
            return "it is being given back"
        if entry.rung < 1:
            return "soft caps and ceilings end by themselves"
        if entry.approved_by and not is_one_of(by, entry.approvers):
            return f"it was approved, and that takes one of: {', '.join(entry.approvers)}"
        return ""

    async def _leave(self, state: ActionState, command: Command) -> None:
        """A person says that it stays as it is."""
        detail = f"left in force by {command.by}: {state.last.plan.after} stays until somebody changes it"
        await self._calls.record(state, "drift", by=command.by, command_id=command.id, detail=detail)
        self._let_go(state)

    async def _in_vain(self, state: ActionState, by: str, why: str, error: Exception) -> None:
        """Tried again later, and on the ledger: a refusal at once, what may pass when it lasts."""
        entry, steady = state.last, self._clock.steady()
        if not isinstance(error, TransientError | PermanentError):
            logger.exception("undo failed", extra={"action": self.name, "action_id": entry.action_id})
        wait_s = self._note_problem(f"{entry.action_id}/undo", error, self._calls.undo_backoff)
        metrics.UNDO_REFUSED.labels(action=self.name).inc()
        since = self._in_vain_since.setdefault(entry.action_id, steady)
        lasts = steady - since >= _OVERDUE_S and (entry.tries == 0 or self._clock.now() >= entry.at + _OVERDUE_S)
        if not (isinstance(error, PermanentError) or lasts):
            return
        fields = in_vain(entry, error, by=by, why=why, now=self._clock.now(), wait_s=wait_s)
        logger.error("lease cannot be ended", extra={"action_id": entry.action_id, "error": fields["refusal"]})
        await self._calls.record(state, entry.state, **fields)
        command = self._memory.inbox.undo_requests.get(entry.action_id)
        if command is not None:
            self.answered.add(command.id)


def _normal(alert: Alert, entry: LedgerEntry) -> float:
    """Dollars per hour up to which the burn is as it should be."""
    wanted = normal_usd_per_hour(alert)
    if entry.do == "shave_to_budget" and entry.aim_usd_per_hour is not None:
        wanted = entry.aim_usd_per_hour
    return NORMAL_BURN * wanted


def _is_between(effect: Effect, plan: Plan) -> bool:
    """Every field still holds the old value or already holds ours."""
    return all(effect.values.get(name) in (plan.before.get(name), value) for name, value in plan.after.items())
