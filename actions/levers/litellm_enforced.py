"""Which limits LiteLLM enforces on a subject: its own columns, else those of its budget tier, and all above it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

#: What stands for every model in a list of them; those of the team are looked at as well.
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models"})
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
    if _slows_down(row):
        return False
    budget, spend = own_limits(row, now).get("max_budget"), _number(row.get("spend")) or 0.0
    if budget is not None and spend >= budget:
        return True
    usage = row.get("budget_limits_usage")
    return any(
        (limit := _number(window.get("max_budget"))) is not None
        and (_number(_table(usage, str(window.get("budget_duration"))).get("current_spend")) or 0.0) >= limit
        for window in _windows(row)
    )


def budget_left(row: Row, now: float, within_s: float = 0.0) -> float | None:
    """Dollars until its budget, that of its tier or a budget window refuses every call; None without any of them.

    A budget that starts again within the next `within_s` seconds may be spent once more. Never below 0.
    """
    if _slows_down(row):
        return None
    left = []
    budget, spend = own_limits(row, now).get("max_budget"), _number(row.get("spend")) or 0.0
    if budget is not None:
        again = _starts_again(row, now, within_s)
        left.append(max(0.0, budget - spend) + (budget if again else 0.0))
    for window in _windows(row):
        limit = _number(window.get("max_budget"))
        if limit is not None:
            used = _table(row.get("budget_limits_usage"), str(window.get("budget_duration"))).get("current_spend")
            left.append(max(0.0, limit - (_number(used) or 0.0)))
    return min(left, default=None)


def _starts_again(row: Row, now: float, within_s: float) -> bool:
    tier = _table(row, "litellm_budget_table")
    try:
        at = datetime.fromisoformat(str(row.get("budget_reset_at") or tier.get("budget_reset_at")))
    except ValueError:
        return False
    return now <= (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() <= now + within_s


def _slows_down(row: Row) -> bool:
    """True for a budget that slows calls down when it is spent, and refuses none."""
    metadata = row.get("metadata")
    return isinstance(metadata, Mapping) and bool(metadata.get("throttle_on_budget_exceeded"))


def is_refused(row: Row) -> bool:
    """True when no call passes for a reason that every kind of subject may have."""
    return row.get("status") in ("revoked", "deleted", "expired") or row.get("rpm_limit") == 0


async def rows_above(row: Row, read: Callable[[str, str, str], Awaitable[Row]]) -> list[Row]:
    """What is enforced on the calls of a key together with its own limits: team, membership, user, organisation.

    `read(path, query, value)` gives an answer of the admin API, or an empty one for what cannot be read: a limit of the
    key replaces none of theirs. The budget of a user binds the keys without a team.
    """
    team_id, user_id, above = row.get("team_id"), row.get("user_id"), [row.get("litellm_project_table")]
    organization = row.get("organization_id") or row.get("org_id")
    if team_id:
        team = await read("team/info", "team_id", str(team_id))
        above.append(info := team.get("team_info"))
        organization = organization or (info.get("organization_id") if isinstance(info, Mapping) else None)
        listed = team.get("team_memberships")
        members = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list | tuple) else []
        above += [each for each in members if user_id and each.get("user_id") == user_id]
    if user_id:
        user = await read("v2/user/info", "user_id", str(user_id))
        above.append({**user, "max_budget": None, "models": None} if team_id else user)
    if organization:
        above.append(await read("organization/info", "organization_id", str(organization)))
    return [each for each in above if isinstance(each, Mapping)]


def may_call(model: str, row: Row, above: Iterable[Row]) -> bool:
    """True where the lists of models of a key and of those above it name a model, or name none at all.

    Names of access groups are not looked up: a model that only one of them allows counts as not allowed.
    """
    return all(_allows(each, model) for each in (row, *above))


def _allows(row: Row, model: str) -> bool:
    listed = row.get("models") or _table(row, "litellm_budget_table").get("allowed_models")
    if not isinstance(listed, list | tuple) or not listed:
        return True
    return any(name in _ALL_MODELS or fnmatchcase(model, str(name)) for name in listed)


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


def _windows(row: Row) -> list[Row]:
    found = row.get("budget_limits")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list | tuple) else []


def _table(row: object, name: str) -> Row:
    found = row.get(name) if isinstance(row, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None
