"""The target rate: how much a rung of the policy ladder leaves to a subject, in absolute figures."""

from __future__ import annotations

from typing import Literal, NamedTuple

from curb.stream.records.spend import Alert

#: shave: leave a given rate; reroute: the same calls at a lower price each; pause: stop work that can go on later;
#: block: nothing passes.
Verb = Literal["shave", "reroute", "pause", "block"]


class TargetRate(NamedTuple):
    """Worked out from the subject's own past or its budget, never from a value that was reduced already."""

    verb: Verb = "shave"
    #: shave: requests per minute to leave; None when the subject's normal level is not known.
    requests_per_minute: float | None = None
    #: shave: dollars per hour to leave; None when not known.
    usd_per_hour: float | None = None
    #: Where the figures come from, a clause for people.
    why: str = ""
    #: A ceiling: `requests_per_minute` is the limit itself, and nothing but that limit is set.
    standing: bool = False
    #: No limit is above this many requests per minute, headroom or not.
    at_most: int | None = None


def normal_usd_per_hour(alert: Alert) -> float:
    """The burn at which nothing is over: what is expected of its subject, and of a budget its even pace."""
    budget = alert.budget
    if alert.kind != "budget" or budget is None or budget.period_end <= budget.period_start:
        return alert.expected_usd_per_hour
    return budget.amount_usd * 3600.0 / (budget.period_end - budget.period_start)


def to_normal(alert: Alert) -> TargetRate:
    """Down to what the subject did before: the 95th percentile of its active minutes, and its expected dollars."""
    baseline = alert.baseline
    return TargetRate(
        "shave",
        baseline.requests_per_minute_p95 if baseline else None,
        alert.expected_usd_per_hour if baseline else None,
        "its own highest minute, a soft cap" if alert.tier == "soft" else "its normal level (p95)",
    )


def to_budget(alert: Alert, at: float) -> TargetRate | None:
    """Down to the rate at which what is left of the alert's budget lasts until its period ends; None without either.

    `alert` holds the burn at firing: what comes out is never above that, and never worked out from a reduced rate.
    """
    budget = alert.budget
    if budget is None or budget.period_end <= at or alert.usd_per_hour <= 0:
        return None
    left_usd = max(0.0, budget.amount_usd - budget.counted_usd)
    usd_per_hour = min(alert.usd_per_hour, left_usd * 3600.0 / (budget.period_end - at))
    now = alert.requests_per_minute
    # At the alert's dollars per request.
    requests_per_minute = None if now is None else now * usd_per_hour / alert.usd_per_hour
    return TargetRate(
        "shave", requests_per_minute, usd_per_hour, f"what is left of the budget {budget.name} lasts at this"
    )
