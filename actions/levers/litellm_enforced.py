"""Which limits LiteLLM enforces on a subject: its own columns, else those of its budget tier, and all above it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

_RATES = ("rpm_limit", "tpm_limit", "max_parallel_requests")
Row = Mapping[str, Any]


def own_limits(row: Row, now: float) -> dict[str, float]:
    """What holds for the subject by itself. A limit of its own replaces that of its tier (`budget_id`)."""
    tier = _table(row, "litellm_budget_table")
    found = {}
    for name in (*_RATES, "max_budget"):
        value = _number(row.get(name))
        found[name] = _number(tier.get(name)) if value is None else value
    limits = {name: value for name, value in found.items() if value is not None}
    if "max_budget" in limits:
        limits["max_budget"] += temporary_increase(row, now)
    return limits


def enforced_limits(row: Row, above: Iterable[Row], now: float) -> dict[str, float]:
    """The lowest of what holds for the subject and for those above it; budgets of others count other spend."""
    limits = own_limits(row, now)
    for each in above:
        for name, value in own_limits(each, now).items():
            if name in _RATES:
                limits[name] = min(value, limits.get(name, math.inf))
    return limits


def spent_budget(row: Row, now: float) -> bool:
    """True when its budget, that of its tier or one of its budget windows is spent, so that every call is refused."""
    metadata = row.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("throttle_on_budget_exceeded"):
        return False  # slowed down and not refused
    budget, spend = own_limits(row, now).get("max_budget"), _number(row.get("spend")) or 0.0
    if budget is not None and spend >= budget:
        return True
    usage = row.get("budget_limits_usage")
    return any(
        isinstance(window, Mapping)
        and (limit := _number(window.get("max_budget"))) is not None
        and (_number(_table(usage, str(window.get("budget_duration"))).get("current_spend")) or 0.0) >= limit
        for window in row.get("budget_limits") or ()
    )


def soft_budget(row: Row) -> float:
    """The amount that a budget must be above, or the proxy refuses the update; 0 where there is none."""
    return _number(row.get("soft_budget")) or _number(_table(row, "litellm_budget_table").get("soft_budget")) or 0.0


def temporary_increase(row: Row, now: float) -> float:
    """Dollars that the budget is raised by for a time."""
    metadata = _table(row, "metadata")
    try:
        until = datetime.fromisoformat(str(metadata.get("temp_budget_expiry")))
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return (_number(metadata.get("temp_budget_increase")) or 0.0) if until.timestamp() > now else 0.0


def _table(row: object, name: str) -> Row:
    found = row.get(name) if isinstance(row, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None
