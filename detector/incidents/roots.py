"""One incident shows in series within series: of those found at the same time, which series the alert is on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from curb.detector.incidents.causes import ENOUGH
from curb.detector.incidents.fleet import VARIANT as FLEET
from curb.detector.state.rule import Finding
from curb.detector.state.scopes import Scope
from curb.detector.state.view import View

#: Children found within this time are one incident.
TOGETHER_S = 1800.0
#: So many children must be found at once to speak for a parent that was not found itself.
_MANY, _SEVERAL = 3, 2
_BURNS = frozenset({"runaway", "abusive", "unit_cost", "growth"})


def found_at(findings: Mapping[int, Sequence[Finding]], firing: Mapping[int, float], at: float) -> dict[int, float]:
    """What `roots` takes: by series, when it was found first.

    `findings` are those of this bucket, which is closed at `at`; `firing` says when the alerts that fire opened. Lines
    of the digest, silences and idle machines are left out: they are nobody's excess. So is what stands for a whole
    fleet already.
    """
    burns = {
        number
        for number, found in findings.items()
        if any(each.tier != "digest" and each.kind in _BURNS and each.variant != FLEET for each in found)
    }
    return dict.fromkeys(sorted(burns), at) | dict(firing)


def roots(since: Mapping[int, float], view: View, scopes: Sequence[Scope]) -> dict[int, int]:
    """By series that should not be alerted on: the series to alert on instead.

    `since` holds what was found in this bucket or fires, with when it was found first (epoch seconds). A series is a
    child of every one of the same shard whose tags are a part of its own and that counts the same records. One child
    that explains 80 % of what its parent spends over the expected speaks for the parent. Where no child does, and
    several found within half an hour do together (two, or three if the parent was not found itself), the parent
    speaks for them. What is not in the answer speaks for itself.
    """
    registry, scores = view.registry, view.bucket.scores
    found = dict(since)
    speaks: dict[int, int] = {}

    def excess(number: int) -> float:
        return max(0.0, float(scores.rate[number] - scores.expected_fast[number]))

    def order(number: int) -> tuple[int, list[tuple[str, str]]]:
        return -len(registry.tags[number]), sorted(registry.tags[number].items())

    families = _families(since, view, scopes)
    for parent in sorted(families, key=order):
        children = [child for child in families[parent] if child in found and child not in speaks]
        # A parent that came to speak for its children is itself a child of wider ones.
        children += [
            each for each in sorted(found.keys() - since.keys() - speaks.keys()) if _is_within(each, parent, view)
        ]
        whole = excess(parent)
        if not children or whole <= 0:
            continue
        largest = min(children, key=lambda child: (-excess(child), order(child)))
        if excess(largest) >= ENOUGH * whole:
            if parent in found:
                speaks[parent] = largest
            continue
        newest = max(found[child] for child in children)
        together = [child for child in children if newest - found[child] <= TOGETHER_S]
        together = [child for child in together if not any(_is_within(child, each, view) for each in together)]
        enough = len(together) >= (_SEVERAL if parent in found else _MANY)
        if enough and math.fsum(excess(child) for child in together) >= ENOUGH * whole:
            speaks.update(dict.fromkeys(together, parent))
            found.setdefault(parent, min(found[child] for child in together))
    return {child: _last(child, speaks) for child in speaks}


def _families(since: Mapping[int, float], view: View, scopes: Sequence[Scope]) -> dict[int, list[int]]:
    """Children that were found, by parent, whether that was found or not."""
    registry = view.registry
    by_name = {scope.name: scope for scope in scopes}
    families: dict[int, list[int]] = {}
    for child in since:
        own, tags = by_name.get(registry.scopes[child]), registry.tags[child]
        for scope in scopes:
            if own is None or not set(scope.group_by) < tags.keys() or not set(own.sources) <= set(scope.sources):
                continue
            if scope.name == own.name:
                continue  # a job is set apart from its key: the key does not count it
            raw = msgspec.json.encode({tag: tags[tag] for tag in scope.group_by})
            parent = registry.find(scope.name, raw)
            if parent is not None:
                families.setdefault(parent, []).append(child)
    return families


def _is_within(child: int, parent: int, view: View) -> bool:
    own, above = view.registry.tags[child], view.registry.tags[parent]
    return above.items() < own.items()


def _last(child: int, speaks: Mapping[int, int]) -> int:
    root = speaks[child]
    while root in speaks:
        root = speaks[root]
    return root
