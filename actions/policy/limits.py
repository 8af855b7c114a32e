"""The limits of Curb itself: how much it may do on its own, and which subjects it must leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.settings import Settings

#: Tag → shell-style glob; all of them must match, and a tag the alert does not carry matches nothing.
TagMatcher = dict[str, str]
#: What people say of a subject. What nothing is said of is treated as critical by everything that stops work.
Criticality = Literal["critical", "important", "non_critical"]
#: Values of the tag `criticality`, as owners and other tools write them.
MARKS: dict[str, Criticality] = {
    "critical": "critical",
    "high": "important",
    "normal": "important",
    "important": "important",
    "low": "non_critical",
    "non_critical": "non_critical",
}


class CriticalityRule(Settings):
    """What the subjects it matches are marked as."""

    match: TagMatcher = Field(default_factory=dict, description="Tag → glob; all must match. Empty matches all.")
    is_: Criticality = Field(alias="is", description="critical, important or non_critical.")


class ActionLimits(Settings):
    """How much Curb may do by itself before it leaves the rest to people."""

    max_open_actions: int = Field(default=5, ge=0, description="Actions in force at one time.")
    max_actions_per_hour: int = Field(default=10, ge=0, description="Actions begun within one hour.")
    max_open_per_team: int = Field(default=3, ge=0, description="Actions in force at one time on one team's subjects.")
    max_subjects_per_action: int = Field(
        default=5, ge=0, description="Subjects that one action holds at one time for one alert."
    )
    max_percent_of_traffic: float = Field(
        default=50.0,
        ge=0,
        le=100,
        description="A subject that is more of all spend of its scope is not paused, blocked or brought below normal.",
    )
    max_percent_of_jobs: float = Field(
        default=25.0, ge=0, le=100, description="Part of the subjects of one kind that one action may hold; one always."
    )
    canary: bool = Field(
        default=True, description="Of several subjects one goes first, and the others when it reads back as planned."
    )
    freeze_after: int | None = Field(
        default=8, ge=1, description="When more actions were begun within an hour, Curb halts itself; null: never."
    )
    freeze_after_failures: int | None = Field(
        default=3,
        ge=1,
        description="When so many alerts' actions were undone by people or ineffective within an hour, Curb halts "
        "itself; null: never.",
    )
    soft_cap_minutes: float = Field(
        default=10.0,
        ge=0,
        le=60,
        description="Rung zero of every ladder that shaves to normal: on a soft alert the subject is limited to its "
        "own highest minute for so long, unless another rule confirms it. 0: never.",
    )
    never_touch: tuple[TagMatcher, ...] = Field(
        default=(), description="Tag matchers; Curb reports matching alerts but never acts on them."
    )
    never_touch_targets: tuple[str, ...] = Field(
        default=(), description='Globs on the target of a plan, such as "litellm/key/88dc*"; never changed.'
    )
    criticality: tuple[CriticalityRule, ...] = Field(
        default=(), description="What subjects are marked as; of several that match, the most critical counts."
    )
    shave_unmarked: bool = Field(
        default=False,
        description="true: the request rate of a subject without a mark may be brought back to its normal level.",
    )
    verify_within_minutes: float = Field(
        default=15.0, gt=0, description="The burn must have fallen by then, else the action is called ineffective."
    )
    max_alert_age_minutes: float = Field(
        default=120.0, gt=0, description="Alerts that nothing was heard of for longer are not acted on."
    )
    cool_down_minutes: float = Field(
        default=5.0, ge=0, description="Rest after a lease ended before the same alert may be acted on again."
    )


#: Order of the marks. By definition.
_RANK: dict[Criticality, int] = {"non_critical": 0, "important": 1, "critical": 2}


def tags_match(matcher: TagMatcher, tags: Mapping[str, str]) -> bool:
    """Whether every tag of the matcher is there and its value fits the glob (case counts)."""
    return all(tag in tags and fnmatchcase(tags[tag], glob) for tag, glob in matcher.items())


def criticality(tags: Mapping[str, str], limits: ActionLimits) -> Criticality | None:
    """What a subject with these tags is marked as, the most critical of all that is said; None: nobody marked it.

    A glob never takes a missing or folded value for a mark that allows more than nothing at all.
    """
    said = [rule.is_ for rule in limits.criticality if _marks(rule, tags)]
    own = MARKS.get(tags.get("criticality", "").strip().lower())
    return max([*said, own] if own else said, key=_RANK.__getitem__, default=None)


def _marks(rule: CriticalityRule, tags: Mapping[str, str]) -> bool:
    vague = any(tags.get(tag) in (UNTAGGED, OTHER) for tag in rule.match)
    return tags_match(rule.match, tags) and (rule.is_ == "critical" or not vague)
