"""The guards: why Curb leaves an alert, or one of its subjects, to people instead of acting, as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from curb.actions.action import ActionConfig, RateConfig
from curb.actions.ledger.ledger import CURB_ITSELF, ActionState, Ledger
from curb.actions.policy.limits import MARKS, ActionLimits, criticality, tags_match
from curb.actions.target import Verb
from curb.stream.records.spend import Alert, LedgerEntry, Plan, waits_for_warmup
from curb.stream.time import HOUR_S

#: What people should know of and nothing should be stopped for.
_ONLY_NOTIFIED = frozenset({"growth", "pricing", "feed", "ceiling", "commitment", "waste"})


class LimitSettings(Protocol):
    """The keys of the `actions` configuration that the guards read."""

    @property
    def actions(self) -> Sequence[ActionConfig]: ...
    @property
    def limits(self) -> ActionLimits: ...
    @property
    def warmup_days(self) -> float: ...


class Intent(Protocol):
    """What a rung asks for, as far as the guards look at it."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def verb(self) -> Verb: ...
    @property
    def leaves_normal(self) -> bool: ...
    @property
    def rung(self) -> int: ...


def caps(alert: Alert, do: str) -> bool:
    """Whether its budget may throttle: a hard budget when it is spent, or before that to the rate at which it lasts."""
    hard = alert.budget is not None and alert.budget.hard
    return hard and (do == "shave_to_budget" or (alert.budget is not None and alert.budget.threshold >= 100))


def refusal(
    alert: Alert,
    ledger: Ledger,
    settings: LimitSettings,
    *,
    halted: bool,
    now: float,
    resumed_at: float = 0.0,
    do: str = "",
    action: str = "",
) -> str:
    """Why nothing may be done about `alert` now, or "" when it may. Decided before the target is even read.

    `do` is what the rung wants, and `action` the configured action that would do it. `resumed_at` is when a person last
    lifted a halt: what was before it freezes nothing.
    """
    limits = settings.limits
    known_days = alert.baseline.known_days if alert.baseline else 0.0
    if halted:
        return "halted: the kill switch is on"
    if why := freeze(ledger, limits, resumed_at=resumed_at, now=now):
        return why
    if any(tags_match(matcher, alert.tags) for matcher in limits.never_touch):
        return "never_touch: a matcher of limits.never_touch fits its tags"
    if criticality(alert.tags, limits) == "critical":
        return "critical: it is marked critical, Curb never acts on it"
    if alert.money == "billed":
        return "billed: bills arrive late and are restated, Curb never acts on them alone"
    if alert.kind in _ONLY_NOTIFIED or alert.tier == "digest":
        return f"notify only: a {alert.kind} alert of tier {alert.tier} is for people, nothing is stopped for it"
    if alert.kind == "budget" and not caps(alert, do):
        return "budget: only one with hard: true may throttle, when it is spent or to make it last (shave_to_budget)"
    age_s = now - alert.updated_at
    if age_s > limits.max_alert_age_minutes * 60.0:
        return f"stale: its newest revision is {age_s / 60.0:.0f} minutes old (limits.max_alert_age_minutes)"
    # A spent budget is no statistic: a short past is no reason to wait.
    if alert.kind != "budget" and waits_for_warmup(alert) and known_days < settings.warmup_days:
        return f"warm-up: known for {known_days:.1f} days, less than {settings.warmup_days:g}"
    held, lowest_rung = _held(ledger, action, alert), _lowest_rung(alert)
    if len(held) >= limits.max_open_actions and not _is_held(alert, ledger):
        return f"limit: {limits.max_open_actions} actions are open (limits.max_open_actions){_of_them_refused(held)}"
    if ledger.begun_since(now - HOUR_S, lowest_rung=lowest_rung) >= limits.max_actions_per_hour:
        return f"limit: {limits.max_actions_per_hour} actions were begun within an hour (limits.max_actions_per_hour)"
    return ""


