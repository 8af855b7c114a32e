"""How an action comes into the ledger: a rung asks, the target is read, a person may be asked, the plan is entered.

Figures are worked out from the alert as it was at firing, and a target that Curb holds already is never planned on:
where a higher rung wants it, the lower one's action is undone first and the plan is made from what is then found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from curb.actions.ledger.ledger import ActionState
from curb.actions.lifecycle.action_calls import Hand, no_plan
from curb.actions.policy.guards import allowed, refusal
from curb.actions.policy.ladder import NOTHING_TO_DO, asks, may_take
from curb.actions.policy.roles import people_of, roles_for
from curb.actions.policy.routing import Act, decide
from curb.actions.target import TargetRate, to_budget, to_normal
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, LedgerEntry, LedgerState, Plan

#: How soon an alert that was refused is looked at again, and one whose target another action gives back.
_RECHECK_S = 60.0
SOON_S = 1.0
#: Targets of one ask that are named to those who are asked.
_NAMED = 5


class Wanted(NamedTuple):
    """What an action would do for a rung now, after the belts: the plans that may be entered, and why not others."""

    plans: list[Plan]
    #: Everything that was planned; one approval is for all of it.
    every: list[Plan]
    why_not: str
    rate: TargetRate
    #: Actions of lower rungs on the same targets, which would be undone first.
    lower: list[ActionState]
    #: Targets that Curb held when they were read: what was found there was not the original.
    held: frozenset[str]


class Asks:
    """Plans of one configured action."""

    def __init__(self, hand: Hand) -> None:
        self._hand, self._book, self._settings = hand, hand.book, hand.settings

    # --- new actions ---

    async def consider(self, alert: Alert, act: Act) -> None:
        """Plan for one alert if its rung asks for it, and enter what is allowed."""
        attempts = self._book.ledger.attempts(alert.alert_id, self._hand.name)
        if not self._book.caught_up or not asks(act, attempts, alert, self._hand.clock.now()):
            return
        if why := self.refusal(alert, act):
            await self._skip(alert, attempts, act, why)
            return
        try:
            wanted = await self.wanted(alert, act)
        except PermanentError as error:
            await self._hand.start(alert, no_plan(self._hand.name), "failed", act, detail=str(error))
            return
        if isinstance(wanted, str):
            await self._skip(alert, attempts, act, NOTHING_TO_DO + wanted)
            return
        await self._enter(alert, act, wanted)

    def refusal(self, alert: Alert, act: Act) -> str:
        """Why nothing may begin for this alert now, or ""."""
        facts, now = self._book.facts, self._hand.clock.now()
        if act.mode == "auto" and any(quiet.covers(now) for quiet in act.quiet_times):
            return "quiet: nothing automatic begins now (quiet_times)"
        return refusal(
            alert,
            self._book.ledger,
            self._settings,
            halted=facts.halted is not None,
            now=now,
            resumed_at=facts.resumed_at,
            do=act.do,
        )

    async def wanted(self, alert: Alert, act: Act) -> Wanted | str:
        """Read the targets and hold the plans against the belts; a text says why there is nothing to do."""
        rate = self._target_rate(alert, act)
        if isinstance(rate, str):
            return rate
        held = self._book.ledger.held_targets()
        every = list(await self._hand.call("plan", self._hand.action.plan(alert, rate)))
        if not every:
            return "no such subject, or it is limited already"
        return self._held_against_belts(alert, act, rate, every, held)

    def _target_rate(self, alert: Alert, act: Act) -> TargetRate | str:
        if act.verb not in self._hand.action.verbs:
            return f"{self._hand.name} cannot {act.verb}"
        fact = self._book.facts.alerts.get(alert.alert_id)
        original = fact.at_firing() if fact is not None else alert
        if act.do == "shave_to_budget":
            found = to_budget(original, self._hand.clock.now())
            if found is None:
                return "the alert carries no budget that still runs"
            return _with_headroom(found, act.headroom)
        if act.verb == "shave":
            return _with_headroom(to_normal(original), act.headroom)
        return TargetRate(act.verb, why="it must not go on" if act.verb == "block" else "it can go on later")

    def _held_against_belts(
        self, alert: Alert, act: Act, rate: TargetRate, every: list[Plan], held: frozenset[str]
    ) -> Wanted:
        ledger, now = self._book.ledger, self._hand.clock.now()
        attempts = ledger.attempts(alert.alert_id, self._hand.name)
        lower: list[ActionState] = []
        free: list[Plan] = []
        for plan in every:
            holder = ledger.holder(plan.target)
            if holder is not None and makes_way(holder, alert, act):
                lower.append(holder)
                free.append(plan)
            elif holder is None and plan.target not in held and may_take(plan.target, act, attempts, alert, now):
                free.append(plan)
        if not free:
            return Wanted([], every, self._why_held(every, held), rate, [], held)
        # To the belts the lower rung's action is over: it will be, before this one begins.
        view = ledger.without(frozenset(holder.last.action_id for holder in lower))
        passed, why = allowed(free, alert, act, view, self._settings, now=now)
        targets = {plan.target for plan in passed}
        return Wanted(passed, every, why, rate, [h for h in lower if h.last.plan.target in targets], held)

    def _why_held(self, plans: Sequence[Plan], held: frozenset[str]) -> str:
        for plan in plans:
            if holder := self._book.ledger.holder(plan.target):
                return f"held: {holder.last.action_id} has the same target"
        if any(plan.target in held for plan in plans):
            return "held: another action had the same target when it was read"
        return "left alone: it was tried for this alert, or a person has a hand in it"

    async def _enter(self, alert: Alert, act: Act, wanted: Wanted) -> None:
        """Into the ledger, durable before anything is changed. All is checked again: the world moved since."""
        async with self._book.planning:
            if not self._book.may_work or not self._book.facts.is_firing(alert.alert_id):
                return  # both may have changed while the target was read
            attempts = self._book.ledger.attempts(alert.alert_id, self._hand.name)
            if why := self.refusal(alert, act):
                await self._skip(alert, attempts, act, why)
                return
            wanted = self._held_against_belts(alert, act, wanted.rate, wanted.every, wanted.held)
            if not wanted.plans:
                await self._skip(alert, attempts, act, wanted.why_not)
                return
            await self._enter_as(alert, act, wanted, attempts)
            if wanted.why_not and any(attempt.is_open for attempt in attempts):
                self._hand.backoff.postpone(f"{alert.alert_id}/plan", _RECHECK_S)

    async def _enter_as(self, alert: Alert, act: Act, wanted: Wanted, attempts: Sequence[ActionState]) -> None:
        """Recorded, proposed or planned, as the mode says. What cannot be undone is always proposed."""
        approved_by = _approval(attempts, act, wanted.plans)
        if act.mode == "shadow":
            for plan in wanted.plans:
                await self._start(alert, act, plan, wanted, "shadow", detail="shadow mode: nothing was changed")
        elif not approved_by and (act.mode == "approve" or not all(plan.reversible for plan in wanted.plans)):
            await self._propose(alert, act, wanted)
        elif wanted.lower:
            self.ask_to_make_way(alert, act, wanted.lower)
        else:
            for plan in wanted.plans:
                expires_at = self._hand.clock.now() + act.lease_s
                entry = await self._start(
                    alert, act, plan, wanted, "planned", lease_expires_at=expires_at, approved_by=approved_by
                )
                self._hand.fresh.add(entry.action_id)

    def ask_to_make_way(self, alert: Alert, act: Act, lower: Sequence[ActionState]) -> None:
        """Have these undone by whoever does their work; the rung is looked at again soon."""
        for holder in lower:
            self._book.make_way[holder.last.action_id] = f"makes way for rung {act.rung}, {act.do}"
        self._hand.backoff.postpone(f"{alert.alert_id}/plan", SOON_S)

    async def _propose(self, alert: Alert, act: Act, wanted: Wanted) -> None:
        """Ask for the first plan; the answer is for the others of the same ask as well."""
        plan, now = wanted.plans[0], self._hand.clock.now()
        for holder in wanted.lower:  # what will be found when it is carried out
            if holder.last.plan.target == plan.target:
                before = plan.before | {k: v for k, v in holder.last.plan.before.items() if k in plan.before}
                plan = msgspec.structs.replace(plan, before=before)
        roles = roles_for(self._settings.approvers, act.approvers, alert.dollars_at_risk)
        asked = f"{', '.join(roles)} may approve" if roles else "nobody is named in actions.approvers who may approve"
        others = [other.summary for other in wanted.every if other.target != plan.target]
        more = f"; and {len(others)} more: {'; '.join(others[:_NAMED])}" if others else ""
        await self._start(
            alert,
            act,
            plan,
            wanted,
            "proposed",
            detail=f"{asked}{more}",
            answer_by=now + act.answer_within_s,
            approvers=people_of(roles),
        )

    async def _start(
        self, alert: Alert, act: Act, plan: Plan, wanted: Wanted, state: LedgerState, **fields: Any
    ) -> LedgerEntry:
        also = {other.target for other in wanted.every}
        for known in self._book.ledger.attempts(alert.alert_id, self._hand.name):
            if known.is_open and known.last.rung == act.rung:
                also |= {known.last.plan.target, *known.last.also}
        rate = wanted.rate
        return await self._hand.start(
            alert,
            plan,
            state,
            act,
            why=rate.why,
            aim_usd_per_hour=rate.usd_per_hour,
            lease_s=act.lease_s,
            also=sorted(also - {plan.target}),
            **fields,
        )

    async def _skip(self, alert: Alert, attempts: Sequence[ActionState], act: Act, why: str) -> None:
        """Said once per alert and rung; the alert is looked at again while it fires, for reasons may go away."""
        self._hand.backoff.postpone(f"{alert.alert_id}/plan", _RECHECK_S)
        said = any(attempt.last.state == "skipped" and attempt.last.rung == act.rung for attempt in attempts)
        if not said:
            await self._hand.start(alert, no_plan(self._hand.name), "skipped", act, detail=why)

    def verify_within_s(self, entry: LedgerEntry) -> float:
        """How long an action has to help."""
        fact = self._book.facts.alerts.get(entry.alert_id)
        acts = decide(fact.alert, self._settings).act if fact is not None else ()
        found = (act.verify_within_s for act in acts if act.name == self._hand.name and act.rung == entry.rung)
        return next(found, self._settings.limits.verify_within_minutes * 60.0)


def _with_headroom(rate: TargetRate, headroom: float) -> TargetRate:
    requests = rate.requests_per_minute
    return rate._replace(
        requests_per_minute=None if requests is None else requests * headroom,
        usd_per_hour=None if rate.usd_per_hour is None else rate.usd_per_hour * headroom,
    )


def makes_way(holder: ActionState, alert: Alert, act: Act) -> bool:
    """Whether a higher rung may have the target: the holder is of a lower rung of the same alert, and did not help."""
    last = holder.last
    return holder.is_open and last.alert_id == alert.alert_id and last.rung < act.rung


def _approval(attempts: Sequence[ActionState], act: Act, plans: Sequence[Plan]) -> str:
    """Who approved the ask that all of these plans belong to, or ""."""
    for state in reversed(attempts):
        last = state.last
        if last.approved_by and last.rung == act.rung and state.is_open:
            covered = {last.plan.target, *last.also}
            return last.approved_by if all(plan.target in covered for plan in plans) else ""
    return ""
