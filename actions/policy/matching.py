"""What matchers say of tags: whether they fit, and what a subject is marked as."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from curb.actions.policy.guard_settings import MARKS, Criticality, CriticalityRule, Limits, TagMatcher
from curb.stream.records.spend import OTHER, UNTAGGED

_RANK: dict[Criticality, int] = {"non_critical": 0, "important": 1, "critical": 2}


def tags_match(matcher: TagMatcher, tags: Mapping[str, str]) -> bool:
    """Whether every tag of the matcher is there and its value fits the glob (case counts)."""
    return all(tag in tags and fnmatchcase(tags[tag], glob) for tag, glob in matcher.items())


def criticality(tags: Mapping[str, str], limits: Limits) -> Criticality | None:
    """What a subject with these tags is marked as, the most critical of all that is said; None: nobody marked it.

    A glob never takes a missing or folded value for a mark that allows more than nothing at all.
    """
    said = [rule.is_ for rule in limits.criticality if _marks(rule, tags)]
    own = MARKS.get(tags.get("criticality", "").strip().lower())
    return max([*said, own] if own else said, key=_RANK.__getitem__, default=None)


def _marks(rule: CriticalityRule, tags: Mapping[str, str]) -> bool:
    vague = any(tags.get(tag) in (UNTAGGED, OTHER) for tag in rule.match)
    return tags_match(rule.match, tags) and (rule.is_ == "critical" or not vague)
