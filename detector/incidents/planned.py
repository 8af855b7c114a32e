"""Planned activity: how many dollars of each series somebody announced, up to the cap they named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.state.scopes import Scope
from curb.detector.state.view import PlanUsage
from curb.stream.records.spend import PlannedActivity

#: Work starts a little early and ends late: a plan holds from this long before its start to this long after its end.
EARLY_S, LATE_S = 3600.0, 7200.0
#: Plans kept at most; those that end first are forgotten first.
_MAX_PLANS = 10_000


def covers(plan_tags: Mapping[str, str], scope: Scope | None, tags: Mapping[str, str]) -> bool:
    """Whether work announced for `plan_tags` shows in the series of `scope` with `tags`.

    The series lies within the plan (carries all its tags), or the plan within the series (the plan names all tags the
    scope groups by). A tag that the scope does not have, such as env, cannot be compared: it is passed over when the
    plan names all that the scope groups by but the last tag, and two at least. A tag that sets series apart (also_by,
    such as job) must be the series' own.
    """
    if any(tags[key] != value for key, value in plan_tags.items() if key in tags):
        return False
    missing = plan_tags.keys() - tags.keys()
    if not missing:
        return True
    if scope is None or missing & set(scope.also_by):
        return False
    *first, last = scope.group_by
    return plan_tags.keys() >= set(first) and (last in plan_tags or len(first) >= 2)


class PlanUse(msgspec.Struct):
    """A plan and how many dollars over the expected it has taken up so far, by scope."""

    plan: PlannedActivity
    used_usd: dict[str, float] = {}


class _Matches:
    """The series that one plan covers, by scope; they only ever become more."""

    def __init__(self) -> None:
        self.looked_at = 0
        self._lists: dict[str, list[int]] = {}
        self.by_scope: dict[str, NDArray[np.int64]] = {}

    def look(
        self,
        plan: PlannedActivity,
        scopes: Mapping[str, Scope],
        names: Sequence[str],
        tags: Sequence[Mapping[str, str]],
    ) -> None:
        """Take in the series that are new: their scopes' names and tags."""
        before, self.looked_at = self.looked_at, len(names)
        for i in range(before, len(names)):
            if covers(plan.tags, scopes.get(names[i]), tags[i]):
                self._lists.setdefault(names[i], []).append(i)
        if before < self.looked_at:
            self.by_scope = {scope: np.array(found, np.int64) for scope, found in self._lists.items()}


class PlannedActivities:
    """Plans and what is used of their caps. A cap counts once per scope: teams and their keys see the same dollars."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._scopes = {scope.name: scope for scope in scopes}
        self._uses: dict[str, PlanUse] = {}
        self._matches: dict[str, _Matches] = {}
        #: The plans that hold at a moment that was asked for before; most are asked for many times.
        self._holding: tuple[float, list[PlanUse]] | None = None

    def add(self, plan: PlannedActivity) -> None:
        """A plan with a known id replaces the older one and goes on with what was used of it."""
        known, self._holding = self._uses.get(plan.id), None
        if known is None:
            self._uses[plan.id] = PlanUse(plan, {})
        elif plan.at >= known.plan.at:
            known.plan = plan
            self._matches.pop(plan.id, None)
        if len(self._uses) > _MAX_PLANS:
            self._forget(min(self._uses, key=lambda each: self._uses[each].plan.end))

    def expire(self, at: float) -> None:
        """Forget what is over at `at`."""
        for plan_id in [each for each, use in self._uses.items() if use.plan.end + LATE_S <= at]:
            self._forget(plan_id)

    def of(self, scope: str, tags: Mapping[str, str], at: float) -> list[PlanUsage]:
        """The plans that hold at `at` for a series, with what is used of them in its scope."""
        configured = self._scopes.get(scope)
        return [
            PlanUsage(use.plan, use.used_usd.get(scope, 0.0))
            for use in self._active(at)
            if covers(use.plan.tags, configured, tags)
        ]

    def take(
        self,
        at: float,
        cost: NDArray[np.float64],
        expected: NDArray[np.float64],
        scopes: Sequence[str],
        tags: Sequence[Mapping[str, str]],
    ) -> NDArray[np.float64]:
        """Dollars of a bucket that plans explain, per series; they are taken from the caps.

        `at`: start of the bucket. `cost`, `expected`: dollars of the bucket, shape (series,); `scopes`, `tags`: of all
        series, in order. What is over the expected counts against the cap; when too little of it is left for all the
        series of a scope, each gets its share. Beyond the cap nothing is explained.
        """
        planned = np.zeros(len(cost))
        for use in self._active(at):
            for scope, index in self._matched(use.plan, scopes, tags).items():
                left = use.plan.max_usd - use.used_usd.get(scope, 0.0)
                wanted = np.maximum(0.0, cost[index] - expected[index] - planned[index])
                total = float(wanted.sum())
                if total <= 0.0 or left <= 0.0:
                    continue
                planned[index] += wanted * min(1.0, left / total)
                use.used_usd[scope] = use.used_usd.get(scope, 0.0) + min(total, left)
        return planned

    def dump(self) -> list[PlanUse]:
        """What `load` takes."""
        return list(self._uses.values())

    def load(self, uses: Sequence[PlanUse]) -> None:
        """Take over what `dump` gave."""
        self._uses, self._matches, self._holding = {use.plan.id: use for use in uses}, {}, None

    def _matched(
        self, plan: PlannedActivity, scopes: Sequence[str], tags: Sequence[Mapping[str, str]]
    ) -> Mapping[str, NDArray[np.int64]]:
        matches = self._matches.setdefault(plan.id, _Matches())
        matches.look(plan, self._scopes, scopes, tags)
        return matches.by_scope

    def _active(self, at: float) -> list[PlanUse]:
        if self._holding is None or self._holding[0] != at:
            holding = [use for use in self._uses.values() if use.plan.start - EARLY_S <= at < use.plan.end + LATE_S]
            self._holding = at, holding
        return self._holding[1]

    def _forget(self, plan_id: str) -> None:
        del self._uses[plan_id]
        self._holding = None
        self._matches.pop(plan_id, None)
