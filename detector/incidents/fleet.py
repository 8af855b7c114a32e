"""Many keys, one cause outside of them: an outage, another price or a release is one incident.

Such trouble is on what the principals share, a model or a team, and not on each of them: the provider is down, not
forty keys. So it gets one alert, on the sum of what they share, with the list of who has it. No key is limited for it:
an alert on a sum names no key that an action could find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from curb.detector.state.rule import Finding
from curb.detector.state.scopes import Scope
from curb.detector.state.view import View
from curb.stream.records.spend import TIER_RANK

#: The variant of a finding that stands for many principals.
VARIANT = "fleet"
#: Principals that must show the same at once. By hand: four leaked keys of one team are four incidents.
_MANY = 5
#: So many keep it open.
_SEVERAL = 2
#: Seconds within which they are found at once. By hand: averages of 20 minutes pass their limit within half an hour.
_TOGETHER_S = 1800.0
#: Share of what the sum spends, or of its failures, that is theirs. By hand: in a large fleet five of a thousand keys
#: have something like it on any day.
_SHARE = 0.3
#: A principal belongs to the value of a tag in which so much of its trouble is. By hand: more than half.
_MOSTLY = 0.6
#: Share of a principal's calls that fail from which on its burn may follow from that. By hand: under the limit of the
#: rule on failures, which averages over 20 minutes.
_FAILING = 0.2
#: What is spent over this multiple of what is expected is an excess: of an incident, and of a principal in a fleet.
#: By hand: ordinary hours stay below.
OVER_RATIO = 1.5
#: What a common trouble is made of, in the order in which it is looked for.
_MEASURES = ("errors", "usd")
#: Names in the sentence; the others are counted.
_NAMED = 5

#: The numbers of the series that a series is made of.
PartsOf = Callable[[int], Sequence[int]]


class Open(NamedTuple):
    """An alert that fires: its channel, when it opened (epoch seconds), and the series that it stood for so far."""

    channel: str
    opened_at: float
    members: Set[int] = frozenset()


def to_fleet(
    findings: Sequence[Finding], firing: Mapping[int, Open], view: View, scopes: Sequence[Scope], parts: PartsOf
) -> tuple[list[Finding], Set[int]]:
    """The findings, in which one on a sum stands for those of many principals; and the series that it stands for.

    `firing` are the alerts that fire, by series. A principal with an alert from before, or on something else, keeps
    speaking for itself. For a sum whose fleet alert fires, two principals are enough to go on. Failures are looked at
    first: what else is odd about a principal that fails follows from it.
    """
    if sum(bool(each.shared_by) for each in findings) < _SEVERAL:
        return list(findings), set()
    fleet = _Fleet(view, scopes, parts)
    rest, stand = list(findings), list[Finding]()
    spoken_for: set[int] = set()
    open_for = {root: each.members for root, each in firing.items() if each.channel.endswith(f"/{VARIANT}")}
    for measure in _MEASURES:
        members = _members(rest, measure, firing, view)
        for root, all_of_it in _with_known(fleet.candidates(members, measure), open_for):
            those = {each: members[each] for each in all_of_it if each in members}
            found = {series: each for series, each in those.items() if each.shared_by == measure}
            # What is left of it when nobody has it any more is looked at when all else was.
            left = bool(found) or measure == _MEASURES[-1]
            goes_on = len(found) >= _SEVERAL or (left and all(map(fleet.has_passed, found)))
            if not fleet.is_many(root, found, measure) and not (root in open_for and goes_on):
                continue
            if found:
                stand.append(_of_all(root, found, view))
            spoken_for.update(those)
            for series in those:
                del members[series]
        rest = [each for each in rest if each.series not in spoken_for or not _follows(each, measure)]
    return [*rest, *stand], spoken_for


def _with_known(
    candidates: Sequence[tuple[int, Sequence[int]]], open_for: Mapping[int, Set[int]]
) -> Iterable[tuple[int, Set[int]]]:
    """The candidates, after the sums whose alert fires, which keep what they stand for."""
    for root, known in open_for.items():
        yield root, known | {each for other, those in candidates if other == root for each in those}
    for root, those in candidates:
        if root not in open_for:
            yield root, set(those)


def _follows(finding: Finding, measure: str) -> bool:
    """Whether a principal's finding follows from a trouble by this measure, which others have as well."""
    return finding.family.statistic or finding.shared_by == measure or (measure == "errors" and bool(finding.shared_by))


def _members(findings: Sequence[Finding], measure: str, firing: Mapping[int, Open], view: View) -> dict[int, Finding]:
    """By series: its loudest finding of the kind that others may have as well, or what may follow from such a trouble
    where its own is too small to be found, or over: it fails, and burns."""
    by_series: dict[int, list[Finding]] = {}
    for each in findings:
        if _follows(each, measure) and not each.recurring:
            by_series.setdefault(each.series, []).append(each)
    known = {each for fired in firing.values() for each in fired.members}
    members: dict[int, Finding] = {}
    for series, found in by_series.items():
        own = firing.get(series)
        if own is not None and not _may_move(own, found, view.bucket.at):
            continue
        best = max(found, key=lambda each: (each.shared_by == measure, TIER_RANK[each.tier], each.score))
        if best.shared_by == measure or series in known or (measure == "errors" and _fails(series, view)):
            members[series] = best
    return members


