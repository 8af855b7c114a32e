"""The same loop under one speed alone: a ceiling that stood before it began, or soft caps and nobody who answers."""

from __future__ import annotations

from typing import Any, NamedTuple

from curb.demo.stage import Stage
from curb.demo.traffic import LimitChange, Minute, counterfactual
from curb.stream.records.spend import LedgerEntry

#: Times the highest minute of a key at which a ceiling stands, as in `actions.standing`. By hand, as there.
_CEILING_FACTOR = 2


class Speeds(NamedTuple):
    """Dollars of the loop, and normal requests that were refused, under each."""

    ceiling_rpm: int
    with_ceiling: Minute
    #: None where no soft cap was seen.
    with_soft_caps: Minute | None

    def as_data(self) -> dict[str, Any]:
        """For the summary."""
        soft = self.with_soft_caps
        return {
            "ceiling_rpm": self.ceiling_rpm,
            "lost_with_ceiling_usd": round(self.with_ceiling.loop_usd, 2),
            "others_rejected_with_ceiling": others_rejected(self.with_ceiling),
            "lost_with_soft_caps_usd": None if soft is None else round(soft.loop_usd, 2),
            "others_rejected_with_soft_caps": None if soft is None else others_rejected(soft),
        }


def others_rejected(total: Minute) -> int:
    """Refused requests that were not the loop's."""
    return total.rejected - (total.loop_offered - total.loop_admitted)


def alone(stage: Stage, soft_cap: LedgerEntry | None) -> Speeds:
    """Send the traffic of the live part again, under each of the two."""
    trace, loop, script = stage.trace, stage.loop, stage.script
    key = trace.key(loop.key)
    highest = trace.highest_minute(key, stage.history_start, stage.live_start)
    ceiling = min(script.rpm_limit, _CEILING_FACTOR * highest)
    during = trace, loop, stage.live_start, stage.live_end
    under_ceiling = counterfactual(*during, {loop.key: {"rpm_limit": ceiling}})
    if soft_cap is None:
        return Speeds(ceiling, under_ceiling.total(loop.key), None)
    under_caps = counterfactual(*during, stage.limits, soft_caps(stage, key.api_key, soft_cap))
    return Speeds(ceiling, under_ceiling.total(loop.key), under_caps.total(loop.key))


def soft_caps(stage: Stage, api_key: str, first: LedgerEntry) -> list[LimitChange]:
    """The first one again and again while the loop burns, each so long after the end of the last as it was after the
    start of the loop."""
    plan, found, at = first.plan, list[LimitChange](), first.at
    late_s, lease_s = max(0.0, first.at - stage.loop.start), first.lease_s or 0.0
    while lease_s > 0 and at < stage.loop.end:
        ends = at + lease_s
        found += [LimitChange(at, api_key, plan.after), LimitChange(ends, api_key, plan.before)]
        at = ends + late_s
    return found
