"""What the rules of the detector see of a closed bucket, and what they say: findings on series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.amounts import Amounts
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import Role
from curb.stream.records.spend import AlertKind, Tier
from curb.stream.time import DAY_S

if TYPE_CHECKING:
    from curb.detector.incidents.knowledge import Knowledge

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Families that measure a burn; the others know for certain what they saw.
STATISTICS = frozenset({"dollars", "unexplained"})


class Finding(NamedTuple):
    """One rule's word on one series at one bucket; it is said again for as long as it holds."""

    series: int
    #: The rule, or the head and its window: "new_model", "unexplained/30min". What stands before "/" is its family.
    channel: str
    kind: AlertKind
    tier: Tier
    #: Comparable within a family only.
    score: float
    #: What was seen and why it counts, a clause that goes on after "who burns $x/h": "12 requests per user ...".
    words: str
    #: Dollars over the expected that the rule itself counts; None where the running excess of the series is meant.
    excess_usd: float | None = None
    #: The rule speaks of a state that may last at a low burn (a growth, an idle machine): calm spend does not end it.
    lasting: bool = False
    #: It came at the same time on earlier days: not told, unless people call it real.
    recurring: bool = False

    @property
    def family(self) -> str:
        """Findings of one family are the same news."""
        return self.channel.split("/", 1)[0]


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
    users_told: Bools
    #: Enough was seen of it to judge by demand.
    mature: Bools


class Raised(NamedTuple):
    """Points that the thresholds of statistics lie over the configured ones, where they alert too often."""

    notice: float = 0.0
    page: float = 0.0


NOT_RAISED = Raised()


@dataclass
class View:
    """A closed and scored bucket with all that is known beside it."""

    bucket: ClosedBucket
    registry: SeriesRegistry
    knowledge: Knowledge
    #: When the stream began, epoch seconds: what is older than it by less than the warm-up is new to nobody but us.
    stream_since: float
    #: Shape (all series,).
    frozen: Bools
    firing: Bools
    #: Set once demand is judged, which is before the rules are asked.
    demand: Demand | None = None
    raised: Raised = NOT_RAISED

    @property
    def start(self) -> int:
        """Begin of the bucket, epoch seconds."""
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

    def of(self, role: Role) -> Subjects:
        """The series of a role."""
        return self._subjects(self.registry.of_role(role))

    def jobs(self) -> Subjects:
        """Series that a tag such as job sets apart from their principal."""
        return self._subjects(np.flatnonzero(self.registry["planned"]))

    def _subjects(self, index: NDArray[np.intp]) -> Subjects:
        first_seen = self.registry["first_seen"][index]
        age_days = np.maximum(0.0, (self.bucket.end - first_seen) / DAY_S)
        return Subjects(
            index, self.bucket.amounts.of(index), first_seen, age_days, self.frozen[index], self.firing[index]
        )


@runtime_checkable
class Forgetful(Protocol):
    """A rule whose windows remember an incident longer than it lasts."""

    def forget(self, view: View, over: Bools) -> None:
        """Incidents of the series in `over`, of shape (all series,), ended with this bucket."""
        ...


class Rule(Protocol):
    """Judges every bucket with what it knew before, then learns from it. Pure: same buckets, same findings."""

    def close(self, view: View) -> Sequence[Finding]: ...

    def dump(self) -> dict[str, NDArray[Any]]:
        """All state as flat arrays for `load`: views that hold until the next change. Lists and dicts go as bytes."""
        ...

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None: ...