def allowed(
    plans: Sequence[Plan], alert: Alert, act: Intent, ledger: Ledger, settings: LimitSettings, *, now: float
) -> tuple[list[Plan], str]:
    """Which of the plans may be entered in the ledger now, in their order, and why not the others ("" when all may).

    `refusal` comes before it, and the two are asked again, without an await in between, right before each entry: what
    was entered meanwhile counts. Shadow mode meets the same guards, except that its plans need no canary.
    """
    limits = settings.limits
    of_alert = [state for state in ledger.for_alert(alert.alert_id) if state.last.plan.action == act.name]
    mine = [state for state in of_alert if state.is_open and state.last.rung == act.rung]
    whys = [_why_not(plan, alert, act, ledger, settings) for plan in plans]
    free = [plan for plan, why in zip(plans, whys, strict=True) if not why]
    room, why = _room(free, alert, mine, ledger, limits, now=now)
    if act.mode != "shadow" and limits.canary and len(free) + len(mine) > 1 and room > 0:
        room, why = _canary(room, why, mine)
    if len(free) > room:
        whys.append(why)
    return free[:room], "; ".join(dict.fromkeys(why for why in whys if why))


def must_not_touch(entry: LedgerEntry, limits: ActionLimits) -> str:
    """Why what was planned must not be carried out any more: people marked it since, or ""."""
    if never_changed(entry.plan, limits):
        return "never_touch: it is one of limits.never_touch_targets by now"
    if any(tags_match(matcher, entry.tags) for matcher in limits.never_touch):
        return "never_touch: a matcher of limits.never_touch fits its tags by now"
    return "critical: it is marked critical by now" if criticality(entry.tags, limits) == "critical" else ""


def never_changed(plan: Plan, limits: ActionLimits) -> str:
    """Why the target of a plan is never changed, or ""; its own mark counts as well."""
    if any(fnmatchcase(plan.target, glob) for glob in limits.never_touch_targets):
        return f"never_touch: {plan.target} is one of limits.never_touch_targets"
    return ""


def freeze(ledger: Ledger, limits: ActionLimits, *, resumed_at: float, now: float) -> str:
    """Why Curb must halt itself: it acted abnormally often or in vain within one hour since `resumed_at`, or ""."""
    # Soft caps end within minutes and are many where a whole fleet is busy; `refusal` bounds them.
    acted = [state for state in ledger.begun() if state.last.rung > 0]
    if limits.freeze_after is not None:
        begun = [(at, state.last.action_id) for state in acted if (at := _begun_at(state)) is not None]
        if _crowded(begun, limits.freeze_after + 1, resumed_at, now):
            return f"frozen: more than {limits.freeze_after} actions were begun within an hour (limits.freeze_after)"
    if limits.freeze_after_failures is not None:
        # What people undo of ceilings is their choice, and says nothing about an incident.
        judged = (state for state in ledger.begun() if not state.is_standing)
        failures = [(at, state.last.alert_id) for state in judged for at in _failures(state)]
        if _crowded(failures, limits.freeze_after_failures, resumed_at, now):
            return (
                f"frozen: actions on {limits.freeze_after_failures} alerts were undone by people or ineffective "
                "within an hour (limits.freeze_after_failures)"
            )
    return ""


def _begun_at(state: ActionState) -> float | None:
    return next((entry.at for entry in state.entries if entry.state == "planned"), None)


def _failures(state: ActionState) -> list[float]:
    """When it turned out ineffective, and when a person undid it."""
    return [
        entry.at
        for entry in state.entries
        if entry.state == "ineffective" or (entry.state == "restored" and entry.by not in CURB_ITSELF)
    ]


def _crowded(events: list[tuple[float, str]], count: int, after: float, now: float) -> bool:
    """Whether within any one hour after `after` there were `count` different ones."""
    recent = sorted(event for event in events if after < event[0] <= now)
    return any(
        len({name for at, name in recent[first:] if at <= recent[first][0] + HOUR_S}) >= count
        for first in range(len(recent))
    )


def _why_not(plan: Plan, alert: Alert, act: Intent, ledger: Ledger, settings: LimitSettings) -> str:
    limits = settings.limits
    if why := never_changed(plan, limits):
        return why
    if why := _unmarked(plan, alert, act, settings):
        return why
    too_much = alert.share is not None and 100.0 * alert.share > limits.max_percent_of_traffic
    if too_much and not _leaves_normal(act, settings):
        return f"limit: it is {alert.share:.0%} of the spend of its scope (limits.max_percent_of_traffic)"
    if raises_a_limit(plan):
        return "the plan would raise a limit"
    holder = ledger.holder(plan.target)
    return f"held: {holder.last.action_id} has the same target" if holder else ""


