"""The belts: why Curb leaves an alert to people instead of acting, as sentences."""

from __future__ import annotations

from actions.ledger import Ledger
from actions.routing import tags_match
from actions.settings import ActionsSettings
from stream.records import Alert, Plan

#: What is found by what is new or spent, so that a short past is no reason to wait: kinds, and channels of rules.
_NO_WARMUP_KINDS, _NO_WARMUP_CHANNELS = frozenset({"budget"}), frozenset({"new_principal"})
_HOUR_S = 3600.0


#: What people should know of and nothing should be stopped for.
_ONLY_TOLD = frozenset({"growth", "pricing", "feed"})


def spent_cap(alert: Alert) -> bool:
    """Whether it says that a hard cap is spent."""
    return alert.budget is not None and alert.budget.hard and alert.budget.threshold >= 100


def refusal(alert: Alert, ledger: Ledger, settings: ActionsSettings, *, halted: bool, now: float) -> str:
    """Why nothing may be done about `alert` now, or "" when it may. Decided before the target is even read."""
    limits = settings.limits
    known_days = alert.baseline.known_days if alert.baseline else 0.0
    if halted:
        return "halted: the kill switch is on"
    if any(tags_match(matcher, alert.tags) for matcher in limits.never_touch):
        return "never_touch: a matcher of limits.never_touch fits its tags"
    if alert.money == "billed":
        return "billed: bills arrive late and are restated, Curb never acts on them alone"
    if alert.kind in _ONLY_TOLD or alert.tier == "digest":
        return f"told: a {alert.kind} alert of tier {alert.tier} is for people, nothing is stopped for it"
    if alert.kind == "budget" and not spent_cap(alert):
        return "budget: only a budget with hard: true may throttle, and only when it is spent"
    age_s = now - alert.updated_at
    if age_s > limits.max_alert_age_minutes * 60.0:
        return f"stale: the newest word about it is {age_s / 60.0:.0f} minutes old (limits.max_alert_age_minutes)"
    knows_enough = alert.kind in _NO_WARMUP_KINDS or alert.channel in _NO_WARMUP_CHANNELS
    if not knows_enough and known_days < settings.warmup_days:
        return f"warm-up: known for {known_days:.1f} days, less than {settings.warmup_days:g}"
    if len(ledger.open_actions()) >= limits.max_open_actions:
        return f"limit: {limits.max_open_actions} actions are open (limits.max_open_actions)"
    if ledger.begun_since(now - _HOUR_S) >= limits.max_actions_per_hour:
        return f"limit: {limits.max_actions_per_hour} actions were begun within an hour (limits.max_actions_per_hour)"
    return ""


def raises_a_limit(plan: Plan) -> bool:
    """Whether a plan would set a number above the one found. Curb never does that."""
    return any(
        _is_number(found := plan.before.get(field)) and _is_number(value) and value > found
        for field, value in plan.after.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
