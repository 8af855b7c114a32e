"""Ceilings that stand: who opted in, and the limit each should have; pure functions of peaks and settings."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from curb.actions.policy.limits import ActionLimits, TagMatcher, criticality, tags_match
from curb.actions.policy.route import Mode
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.revisions import fingerprint_of
from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.settings import Settings
from curb.stream.time import DAY_S

#: Seconds after which a principal of which nothing was heard has no peak any more. By hand: two months.
_FORGOTTEN_S = 60 * DAY_S
#: Requests of a minute above which a record cannot be true. By definition: the most that one may count.
_MOST = 2.0**53
#: Share by which a ceiling must be off before it is set again. By hand: a tenth is within the factor.
_MOVED = 0.1


class StandingPolicy(Settings):
    """Ceilings for the principals it matches: a limit above all they ever needed, in force until it is taken out."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this policy.")
    act: str = Field(description="Name of the action that sets the limit; it must limit a rate of requests.")
    match: TagMatcher = Field(
        default_factory=dict, description="Tag → glob; all must match. Empty: every principal opted in."
    )
    by: str = Field(
        default="api_key",
        min_length=1,
        description="Tag that names the principal; the tag by which the action finds its subject.",
    )
    mode: Literal["inherit", "shadow", "approve", "auto"] = Field(
        default="inherit",
        description="shadow records what would be set, approve asks once for the policy, auto sets it; inherit takes "
        "the mode above.",
    )
    factor: float = Field(
        default=2.0, ge=1.25, le=100, description="The ceiling is the highest honest minute of a month times this."
    )
    floor_rpm: int = Field(default=30, ge=1, description="No ceiling is below this many requests per minute.")
    known_days: float = Field(
        default=7.0, ge=1, le=31, description="Principals known for fewer days have no ceiling yet."
    )
    near: float = Field(
        default=0.8,
        ge=0.5,
        lt=1,
        description="A minute above this share of the ceiling is a notice, with a button that raises it.",
    )
    lease_minutes: float = Field(
        default=240.0,
        gt=0,
        le=1440,
        description="Each ceiling is a lease of this length, renewed when half of it is over.",
    )
    max_open: int = Field(default=200, ge=1, le=5000, description="Ceilings of this policy at one time.")
    approvers: tuple[str, ...] = Field(
        default=(), description="Roles of actions.approvers that may approve and raise; none named: all of them."
    )

    @model_validator(mode="after")
    def _ordinary_days_are_not_near(self) -> StandingPolicy:
        if self.near * self.factor < 1:
            raise ValueError(
                f"near {self.near:g} × factor {self.factor:g} is below 1, so every ordinary day would be a notice"
            )
        return self

    def mode_within(self, above: Mode) -> Mode:
        """Its mode, where `above` is inherited."""
        return above if self.mode == "inherit" else self.mode

    @property
    def digest(self) -> str:
        """What an approval is for: another factor, match or action is to be approved again."""
        said = (self.name, self.act, sorted(self.match.items()), self.by, self.factor, self.floor_rpm)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


class Ceiling(NamedTuple):
    """The ceiling that one principal should have."""

    policy: StandingPolicy
    #: The principal's value of the tag `by`.
    value: str
    scope: str
    #: Tags that all its records have in common; and those of each.
    tags: dict[str, str]
    every: tuple[dict[str, str], ...]
    #: Requests of its highest honest minute of a month, and of today.
    highest: float
    today: float
    known_days: float
    usd_per_request: float | None

    @property
    def fingerprint(self) -> str:
        """The same for all ceilings of one principal at one action."""
        return fingerprint_of("ceiling", self.policy.act, self.policy.by, self.value)

    def limit(self, raised: float = 0.0) -> int:
        """Requests per minute; `raised` is a minute that a person has called honest."""
        return max(self.policy.floor_rpm, math.ceil(self.policy.factor * max(self.highest, raised)))

    def usd_per_hour(self, per_minute: float) -> float:
        """Dollars of an hour at so many requests a minute; 0 where no price is known."""
        return 60.0 * per_minute * (self.usd_per_request or 0.0)


def has_moved(limit: int, wanted: int) -> bool:
    """Whether a ceiling is so far off that it is set again."""
    return abs(wanted - limit) > _MOVED * limit


def ceilings(
    peaks: Iterable[PrincipalPeak], policies: Sequence[StandingPolicy], act: str, now: float
) -> dict[str, Ceiling]:
    """What each principal should have at the action `act`, by fingerprint; the first policy that matches decides.

    A principal whose tags vary has several records: their sum is at least what it ever needed at one time.
    """
    found: dict[str, Ceiling] = {}
    fresh = [peak for peak in peaks if now - peak.at < _FORGOTTEN_S and 0 <= peak.highest_per_minute <= _MOST]
    for policy in policies:
        if policy.act != act:
            continue
        for value, records in _by_principal(fresh, policy.by).items():
            ceiling = _of(policy, value, records)
            wanted = ceiling.highest > 0 and ceiling.known_days >= policy.known_days
            if wanted and tags_match(policy.match, ceiling.tags):
                found.setdefault(ceiling.fingerprint, ceiling)
    return found


def _by_principal(peaks: Sequence[PrincipalPeak], by: str) -> Mapping[str, list[PrincipalPeak]]:
    """The records of each value of a tag, in the scope that tells least apart: only its sums are of all requests."""
    named = [peak for peak in peaks if peak.tags.get(by, "") not in ("", UNTAGGED, OTHER)]
    sizes = {peak.scope: len(peak.tags) for peak in named}
    scope = min(sizes, key=lambda name: (sizes[name], name), default="")
    groups: dict[str, list[PrincipalPeak]] = defaultdict(list)
    for peak in named:
        if peak.scope == scope:
            groups[peak.tags[by]].append(peak)
    return groups


def _of(policy: StandingPolicy, value: str, records: Sequence[PrincipalPeak]) -> Ceiling:
    every = tuple(record.tags for record in records)
    priced = [record for record in records if record.usd_per_request is not None]
    highest_usd = max((record.usd_per_request or 0.0 for record in priced), default=None)
    return Ceiling(
        policy,
        value,
        records[0].scope,
        {tag: text for tag, text in every[0].items() if all(other.get(tag) == text for other in every)},
        every,
        sum(record.highest_per_minute for record in records),
        sum(record.today_per_minute for record in records),
        max(record.known_days for record in records),
        highest_usd,
    )


def must_not_have(ceiling: Ceiling, limits: ActionLimits) -> str:
    """Why a principal gets no ceiling, although it matches, or "". To opt in is mark enough for what is not marked."""
    if any(tags_match(matcher, tags) for tags in ceiling.every for matcher in limits.never_touch):
        return "never_touch: a matcher of limits.never_touch fits its tags"
    if any(criticality(tags, limits) == "critical" for tags in ceiling.every):
        return "critical: it is marked critical, Curb never acts on it"
    return ""
