"""Approvals and denials of proposals: who may give them, once, in time, and for the values that were shown.

An approval is for the values that were shown. Before it is carried out the plan is made again: the target must still
be as it was, or the plan must come to the same values; otherwise nothing is done, and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from curb.actions.ledger.ledger import ActionState
from curb.actions.lifecycle.action_calls import ActionCalls, measured, noted
from curb.actions.lifecycle.ceilings import Ceilings
from curb.actions.lifecycle.propose import SOON_S, Proposal, Proposals, makes_way
from curb.actions.policy.guards import allowed
from curb.actions.policy.roles import may_approve, may_deny
from curb.actions.policy.routing import Act, decide
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, Command, LedgerEntry, LedgerState, Plan

logger = logging.getLogger(__name__)


class Approvals:
    """The approvals and denials of one configured action's proposals."""

    def __init__(self, calls: ActionCalls, is_due: Proposals, ceilings: Ceilings) -> None:
        self._calls, self._proposals, self._memory, self._settings = calls, is_due, calls.memory, calls.settings
        self._ceilings = ceilings

    def are_due(self, state: ActionState) -> bool:
        """Whether something is to be done about a proposal, or about an answer that came too late for it."""
        if state.is_pending:
            return True if self._over(state.last) else bool(self._unanswered(state))
        return state.last.state == "denied" and bool(self._unanswered(state))

    def _unanswered(self, state: ActionState) -> list[Command]:
        commands = self._memory.inbox.approvals.get(state.last.action_id, [])
        return [command for command in commands if not state.has_answered(command.id)]

    def _over(self, entry: LedgerEntry) -> str:
        """Why an answer no longer counts, or ""."""
        if not self._memory.inbox.is_firing(entry.alert_id):
            return "the alert is resolved, nothing was done"
        if entry.answer_by is not None and self._calls.clock.now() >= entry.answer_by:
            return "nobody answered in time, nothing was done"
        return ""

    async def settle(self, state: ActionState) -> None:
        """Deal with the end of a proposal, or with the oldest answer that nobody dealt with."""
        entry = state.last
        if state.is_pending and (why := self._over(entry)):
            await self._calls.record(state, "denied", detail=why)
            return
        command = self._unanswered(state)[0]
        if entry.state == "denied":
            detail = f"{command.by} came too late with {command.kind}: {entry.detail}"
            await self._calls.record(state, "denied", by=command.by, command_id=command.id, detail=detail)
        elif command.kind == "deny":
            why = may_deny(self._settings.approvers, command.by)
            said = {"by": command.by, "command_id": command.id}
            if why:
                await self._calls.record(state, "proposed", detail=f"{command.by} may not deny it: {why}", **said)
            else:
                await self._ceilings.answered(state, command)
                await self._calls.record(state, "denied", detail=f"denied by {command.by}", **said)
        elif state.is_standing:
            await self._allow(state, command)
        else:
            await self._approve(state, command)

    async def _allow(self, state: ActionState, command: Command) -> None:
        """An approval of ceilings, or of a higher one: it changes nothing by itself."""
        alert = self._memory.inbox.alerts[state.last.alert_id].alert
        if why := self._ceilings.refusal_of(state.last, command, alert):
            detail = f"{command.by} may not approve it: {why}"
            await self._calls.record(state, "proposed", by=command.by, command_id=command.id, detail=detail)
            return
        await self._ceilings.answered(state, command)
        said = {"by": command.by, "command_id": command.id, "approved_by": command.by}
        await self._calls.record(state, "approved", detail=f"approved by {command.by}", **said)

    async def _approve(self, state: ActionState, command: Command) -> None:
        entry, alert = state.last, self._memory.inbox.alerts[state.last.alert_id].alert
        act = self._act_of(state, alert)
        if act is None:
            await self._not_now(state, command, "no route asks for it any more", for_good=True)
            return
        if why := may_approve(self._settings.approvers, command.by, act.approvers, alert.dollars_at_risk):
            detail = f"{command.by} may not approve it: {why}"
            await self._calls.record(state, "proposed", by=command.by, command_id=command.id, detail=detail)
            return
        if why := self._proposals.refusal(alert, act):
            await self._not_now(state, command, why)
            return
        try:
            proposal = await self._proposals.proposal(alert, act)
        except PermanentError as error:
            await self._not_now(state, command, str(error), for_good=True)
            return
        plan = None if isinstance(proposal, str) else _on(entry.plan.target, proposal.every)
        if isinstance(proposal, str) or plan is None:
            await self._not_now(state, command, "there is nothing to do any more", for_good=True)
            return
        async with self._memory.planning:
            await self._carry_out(state, command, alert, act, proposal, plan)

    async def _carry_out(
        self, state: ActionState, command: Command, alert: Alert, act: Act, proposal: Proposal, plan: Plan
    ) -> None:
        """Through the guards once more, then planned with fresh values; they must equal those that were shown."""
        entry = state.last
        holder = self._memory.ledger.holder(plan.target)
        if not self._memory.may_work or not state.is_pending or self._over(entry):
            return  # all may have changed while the target was read; the next pass says so
        if holder is not None and not makes_way(holder, alert, act):
            await self._not_now(state, command, f"{holder.last.action_id} has the same target")
            return
        if holder is not None:
            self._proposals.request_way(alert, act, [holder])
        if holder is not None or plan.target in proposal.held:  # what was read is not the original: once more, later
            self._calls.backoff.postpone(f"{entry.action_id}/answer", SOON_S)
            return
        if plan.before == entry.plan.before:
            plan = entry.plan  # what was shown, also where figures moved on since
        elif plan.after != entry.plan.after:
            await self._not_now(state, command, "the target was changed since it was proposed", for_good=True)
            return
        passed, why = allowed([plan], alert, act, self._memory.ledger, self._settings, now=self._calls.clock.now())
        if why := self._proposals.refusal(alert, act) or (why if not passed else ""):
            await self._not_now(state, command, why)
            return
        also = [other.target for other in proposal.every if other.target != plan.target and other.target in entry.also]
        planned = await self._calls.record(
            state,
            "planned",
            by=command.by,
            detail=f"approved by {command.by}",
            command_id=command.id,
            approved_by=command.by,
            plan=noted(plan, alert, self._calls.clock.now() + act.lease_s),
            also=also,
            lease_s=act.lease_s,
            lease_expires_at=self._calls.clock.now() + act.lease_s,
            **measured(alert),
        )
        self._calls.fresh.add(planned.action_id)

    async def _not_now(self, state: ActionState, command: Command, why: str, *, for_good: bool = False) -> None:
        """An approval that cannot be carried out; unless `for_good`, it may be given again."""
        logger.info("approval not carried out", extra={"action_id": state.last.action_id, "why": why})
        detail = f"approved by {command.by}, and not done: {why}"
        to: LedgerState = "denied" if for_good else "proposed"
        await self._calls.record(state, to, by=command.by, command_id=command.id, detail=detail)

    def _act_of(self, state: ActionState, alert: Alert) -> Act | None:
        """What the routes say about an action on the ledger now; None when no rung asks for it any more."""
        entry = state.last
        acts = [act for act in decide(alert, self._settings).act if act.name == self._calls.name]
        found = next((act for act in acts if act.rung == entry.rung and act.mode != "shadow"), None)
        return None if found is None else found.suited(self._calls.action.verbs)._replace(mode="approve")


def _on(target: str, plans: Sequence[Plan]) -> Plan | None:
    return next((plan for plan in plans if plan.target == target), None)