def _fails(series: int, view: View) -> bool:
    amounts = view.bucket.amounts
    return bool(amounts.errors[series] >= _FAILING * max(1.0, amounts.requests[series]))


def _may_move(own: Open, found: Sequence[Finding], at: float) -> bool:
    """What fires for a series of its own stays there, unless it began a moment ago for the same."""
    family, _, variant = own.channel.partition("/")
    same = any(each.family.name == family for each in found)
    return same and variant != VARIANT and at - own.opened_at <= _TOGETHER_S


class _Fleet:
    """Which sums the principals of one bucket could have their trouble from."""

    def __init__(self, view: View, scopes: Sequence[Scope], parts: PartsOf) -> None:
        self._view, self._registry, self._parts = view, view.registry, parts
        self._totals = [scope for scope in scopes if scope.role == "total"]

    def candidates(self, members: Iterable[int], measure: str) -> list[tuple[int, list[int]]]:
        """Sums and the members that mostly belong to them: most members first, then the smaller sum."""
        by_root: dict[int, list[int]] = {}
        for series in members:
            for scope in self._totals:
                root = self._root(series, measure, scope)
                if root is not None:
                    by_root.setdefault(root, []).append(series)
        rates = self._view.bucket.scores.rate
        return sorted(by_root.items(), key=lambda each: (-len(each[1]), float(rates[each[0]]), each[0]))

    def is_many(self, root: int, those: Iterable[int], measure: str) -> bool:
        """Whether so many, with so large a share of the sum, have it that its cause is not theirs."""
        those = list(those)
        if len(those) < _MANY:
            return False
        whole = self._amount(root, measure)
        return whole > 0 and math.fsum(self._within(each, root, measure) for each in those) >= _SHARE * whole

    def has_passed(self, series: int) -> bool:
        """Whether what is found of a principal is what averages remember: it neither fails nor burns now."""
        scores = self._view.bucket.scores
        burns = scores.rate[series] > OVER_RATIO * max(0.0, scores.expected_fast[series])
        return not burns and not _fails(series, self._view)

    def _root(self, series: int, measure: str, scope: Scope) -> int | None:
        """The series of a sum that a member belongs to, None where no value of its tags has most of its trouble."""
        own = self._registry.tags[series]
        missing = [tag for tag in scope.group_by if tag not in own]
        values = dict(own)
        if missing:
            by_values: dict[tuple[str, ...], float] = {}
            for part in self._parts(series):
                tags = self._registry.tags[part]
                if all(tag in tags for tag in missing):
                    key = tuple(tags[tag] for tag in missing)
                    by_values[key] = by_values.get(key, 0.0) + self._amount(part, measure)
            whole = math.fsum(by_values.values())
            most = max(by_values, key=lambda each: (by_values[each], each), default=None)
            if most is None or whole <= 0 or by_values[most] < _MOSTLY * whole:
                return None
            values.update(zip(missing, most, strict=True))
        return self._registry.find(scope.name, msgspec.json.encode({tag: values[tag] for tag in scope.group_by}))

    def _within(self, series: int, root: int, measure: str) -> float:
        """What of a member is within the sum."""
        shared = self._registry.tags[root].items()
        if shared <= self._registry.tags[series].items():
            return self._amount(series, measure)
        parts = [part for part in self._parts(series) if shared <= self._registry.tags[part].items()]
        return math.fsum(self._amount(part, measure) for part in parts)

    def _amount(self, series: int, measure: str) -> float:
        """Failures of the bucket, or the average spend, $/h."""
        bucket = self._view.bucket
        return float(bucket.amounts.errors[series] if measure == "errors" else max(0.0, bucket.scores.rate[series]))


def _of_all(root: int, members: Mapping[int, Finding], view: View) -> Finding:
    """One finding for all members: as loud as the loudest."""
    registry = view.registry
    # By what they have cost so far, which hardly changes from one revision to the next.
    order = sorted(members, key=lambda each: (-float(registry["total_usd"][each]), each))
    loudest = max(members.values(), key=lambda each: (TIER_RANK[each.tier], each.score))
    names = [next(reversed(registry.tags[each].values())) for each in order]
    known = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
    scope = registry.scopes[order[0]]
    excess = [each.excess_usd for each in members.values()]
    return loudest._replace(
        series=root,
        # Many at once are an outage or a price, not somebody's abuse.
        kind="runaway" if loudest.kind == "abusive" else loudest.kind,
        words=f"{len(names):,} {scope}s at once ({known}); of {names[0]}: {members[order[0]].words}",
        excess_usd=None if None in excess else math.fsum(each for each in excess if each is not None),
        lasting=any(each.lasting for each in members.values()),
        recurring=all(each.recurring for each in members.values()),
        variant=VARIANT,
        since=None,
        members=frozenset(members),
    )
