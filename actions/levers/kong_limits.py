"""Periods of Kong's rate-limiting plugin: what a subject may do now, and what it may do at a lower rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Shortest first. Kong refuses a longer period with a lower limit than a shorter one.
PERIODS = ("second", "minute", "hour", "day", "month", "year")
PLUGIN = "rate-limiting"
_SCOPES = ("consumer", "consumer_group", "service", "route")


def limits_of(plugin: Mapping[str, Any]) -> dict[str, Any]:
    """Every period, None where there is no limit."""
    config = plugin.get("config") or {}
    return {period: config.get(period) for period in PERIODS}


def lowered(found: Mapping[str, Any], per_minute: int) -> dict[str, int]:
    """The periods of an existing plugin to change so that no more than `per_minute` pass; none when less do already.

    A longer period that allows less than `per_minute` does so already. A shorter one may not allow more.
    """
    longer = [found[period] for period in PERIODS[1:] if found.get(period) is not None]
    if longer and min(longer) <= per_minute:
        return {}
    second = {"second": per_minute} if found.get("second") is not None and found["second"] > per_minute else {}
    return {"minute": per_minute, **second}


def replacing(general: Sequence[Mapping[str, Any]], per_minute: int) -> dict[str, int]:
    """The periods of a new plugin that takes the place of others with these limits: never above any of them."""
    limits: dict[str, int] = {}
    at_most: int | None = None
    for period in reversed(PERIODS):
        known = [each[period] for each in general if each[period] is not None]
        known += [per_minute] if period == "minute" else []
        if known:
            at_most = limits[period] = min(known if at_most is None else [*known, at_most])
    return limits


def is_ordered(limits: Mapping[str, Any]) -> bool:
    """Whether Kong takes them: at least one, and none lower than that of a shorter period."""
    known = [limits[period] for period in PERIODS if limits.get(period) is not None]
    return bool(known) and known == sorted(known)


def scope_of(plugin: Mapping[str, Any]) -> dict[str, str]:
    """What a plugin is for, such as {"consumer": id}; empty for everything."""
    return {name: plugin[name]["id"] for name in _SCOPES if plugin.get(name)}


def gives_way(plugin: Mapping[str, Any], to: Mapping[str, str], within: Mapping[str, str]) -> bool:
    """Whether a plugin would no longer count for a subject that gets a plugin of its own.

    The most specific plugin wins: that of a consumer over those of routes and services, that of a route over that of
    its service (`within`), all over the one for everything.
    """
    scope = scope_of(plugin)
    if "consumer" in to:
        return "consumer" not in scope and "consumer_group" not in scope
    return not scope or (bool(within) and scope == within)
