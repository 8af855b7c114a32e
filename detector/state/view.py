"""The view that rules get: a closed and scored bucket with all that is known beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import Amounts
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.columns import Bools, Floats
from curb.detector.state.loops import Loop
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import Role
from curb.stream.records.spend import PlannedActivity
from curb.stream.time import DAY_S


@dataclass(frozen=True)
class Subjects:
    """The series of one role, arrays of one length."""

    index: NDArray[np.intp]
    amounts: Amounts
    first_seen: NDArray[np.int64]
    #: At the end of the bucket.
    age_days: Floats
    #: Its spend is not to be learned as normal.
    frozen: Bools
    #: It has an alert that fires.
    firing: Bools


class Demand(NamedTuple):
    """What the demand for each principal explains, arrays over `View.principals`."""

    #: Requests of the bucket that its users explain; all of them where users are not known.
    organic: Floats
    #: Usual dollars per request, 0 before the first.
    unit_usd: Floats
    users_known: Bools
    #: It reports users at all, known well enough to judge by or not yet.
    users_reported: Bools
    #: Enough was seen of it to judge by demand.
    mature: Bools


class Raised(NamedTuple):
    """Points added to the configured thresholds of statistics, where they alert too often."""

    notice: float = 0.0
    page: float = 0.0


NOT_RAISED = Raised()


class PlanUsage(NamedTuple):
    """A plan, and how much of its cap is used in one scope."""

    plan: PlannedActivity
    used_usd: float


class Plans(Protocol):
    """What a rule may ask of people's knowledge: the work that was announced."""

    def plans_for(self, scope: str, tags: Mapping[str, str], at: float) -> Sequence[PlanUsage]:
        """The plans that hold at `at` for a series."""
        ...


@dataclass
class View:
    """One bucket as the rules see it; the rules that come first fill in what later ones need."""

    bucket: ClosedBucket
    registry: SeriesRegistry
    knowledge: Plans
    #: When the stream began, epoch seconds: what is older than it by less than the warm-up is new to nobody but us.
    stream_since: float
    #: Shape (all series,).
    frozen: Bools
    firing: Bools
    #: Set by the demand head, which comes first; None where it is off.
    demand: Demand | None = None
    #: Dollars of the bucket on what was new to its principal, over `principals`, by tag; set by the rule on origins.
    new_usd: Mapping[str, Floats] | None = None
    #: Dollars that calls without usage are estimated at in this bucket, over `principals`; set by the rule on missing
    #: usage. They are in no amount.
    estimated_usd: Floats | None = None
    raised: Raised = NOT_RAISED
    #: Soft alerts of the fast lane in a row, by series; of the last quarter of an hour.
    soft_in_a_row: Mapping[int, int] = field(default_factory=dict)
    #: Unusual loops in the newest calls, by series; empty unless `loops` is on.
    loops: Mapping[int, Sequence[Loop]] = field(default_factory=dict)
    _of_role: dict[Role, Subjects] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """Start of the bucket, epoch seconds."""
        return self.bucket.start

    @property
    def step_s(self) -> int:
        """Length of the bucket."""
        return self.bucket.end - self.bucket.start

    @property
    def stream_days(self) -> float:
        """Age of the stream at the end of the bucket."""
        return (self.bucket.end - self.stream_since) / DAY_S

    @cached_property
    def principals(self) -> Subjects:
        """Who spends; rows of one role never change their place, new ones come at the end."""
        return self.of("principal")

    def plans(self, number: int) -> Sequence[PlanUsage]:
        """The plans that hold now for a series."""
        return self.knowledge.plans_for(self.registry.scopes[number], self.registry.tags[number], self.start)

    def is_planned(self, number: int) -> bool:
        """Whether work was announced for a series whose cap is not used up."""
        return any(usage.used_usd < usage.plan.max_usd for usage in self.plans(number))

    def of(self, role: Role) -> Subjects:
        """The series of a role."""
        found = self._of_role.get(role)
        if found is None:
            found = self._of_role[role] = self._subjects(self.registry.of_role(role))
        return found

    def jobs(self) -> Subjects:
        """Series that a tag such as job sets apart from their principal."""
        return self._jobs

    @cached_property
    def _jobs(self) -> Subjects:
        return self._subjects(np.flatnonzero(self.registry["planned"]))

    def _subjects(self, index: NDArray[np.intp]) -> Subjects:
        first_seen = self.registry["first_seen"].take(index)
        age_days = np.maximum(0.0, (self.bucket.end - first_seen) / DAY_S)
        return Subjects(
            index, self.bucket.amounts.of(index), first_seen, age_days, self.frozen.take(index), self.firing.take(index)
        )
