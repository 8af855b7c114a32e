"""Where an alert stands on its ladder, worked out from the ledger alone: pure functions, the same on every machine.

A rung is given up when an action of it turned out ineffective, when all it could do was refused or was nothing, or,
where it only notifies, when people had their time; and only while the burn goes on. It is then never taken again for
the same alert: the ladder is climbed once. What a person did to an action of the alert ends the climb.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from curb.actions.ledger.ledger import CURB_ITSELF, ActionState
from curb.actions.policy.routing import Act, Ladder, LadderStep
from curb.actions.target import normal_usd_per_hour
from curb.stream.records.spend import Alert

#: Times the expected burn up to which it is normal again. By hand: the noise of an ordinary hour.
NORMAL_BURN = 1.5
#: Share of the burn before the action at which it has fallen. By hand: half is no noise.
FALLEN_BURN = 0.5
#: How the detail of a `skipped` entry begins when the rung has nothing to change.
NOTHING_TO_DO = "nothing to do: "
#: While one action of a rung is still on its way, or helps, the next rung does not come.
_UNDECIDED = frozenset({"proposed", "planned", "applied", "effective"})


class LadderPlace(NamedTuple):
    """The rung that counts now, and since when."""

    step: LadderStep
    since: float


def burns(alert: Alert) -> bool:
    """Whether it still costs clearly more than expected; what is over its budget does while its alert fires."""
    if alert.status != "firing":
        return False
    return alert.kind == "budget" or alert.usd_per_hour > NORMAL_BURN * alert.expected_usd_per_hour


def climb(ladder: Ladder, states: Sequence[ActionState], alert: Alert, now: float) -> LadderPlace:
    """The rung of the ladder that an alert has come to. `states` are all actions on the alert.

    A budget whose tier rises begins at its first rung: what was done at a lower threshold is not of this climb.
    """
    since, states = tier_since(alert), of_tier(states, alert)
    for step, above in zip(ladder, (*ladder[1:], None), strict=False):
        given_up = _given_up_at(step, states, since, alert.updated_at)
        if above is None or given_up is None or now < given_up:
            return LadderPlace(step, since)
        if not burns(alert) and not _of(above, states):
            return LadderPlace(step, since)
        since = given_up
    raise ValueError("a ladder without rungs")


def tier_since(alert: Alert) -> float:
    """Since when it has the tier for which people and ladders wait."""
    return alert.fired_at if alert.tier_since is None else alert.tier_since


def of_tier(states: Sequence[ActionState], alert: Alert) -> list[ActionState]:
    """The actions that began since the alert has its tier."""
    if alert.tier_since is None:
        return list(states)
    return [state for state in states if state.entries[0].at >= alert.tier_since]


def _given_up_at(step: LadderStep, states: Sequence[ActionState], since: float, heard_at: float) -> float | None:
    if not step.acts:
        return since + step.wait_s
    mine = _of(step, states)
    if any(_is_up_to_people(state) or state.last.state in _UNDECIDED for state in mine):
        return None
    if any(state.applied_at is not None and heard_at <= state.applied_at for state in mine):
        return None  # what is known is from before: it says nothing about whether it helped
    moments = [at for state in mine if (at := _failed_at(state, step.wait_s)) is not None]
    return min(moments, default=None)


def _of(step: LadderStep, states: Sequence[ActionState]) -> list[ActionState]:
    names = {act.name for act in step.acts}
    return [s for s in states if s.last.rung == step.rung and s.last.plan.action in names]


def _is_up_to_people(state: ActionState) -> bool:
    """Somebody undid it, denied it, was asked in vain, or changed its target."""
    last = state.last
    undone_by_people = last.state == "restored" and last.by not in CURB_ITSELF
    return last.state in ("denied", "drift") or undone_by_people or state.is_stuck


def _failed_at(state: ActionState, wait_s: float) -> float | None:
    """From when on it has not helped; None: it helped, or did nothing for a reason that may go away."""
    last = state.last
    ineffective = next((entry.at for entry in state.entries if entry.state == "ineffective"), None)
    if ineffective is not None:
        return ineffective
    if last.state == "failed" or (last.state == "skipped" and last.detail.startswith(NOTHING_TO_DO)):
        return last.at + wait_s
    return None


def is_due(act: Act, attempts: Sequence[ActionState], alert: Alert, now: float) -> bool:
    """Whether this action should be planned now. `attempts` are its own on the alert, of all rungs."""
    mine = [state for state in attempts if state.last.rung == act.rung and state.last.state != "skipped"]
    if not mine:
        return True
    if not any(state.is_held or state.last.state == "proposed" for state in mine):
        return any(may_come_again(state, act, alert, now) for state in mine)
    # A canary is out: the others follow when it reads back.
    targets = {state.last.plan.target for state in mine}
    return any(
        state.is_open and not targets.issuperset(state.last.also) and (state.last.read_back or _helped(state))
        for state in mine
    )


def _helped(state: ActionState) -> bool:
    return state.last.state == "effective"


def may_come_again(state: ActionState, act: Act, alert: Alert, now: float) -> bool:
    """Whether what was done, or shown in shadow mode, may be done for the same alert and target once more."""
    last = state.last
    if last.state == "shadow":
        return act.mode != "shadow"
    if last.state != "restored" or last.by not in CURB_ITSELF:
        return False
    if last.rung < act.rung:
        return True
    has_rested = now >= last.at + act.cool_down_s
    still_burns = alert.usd_per_hour > NORMAL_BURN * normal_usd_per_hour(alert)
    return has_rested and alert.updated_at > last.at and still_burns


def may_take(target: str, act: Act, attempts: Sequence[ActionState], alert: Alert, now: float) -> bool:
    """True when a rung may plan for this target; what failed or a person changed is left alone."""
    known = [state for state in attempts if state.last.plan.target == target and state.last.state != "skipped"]
    if not known:
        return True
    last = known[-1]
    if last.last.rung < act.rung and not _is_up_to_people(last):
        return True
    return may_come_again(last, act, alert, now)
