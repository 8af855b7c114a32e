"""Limits of Amazon API Gateway as fields named like the paths of its patch operations, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from curb.actions.calls.compare_and_swap import Swap

#: What stands for the -1 of a stage that is not throttled: not a number, so that nobody takes it for a low limit.
UNLIMITED = "unlimited"
ENABLED = "/enabled"
_PLAN, _STAGE = "/throttle", "/*/*"
_MINUTES = {"DAY": 1440, "WEEK": 7 * 1440, "MONTH": 30 * 1440}
#: Settings of a stage's methods beside the throttle, as they are when nobody has set them.
_UNSET: dict[str, Any] = {"metricsEnabled": False, "dataTraceEnabled": False, "cachingEnabled": False}


def plan_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Throttles of a usage plan (None where there is none), those of its methods, and its quota."""
    throttle = answer.get("throttle") or {"rateLimit": None, "burstLimit": None}
    fields = {f"{_PLAN}/{name}": throttle[name] for name in ("rateLimit", "burstLimit") if name in throttle}
    for stage in answer.get("apiStages", ()):
        for method, own in (stage.get("throttle") or {}).items():
            path = f"/apiStages/{stage['apiId']}:{stage['stage']}/throttle/{method}"
            fields |= {f"{path}/{name}": value for name, value in own.items()}
    if answer.get("quota"):
        fields["/quota/limit"] = answer["quota"].get("limit")
    return fields


def stage_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Throttles of a stage and of those methods that have their own."""
    settings = {"*/*": {}} | (answer.get("methodSettings") or {})
    fields = {}
    for method, own in settings.items():
        for name, key in (("rateLimit", "throttlingRateLimit"), ("burstLimit", "throttlingBurstLimit")):
            value = own.get(key)
            fields[f"/{method}/throttling/{name}"] = UNLIMITED if value is not None and value < 0 else value
    return fields


def key_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {ENABLED: bool(answer.get("enabled"))}


def rates(found: Mapping[str, Any], rpm: int, burst_s: float) -> dict[str, float]:
    """What every throttle that was found would be at `rpm`. API Gateway counts per second."""
    rate = math.ceil(rpm / 60 * 10_000) / 10_000
    burst = math.ceil(rpm / 60 * burst_s)
    wanted: dict[str, float] = {}
    for field in found:
        name = field.rpartition("/")[2]
        if name == "rateLimit":
            wanted[field] = rate
        elif name == "burstLimit":
            wanted[field] = burst
    return wanted


def quota_rate(answer: Mapping[str, Any], rpm: int) -> dict[str, int]:
    """The quota that `rpm` comes to in its period, for a usage plan that has one."""
    minutes = _MINUTES.get((answer.get("quota") or {}).get("period", ""))
    return {"/quota/limit": rpm * minutes} if minutes else {}


def tighter(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted values that are lower than what was found."""
    return {
        name: value
        for name, value in wanted.items()
        if found.get(name) is None or found[name] == UNLIMITED or found[name] > value
    }


def patch(values: Mapping[str, Any], answer: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The operations that set `values`. None removes what did not exist before; `answer` is what is there now."""
    operations, removed = [], set()
    for field, value in values.items():
        if value is not None:
            operations.append({"op": "replace", "path": field, "value": _said(value)})
        elif field.startswith(_PLAN):
            removed.add(_PLAN)
        elif _holds_more((answer or {}).get("methodSettings", {}).get("*/*", {})):
            operations.append({"op": "replace", "path": field, "value": "-1"})
        else:
            removed.add(_STAGE)
    return operations + [{"op": "remove", "path": path} for path in sorted(removed)]


def together(swapped: Swap) -> Swap:
    """What did not exist before can only be removed as a whole: where a part of it drifted, all of it did."""
    touched = {field.rpartition("/")[0] for field in swapped.drifted}
    kept = {name for name, value in swapped.back.items() if value is None and name.rpartition("/")[0] in touched}
    back = {name: value for name, value in swapped.back.items() if name not in kept}
    return Swap(swapped.after, back, swapped.drifted | {name: swapped.after[name] for name in kept})


def _holds_more(settings: Mapping[str, Any]) -> bool:
    """Whether somebody has set more than the throttle, which removing the whole entry would take away."""
    level = settings.get("loggingLevel", "OFF")
    return level != "OFF" or any(settings.get(name, unset) != unset for name, unset in _UNSET.items())


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == UNLIMITED:
        return "-1"
    return str(int(value)) if float(value).is_integer() else repr(float(value))