def _unmarked(plan: Plan, alert: Alert, act: Intent, settings: LimitSettings) -> str:
    """Why the mark does not allow what is wanted, or "". `critical` anywhere wins, then what the target itself says.

    Only the rate of requests may be touched without `non_critical`, and only down to the normal level, and calls may be
    routed to cheaper models, which refuses none. Whatever else is done stops work.
    """
    of_alert, of_target = criticality(alert.tags, settings.limits), MARKS.get(plan.criticality)
    mark = "critical" if "critical" in (of_alert, of_target) else of_target or of_alert
    if mark == "critical":
        return "critical: it is marked critical, Curb never acts on it"
    if mark == "non_critical":
        return ""
    leaves_normal = _leaves_normal(act, settings)
    if mark == "important":
        return "" if leaves_normal else "important: only its rate may be changed, and only down to its normal level"
    if leaves_normal and settings.limits.shave_unmarked:
        return ""
    return "unmarked: nothing says that it is not critical (limits.criticality, limits.shave_unmarked)"


def _leaves_normal(act: Intent, settings: LimitSettings) -> bool:
    """Whether nothing stops: every call passes, or a rate of requests is brought down to what it was before."""
    if act.verb == "reroute":
        return True
    config = next((config for config in settings.actions if config.name == act.name), None)
    return act.verb == "shave" and act.leaves_normal and isinstance(config, RateConfig) and config.headroom >= 1


def _room(
    plans: Sequence[Plan],
    alert: Alert,
    mine: Sequence[ActionState],
    ledger: Ledger,
    limits: ActionLimits,
    *,
    now: float,
) -> tuple[int, str]:
    """How many more may be entered, and which limit says so."""
    held, lowest_rung = _held(ledger, plans[0].action if plans else "", alert), _lowest_rung(alert)
    caps = {
        "max_open_actions": limits.max_open_actions - len(held),
        "max_actions_per_hour": limits.max_actions_per_hour - ledger.begun_since(now - HOUR_S, lowest_rung=lowest_rung),
        "max_subjects_per_action": limits.max_subjects_per_action - len(mine),
    }
    if team := alert.tags.get("team"):
        caps["max_open_per_team"] = limits.max_open_per_team - sum(s.last.tags.get("team") == team for s in held)
    if populations := [plan.population for plan in plans if plan.population is not None]:
        most = max(1, math.floor(min(populations) * limits.max_percent_of_jobs / 100.0))
        caps["max_percent_of_jobs"] = most - sum(s.last.plan.action == plans[0].action for s in held)
    name = min(caps, key=caps.__getitem__)
    return max(0, caps[name]), f"limit: no more at one time (limits.{name}){_of_them_refused(held)}"


def _lowest_rung(alert: Alert) -> int:
    """Soft caps, rung 0, never stand in the way of what a notice or a page asks for."""
    return 0 if alert.tier == "soft" else 1


def _held(ledger: Ledger, action: str, alert: Alert) -> list[ActionState]:
    """Actions that are or may be in force.

    What cannot be given back takes a place among those of its own action only: a cluster that refuses every undo gets
    no more to hold, and keeps no gateway from being used.
    """
    lowest_rung = _lowest_rung(alert)
    held = (state for state in ledger.live() if state.is_held and state.last.rung >= lowest_rung)
    return [state for state in held if not state.is_refused or state.last.plan.action == action]


def _of_them_refused(held: Sequence[ActionState]) -> str:
    refused = [state.last for state in held if state.is_refused]
    if not refused:
        return ""
    newest = max(refused, key=lambda entry: entry.at)
    return f", {len(refused)} of them cannot be given back: {newest.refusal or newest.detail}"


def _is_held(alert: Alert, ledger: Ledger) -> bool:
    """Whether an action on it is open: a higher rung would take its place, which `allowed` looks at."""
    return any(state.is_open for state in ledger.for_alert(alert.alert_id))


def _canary(room: int, why: str, mine: Sequence[ActionState]) -> tuple[int, str]:
    """Of several subjects one goes first; the others wait until it reads back as planned."""
    if any(state.last.read_back for state in mine):
        return room, why
    first = mine[0].last.plan.target if mine else "one of them"
    return (0 if mine else 1), f"canary: {first} goes first, the others when it reads back (limits.canary)"


def anything_marked(limits: ActionLimits) -> bool:
    """Whether there may be subjects that are touched although they are not marked themselves."""
    return limits.shave_unmarked or any(rule.is_ != "critical" for rule in limits.criticality)


def raises_a_limit(plan: Plan) -> bool:
    """Whether a plan would set a number above the one found. Curb never does that."""
    return any(
        _is_number(found := plan.before.get(field)) and _is_number(value) and value > found
        for field, value in plan.after.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
