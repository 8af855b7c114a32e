"""What would happen now for each alert that fires: reads the log and the targets, and changes neither."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from curb.actions.action import Action
from curb.actions.ledger.inbox_state import read_messages
from curb.actions.ledger.ledger import ActionState
from curb.actions.ledger.memory import Memory
from curb.actions.lifecycle.action_calls import ActionCalls
from curb.actions.lifecycle.propose import Proposals
from curb.actions.policy.ladder import climb, is_due, of_tier
from curb.actions.policy.routing import Act, Ladder, LadderStep, decide
from curb.actions.settings import ActionsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.log.topics import ALERTS, COMMANDS, STATE
from curb.stream.records.spend import Alert, Plan
from curb.stream.time import utc


class PreviewLine(NamedTuple):
    """One thing that would be changed, or why nothing would be."""

    alert: Alert
    rung: int = 0
    rungs: int = 0
    do: str = ""
    action: str = ""
    mode: str = ""
    plan: Plan | None = None
    #: Where the figures come from.
    why: str = ""
    #: Empty when it would be done; for a proposal, who would be asked.
    why_not: str = ""


async def read_memory(log: Log, clock: Clock) -> Memory:
    """The runner's memory as the log has it, with alerts and commands that no runner has taken in yet."""
    memory = Memory(log)
    await memory.read(clock.now())
    for topic in (ALERTS, COMMANDS):
        async for message in log.scan(topic):
            for updates in read_messages([message], memory.inbox, now=clock.now()):
                if updates.topic == STATE:
                    memory.inbox.set(updates.key, updates.value)
    return memory


async def preview(
    memory: Memory,
    settings: ActionsSettings,
    actions: Mapping[str, Action],
    clock: Clock,
    *,
    call_timeout_s: float = 15.0,
) -> AsyncIterator[PreviewLine]:
    """A line for each thing that would be changed, the most expensive alert first."""
    proposals = {
        name: Proposals(ActionCalls(name, action, memory, clock, settings, call_timeout_s=call_timeout_s))
        for name, action in actions.items()
    }
    for alert in memory.inbox.firing():
        ladders = decide(alert, settings).ladders
        if not ladders:
            yield PreviewLine(alert, why_not="no route asks for an action; people are notified")
        for ladder in ladders:
            place = climb(ladder, memory.ledger.for_alert(alert.alert_id), alert, clock.now())
            if not place.step.acts:
                yield _waits(alert, ladder, place.step, place.since)
            for act in place.step.acts:
                action = actions.get(act.name)
                if action is None:
                    yield _line(alert, ladder, act, why_not=f"the action {act.name!r} is not configured")
                    continue
                async for line in _lines(
                    alert, ladder, act.suited(action.verbs), proposals[act.name], memory, clock.now()
                ):
                    yield line


async def _lines(
    alert: Alert, ladder: Ladder, act: Act, proposals: Proposals, memory: Memory, now: float
) -> AsyncIterator[PreviewLine]:
    attempts = of_tier(memory.ledger.attempts(alert.alert_id, act.name), alert)
    if not is_due(act, attempts, alert, now):
        for state in attempts:
            if state.last.rung == act.rung and state.last.state != "skipped":
                last = state.last
                yield _line(alert, ladder, act, plan=last.plan, why=last.why, why_not=_standing(state))
        return
    if why := proposals.refusal(alert, act):
        yield _line(alert, ladder, act, why_not=why)
        return
    try:
        proposal = await proposals.proposal(alert, act)
    except (PermanentError, TransientError) as error:
        yield _line(alert, ladder, act, why_not=f"cannot be planned: {error}")
        return
    if isinstance(proposal, str):
        yield _line(alert, ladder, act, why_not=f"nothing to do: {proposal}")
        return
    passed = {plan.target for plan in proposal.plans}
    for plan in proposal.every:
        why_not = "" if plan.target in passed else proposal.why_not
        yield _line(alert, ladder, act, plan=plan, why=proposal.rate.why, why_not=why_not)


def _standing(state: ActionState) -> str:
    """What is the matter with an action that is on the ledger already."""
    last = state.last
    ends = f" until {utc(last.lease_expires_at)}" if state.is_open and last.lease_expires_at is not None else ""
    if state.is_pending:
        ends = f", an answer counts until {utc(last.answer_by)}" if last.answer_by is not None else ""
    return f"already {last.state}{ends}: {last.action_id}"


def _waits(alert: Alert, ladder: Ladder, step: LadderStep, since: float) -> PreviewLine:
    after = f", then rung {step.rung + 1}" if step.rung < len(ladder) else ""
    why_not = f"people have until {utc(since + step.wait_s)}{after}"
    return PreviewLine(alert, step.rung, len(ladder), step.do, why_not=why_not)


def _line(
    alert: Alert, ladder: Ladder, act: Act, *, plan: Plan | None = None, why: str = "", why_not: str
) -> PreviewLine:
    # What cannot be brought back is never done without being asked for.
    mode = "approve" if act.mode == "auto" and plan is not None and not plan.reversible else act.mode
    return PreviewLine(alert, act.rung, len(ladder), act.do, act.name, mode, plan, why, why_not)
