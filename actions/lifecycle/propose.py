"""How an action comes into the ledger: a rung is due, the target is read, approval may be asked, the plan is entered.

Figures are worked out from the alert as it was at firing, and a target that Curb holds already is never planned on:
where a higher rung wants it, the lower one's action is undone first and the plan is made from what is then found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from curb.actions.ledger.ledger import ActionState
from curb.actions.lifecycle.action_calls import ActionCalls, no_plan
from curb.actions.policy.guards import allowed, refusal
from curb.actions.policy.ladder import NOTHING_TO_DO, is_due, may_take, of_tier
from curb.actions.policy.roles import people_of, roles_for
from curb.actions.policy.route import Mode
from curb.actions.policy.routing import Act, decide
from curb.actions.target import TargetRate, Verb, to_budget, to_normal
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, Command, LedgerEntry, LedgerState, Plan

#: Seconds until a refused alert is looked at again. By hand: a minute, as the alerts are revised.
_RECHECK_S = 60.0
#: Seconds until an alert is looked at again whose target another action is giving back. By hand: one call.
SOON_S = 1.0
#: Why a rung that leaves no rate does what it does.
_WHY: dict[Verb, str] = {
    "reroute": "the same calls cost less on a cheaper model",
    "pause": "it can go on later",
    "block": "it must not go on",
}
#: Targets of one proposal that are named to the approvers. By hand: a line of a message.
_NAMED = 5
#: Characters of the reason of a proposal. By hand: a sentence.
_LONGEST_REASON = 300


class Proposal(NamedTuple):
    """What an action would do for a rung now, after the guards: the plans that may be entered, and why not others."""

    plans: list[Plan]
    #: Everything that was planned; one approval is for all of it.
    every: list[Plan]
    why_not: str
    rate: TargetRate
    #: Actions of lower rungs on the same targets, which would be undone first.
    lower: list[ActionState]
    #: Targets that Curb held when they were read: what was found there was not the original.
    held: frozenset[str]


class Proposals:
    """Plans of one configured action."""

    def __init__(self, calls: ActionCalls) -> None:
        self._calls, self._memory, self._settings = calls, calls.memory, calls.settings

    # --- new actions ---

    async def consider(self, alert: Alert, act: Act) -> None:
        """Plan for one alert if its rung asks for it, and enter what is allowed."""
        attempts = self._attempts(alert)
        if not self._memory.caught_up or not is_due(act, attempts, alert, self._calls.clock.now()):
            return
        if why := self.refusal(alert, act):
            await self._skip(alert, attempts, act, why)
            return
        if act.mode == "auto" and (lower := self._lower(alert, act)):
            self.request_way(alert, act, lower)  # else the target would be read as they left it
            return
        try:
            proposal = await self.proposal(alert, act)
        except PermanentError as error:
            await self._calls.start(alert, no_plan(self._calls.name), "failed", act, detail=str(error))
            return
        if isinstance(proposal, str):
            await self._skip(alert, attempts, act, NOTHING_TO_DO + proposal)
            return
        await self._enter(alert, act, proposal)

    async def propose(self, command: Command) -> None:
        """Ask people for what a command proposes: the lowest rung of the alert's routes with this action that was not
        tried. Nothing is done without an approval; in shadow mode it is noted. A refusal is on the ledger."""
        alert_id = command.args["alert_id"]
        states = self._memory.ledger.for_alert(alert_id)
        if not self._memory.caught_up or any(state.has_answered(command.id) for state in states):
            return
        if not self._memory.inbox.is_firing(alert_id):
            return  # it is forgotten with the alert
        alert = self._memory.inbox.alerts[alert_id].alert
        act = self._act_for(alert)
        if act is None:
            await self._refuse(alert, None, command, "no route has this action for the alert, or it was tried already")
            return
        try:
            proposal = self.refusal(alert, act) or await self.proposal(alert, act)
        except PermanentError as error:
            proposal = str(error)
        if isinstance(proposal, str):
            await self._refuse(alert, act, command, proposal)
            return
        await self._enter(alert, act, proposal, command)

    def _act_for(self, alert: Alert) -> Act | None:
        """What may be proposed for an alert; None when there is nothing."""
        tried = {state.last.rung for state in self._attempts(alert) if state.last.state != "skipped"}
        for act in decide(alert, self._settings).act:
            if act.name == self._calls.name and act.rung not in tried:
                mode: Mode = "shadow" if act.mode == "shadow" else "approve"
                return act.suited(self._calls.action.verbs)._replace(mode=mode)
        return None

    async def _refuse(self, alert: Alert, act: Act | None, command: Command, why: str) -> None:
        detail = f"proposed by {command.by}, and not asked for: {why}"
        said = {"by": command.by, "command_id": command.id, "detail": detail}
        await self._calls.start(alert, no_plan(self._calls.name), "skipped", act, **said)

    def _attempts(self, alert: Alert) -> list[ActionState]:
        """What this action did for the alert since it has its tier."""
        return of_tier(self._memory.ledger.attempts(alert.alert_id, self._calls.name), alert)

    def _lower(self, alert: Alert, act: Act) -> list[ActionState]:
        """Ceilings, and soft caps, in force on the subject of an alert that asks for more."""
        mine = (state for state in self._memory.ledger.open_actions() if state.last.plan.action == self._calls.name)
        lower = [state for state in mine if state.last.rung < min(1, act.rung)]
        return [state for state in lower if _is_about(state, alert)]

    def refusal(self, alert: Alert, act: Act) -> str:
        """Why nothing may start for this alert now, or ""."""
        inbox, now = self._memory.inbox, self._calls.clock.now()
        if act.mode == "auto" and any(quiet.covers(now) for quiet in act.quiet_times):
            return "quiet: nothing automatic starts now (quiet_times)"
        return refusal(
            alert,
            self._memory.ledger,
            self._settings,
            halted=inbox.halted is not None,
            now=now,
            resumed_at=inbox.resumed_at,
            do=act.do,
            action=act.name,
        )

    async def proposal(self, alert: Alert, act: Act) -> Proposal | str:
        """Read the targets and put the plans through the guards; a text says why there is nothing to do."""
        rate = self._target_rate(alert, act)
        if isinstance(rate, str):
            return rate
        held = self._memory.ledger.held_targets()
        every = list(await self._calls.call("plan", self._calls.action.plan(alert, rate)))
        if not every:
            return "no such subject, or it is limited already"
        return self._within_guards(alert, act, rate, every, held)

    def _target_rate(self, alert: Alert, act: Act) -> TargetRate | str:
        if act.verb not in self._calls.action.verbs:
            return f"{self._calls.name} cannot {act.verb}"
        fact = self._memory.inbox.alerts.get(alert.alert_id)
        original = fact.at_firing() if fact is not None else alert
        if act.do == "shave_to_budget":
            found = to_budget(original, self._calls.clock.now())
            if found is None:
                return "the alert carries no budget that still runs"
            return self._below_ceiling(_with_headroom(found, act.headroom), alert)
        if act.verb == "shave":
            return self._below_ceiling(_with_headroom(to_normal(original), act.headroom), alert)
        return TargetRate(act.verb, why=_WHY[act.verb])

    def _below_ceiling(self, rate: TargetRate, alert: Alert) -> TargetRate:
        """The same, at most the ceiling that stands when nothing else does: the lowest of them is enforced."""
        return rate._replace(at_most=self._calls.ceiling_of(alert))

    def _within_guards(
        self, alert: Alert, act: Act, rate: TargetRate, every: list[Plan], held: frozenset[str]
    ) -> Proposal:
        ledger, now = self._memory.ledger, self._calls.clock.now()
        attempts = self._attempts(alert)
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
            return Proposal([], every, self._why_held(every, held), rate, [], held)
        # For the guards the lower rung's action is over: it will be, before this one starts.
        view = ledger.without(frozenset(holder.last.action_id for holder in lower))
        passed, why = allowed(free, alert, act, view, self._settings, now=now)
        targets = {plan.target for plan in passed}
        return Proposal(passed, every, why, rate, [h for h in lower if h.last.plan.target in targets], held)

    def _why_held(self, plans: Sequence[Plan], held: frozenset[str]) -> str:
        for plan in plans:
            if holder := self._memory.ledger.holder(plan.target):
                return f"held: {holder.last.action_id} has the same target"
        if any(plan.target in held for plan in plans):
            return "held: another action had the same target when it was read"
        return "skipped: already tried for this alert, or changed by a person"

    async def _enter(self, alert: Alert, act: Act, proposal: Proposal, asked: Command | None = None) -> None:
        """Into the ledger, durable before anything is changed. All is checked again: the world moved since.

        What a person `asked` for is only proposed, whatever the mode.
        """
        async with self._memory.planning:
            if not self._memory.may_work or not self._memory.inbox.is_firing(alert.alert_id):
                return  # both may have changed while the target was read
            attempts = self._attempts(alert)
            why = self.refusal(alert, act)
            if not why:
                proposal = self._within_guards(alert, act, proposal.rate, proposal.every, proposal.held)
                why = "" if proposal.plans else proposal.why_not
            if why and asked is not None:
                await self._refuse(alert, act, asked, why)
            elif why:
                await self._skip(alert, attempts, act, why)
            if why:
                return
            await self._enter_as(alert, act, proposal, attempts, asked)
            if proposal.why_not and any(attempt.is_open for attempt in attempts):
                self._calls.backoff.postpone(f"{alert.alert_id}/plan", _RECHECK_S)

    async def _enter_as(
        self, alert: Alert, act: Act, proposal: Proposal, attempts: Sequence[ActionState], asked: Command | None
    ) -> None:
        """Recorded, proposed or planned, as the mode says. What cannot be undone is always proposed."""
        approved_by = "" if asked is not None else _approval(attempts, act, proposal.plans)
        if act.mode == "shadow":
            said = _asked_by(asked, "shadow mode: nothing was changed")
            for plan in proposal.plans:
                await self._start(alert, act, plan, proposal, "shadow", **said)
        elif not approved_by and (act.mode == "approve" or not all(plan.reversible for plan in proposal.plans)):
            await self._propose(alert, act, proposal, asked)
        elif proposal.lower:
            self.request_way(alert, act, proposal.lower)
        else:
            for plan in proposal.plans:
                expires_at = self._calls.clock.now() + act.lease_s
                entry = await self._start(
                    alert, act, plan, proposal, "planned", lease_expires_at=expires_at, approved_by=approved_by
                )
                self._calls.fresh.add(entry.action_id)

    def request_way(self, alert: Alert, act: Act, lower: Sequence[ActionState]) -> None:
        """Have these undone by whoever does their work; the rung is looked at again soon."""
        for holder in lower:
            self._memory.make_way[holder.last.action_id] = f"makes way for rung {act.rung}, {act.do}"
        self._calls.backoff.postpone(f"{alert.alert_id}/plan", SOON_S)

    async def _propose(self, alert: Alert, act: Act, proposal: Proposal, by: Command | None) -> None:
        """Ask for the first plan; the answer is for the others of the same ask as well."""
        plan, now = proposal.plans[0], self._calls.clock.now()
        for holder in proposal.lower:  # what will be found when it is carried out
            if holder.last.plan.target == plan.target:
                before = plan.before | {k: v for k, v in holder.last.plan.before.items() if k in plan.before}
                plan = msgspec.structs.replace(plan, before=before)
        roles = roles_for(self._settings.approvers, act.approvers, alert.dollars_at_risk)
        asked = f"{', '.join(roles)} may approve" if roles else "nobody is named in actions.approvers who may approve"
        others = [other.summary for other in proposal.every if other.target != plan.target]
        more = f"; and {len(others)} more: {'; '.join(others[:_NAMED])}" if others else ""
        await self._start(
            alert,
            act,
            plan,
            proposal,
            "proposed",
            **_asked_by(by, f"{asked}{more}"),
            answer_by=now + act.answer_within_s,
            approvers=people_of(roles),
        )

    async def _start(
        self, alert: Alert, act: Act, plan: Plan, proposal: Proposal, state: LedgerState, **fields: Any
    ) -> LedgerEntry:
        also = {other.target for other in proposal.every}
        for known in self._attempts(alert):
            if known.is_open and known.last.rung == act.rung:
                also |= {known.last.plan.target, *known.last.also}
        rate = proposal.rate
        return await self._calls.start(
            alert,
            plan,
            state,
            act,
            why=rate.why,
            aim_usd_per_hour=_burn_left(rate, plan, alert),
            lease_s=act.lease_s,
            also=sorted(also - {plan.target}),
            **fields,
        )

    async def _skip(self, alert: Alert, attempts: Sequence[ActionState], act: Act, why: str) -> None:
        """Said once per alert and rung; the alert is looked at again while it fires, for reasons may go away."""
        self._calls.backoff.postpone(f"{alert.alert_id}/plan", _RECHECK_S)
        said = any(attempt.last.state == "skipped" and attempt.last.rung == act.rung for attempt in attempts)
        if not said:
            await self._calls.start(alert, no_plan(self._calls.name), "skipped", act, detail=why)

    def verify_within_s(self, entry: LedgerEntry) -> float:
        """How long an action has to help."""
        fact = self._memory.inbox.alerts.get(entry.alert_id)
        acts = decide(fact.alert, self._settings).act if fact is not None else ()
        found = (act.verify_within_s for act in acts if act.name == self._calls.name and act.rung == entry.rung)
        return next(found, self._settings.limits.verify_within_minutes * 60.0)


def _with_headroom(rate: TargetRate, headroom: float) -> TargetRate:
    requests = rate.requests_per_minute
    return rate._replace(
        requests_per_minute=None if requests is None else requests * headroom,
        usd_per_hour=None if rate.usd_per_hour is None else rate.usd_per_hour * headroom,
    )


def _burn_left(rate: TargetRate, plan: Plan, alert: Alert) -> float | None:
    """The burn that a plan wants to leave; of cheaper models the least, as if every call were routed to them."""
    return rate.usd_per_hour if plan.price_part is None else plan.price_part * alert.usd_per_hour


def _is_about(state: ActionState, alert: Alert) -> bool:
    """Whether a soft cap or a ceiling is on the subject of an alert; a ceiling may know fewer tags of it."""
    tags = state.last.tags
    return tags.items() <= alert.tags.items() if state.is_standing else tags == alert.tags


def makes_way(holder: ActionState, alert: Alert, act: Act) -> bool:
    """Whether a higher rung may have the target: the holder is of a lower rung of the same alert, and did not help.

    So does what began before the tier of the alert rose. A soft cap makes way for every alert, and a ceiling for both.
    """
    last = holder.last
    of_this = last.alert_id == alert.alert_id or last.rung <= 0
    is_before = last.alert_id == alert.alert_id and not of_tier([holder], alert)
    return holder.is_open and of_this and (last.rung < act.rung or is_before)


def _asked_by(command: Command | None, detail: str) -> dict[str, str]:
    """Fields of an entry that Curb, or a person, asked for."""
    if command is None:
        return {"detail": detail}
    reason = command.args.get("reason", "")
    proposes = f"{command.by} proposes it" + (f" ({reason[:_LONGEST_REASON]})" if reason else "")
    return {"detail": f"{proposes}; {detail}", "by": command.by, "command_id": command.id}


def _approval(attempts: Sequence[ActionState], act: Act, plans: Sequence[Plan]) -> str:
    """Who approved the ask that all of these plans belong to, or ""."""
    for state in reversed(attempts):
        last = state.last
        if last.approved_by and last.rung == act.rung and state.is_open:
            covered = {last.plan.target, *last.also}
            return last.approved_by if all(plan.target in covered for plan in plans) else ""
    return ""
