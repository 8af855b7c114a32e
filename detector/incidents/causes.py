"""Where an excess comes from: what each part of a series usually costs, and which few parts explain what was added."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns, Floats
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import Scope
from curb.detector.state.view import View
from curb.stream.records.spend import UNTAGGED, Cause
from curb.stream.time import DAY_S, HOUR_S

_USUAL_S, _FAST_S = 3 * DAY_S, 300
#: A set of causes is enough when it explains this share; five that explain less than half explain nothing.
ENOUGH, _MOST, _TOO_LITTLE = 0.8, 5, 0.5
#: A tag explains when the change is spread over its values otherwise than the usual spend, by this share.
_SPECIFIC = 0.1
#: Between two explanations that are equally short, the one with more tags may explain less by this.
_FINER_MAY_LOSE = 0.05
#: A whole younger than this has no usual spend: all of it is change.
_YOUNG_S = DAY_S
#: The hour is taken unless the last minutes show more than twice its change: then it has only begun.
_BEGUN = 0.5
#: The time of day may make this much of a part's usual spend.
_SEASON = (0.25, 4.0)

#: A scope and the values of its tags.
_Whole = tuple[str, tuple[str, ...]]
_Tags = tuple[tuple[str, str], ...]


class _Explanation(NamedTuple):
    """Parts put together by some tags: the fewest that explain enough, largest first."""

    by: tuple[str, ...]
    #: Tags and share of the positive change.
    chosen: list[tuple[_Tags, float]]
    covered: float


class RootCause:
    """Rates of all series; pure and causal. A key is made of its origins, a group of its nodes, a total of its keys.

    Usual rates are means of three days that stand still while the series, or the whole that it is a part of, is
    frozen; for a part that is new to an old whole they start at 0.
    """

    def __init__(self, scopes: Sequence[Scope], registry: SeriesRegistry) -> None:
        self._registry = registry
        self._scopes = {scope.name: scope for scope in scopes}
        self._wholes_of = {scope.name: _wholes(scope, scopes) for scope in scopes}
        #: Numbers of the parts of each whole, in the order in which they came.
        self._parts: dict[_Whole, list[int]] = {}
        self._shown = registry.shown
        #: Per series, $/h: usual, of the last hour, of the last five minutes; and since when its usual is known.
        self._rates = Columns(
            {"usual": Column(), "hour": Column(), "fast": Column(), "since": Column(dtype=np.int64)}, 64
        )
        #: $/h expected of each series in the newest bucket, which shows the time of day.
        self._expected: Floats = np.zeros(0)
        self._now = 0

    def close(self, view: View) -> None:
        """Take in a closed and scored bucket; nothing is learned from a silence of the whole fleet."""
        self._grow(int(view.stream_since))
        self._expected, self._now = view.bucket.scores.expected_fast, view.bucket.end
        if view.bucket.gap:
            return
        rates, n = self._rates, self._rates.n
        rate = view.bucket.cost[:n] / view.bucket.hours
        for name, memory_s in (("hour", HOUR_S), ("fast", _FAST_S)):
            rates[name][...] += min(1.0, view.step_s / memory_s) * (rate - rates[name])
        known_s = np.clip(view.bucket.end - rates["since"], view.step_s, _USUAL_S)
        share = np.where(self._frozen(view.frozen), 0.0, view.step_s / known_s)
        rates["usual"][...] += share * (rate - rates["usual"])

    def _grow(self, stream_since: int) -> None:
        if self._shown != self._registry.shown:
            self._rejoin()
        first, n = self._rates.n, len(self._registry)
        self._rates.grow(n)
        for number in range(first, n):
            self._join(number)
            above = self._registry.above(number)
            first_seen = self._registry["first_seen"]
            # A key is new to a stream, an origin is new to a key.
            since = stream_since if above is None else int(first_seen[above])
            self._rates["since"][number] = min(since, int(first_seen[number]))

    def _join(self, number: int) -> None:
        """Make a series a part of its wholes."""
        tags = self._registry.tags[number]
        for whole in self._wholes_of.get(self._registry.scopes[number], ()):
            if self._registry["planned"][number] and whole.role != "total":
                continue
            key = (whole.name, tuple(tags[tag] for tag in whole.group_by))
            self._parts.setdefault(key, []).append(number)

    def _frozen(self, frozen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """With all parts of what is frozen."""
        mask = frozen.copy()
        for number in np.flatnonzero(frozen).tolist():
            mask[self.parts(number)] = True
        return mask

    def parts(self, number: int) -> list[int]:
        """Numbers of the series that a series is made of; none for the finest ones and for jobs."""
        scope = self._scopes.get(self._registry.scopes[number])
        if scope is None or self._registry["planned"][number]:
            return []
        tags = self._registry.tags[number]
        return self._parts.get((scope.name, tuple(tags[tag] for tag in scope.group_by)), [])

    def in_common(self, number: int) -> dict[str, str]:
        """Tags that its parts have beside its own, where nearly all of its last hour has the same value."""
        parts = self.parts(number)
        own, rates = self._registry.tags[number], self._rates["hour"][parts]
        whole, found = float(rates.sum()), {}
        for tag in {tag for part in parts for tag in self._registry.tags[part]} - own.keys():
            by_value: dict[str, float] = {}
            for part, rate in zip(parts, rates.tolist(), strict=True):
                value = self._registry.tags[part][tag]
                by_value[value] = by_value.get(value, 0.0) + rate
            value, most = max(by_value.items(), key=lambda each: each[1])
            if whole > 0 and most >= ENOUGH * whole and value != UNTAGGED:
                found[tag] = value
        return dict(sorted(found.items()))

    def causes(self, number: int, excess_usd: float) -> list[Cause]:
        """The fewest parts that explain 80 % of what was added to series `number`, largest first, five at most.

        Shares are of the positive change and sum to 1 at most; `excess_usd` is divided by them. Tags are those of the
        series with those that separate its parts. One cause with the series' own tags and share 1 says that
        nothing finer is known: it has one part, or all of them rose alike, or too many rose.
        """
        tags = self._registry.tags[number]
        whole = [Cause(tags=dict(tags), excess_usd=excess_usd, share=1.0)]
        parts = self.parts(number)
        if len(parts) < 2:
            return whole
        usual, change = self._change(number, parts)
        cells = [tuple(each for each in self._registry.tags[part].items() if each[0] not in tags) for part in parts]
        found = self._best(number, cells, usual, change)
        if found is None or (found.covered < _TOO_LITTLE):
            return whole
        return [Cause(tags=tags | dict(own), excess_usd=share * excess_usd, share=share) for own, share in found.chosen]

    def _is_total(self, number: int) -> bool:
        return self._scopes[self._registry.scopes[number]].role == "total"

    def _change(self, number: int, parts: Sequence[int]) -> tuple[list[float], list[float]]:
        """Of each part, $/h: what it usually costs at this hour, and what it costs more (or less) now."""
        rates = {name: self._rates[name][parts].tolist() for name in ("usual", "hour", "fast")}
        usual: list[float] = rates["usual"]
        if self._now - int(self._registry["first_seen"][number]) < _YOUNG_S:
            usual = [0.0] * len(parts)
        mean = math.fsum(usual)
        if mean > 0 and number < len(self._expected):
            season = float(np.clip(self._expected[number] / mean, *_SEASON))
            usual = [season * each for each in usual]
        hour, fast = ([now - was for now, was in zip(rates[name], usual, strict=True)] for name in ("hour", "fast"))
        return usual, hour if math.fsum(hour) >= _BEGUN * math.fsum(fast) else fast

    def _best(
        self, number: int, cells: Sequence[_Tags], usual: Sequence[float], change: Sequence[float]
    ) -> _Explanation | None:
        """The shortest explanation; of those the most specific."""
        names = list(dict.fromkeys(name for cell in cells for name, _ in cell))
        if self._is_total(number):
            ways: Iterable[tuple[str, ...]] = [tuple(names)]
        else:
            specific = [name for name in names if _separates(name, cells, usual, change)]
            ways = (way for size in range(1, len(specific) + 1) for way in combinations(specific, size))
        found = [each for each in (_explain(way, cells, change) for way in ways) if each is not None]
        if not found:
            return None
        enough = [each for each in found if each.covered >= ENOUGH] or found
        fewest = min(len(each.chosen) for each in enough)
        short = [each for each in enough if len(each.chosen) == fewest]
        most = max(each.covered for each in short)
        fine = [each for each in short if each.covered >= most - _FINER_MAY_LOSE]
        return max(fine, key=lambda each: (len(each.by), each.covered))

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return self._rates.dump("rates")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave; the registry must be loaded before."""
        self._rates.load("rates", arrays)
        self._rejoin()

    def _rejoin(self) -> None:
        self._shown = self._registry.shown
        self._parts.clear()
        for number in range(self._rates.n):
            self._join(number)


def rescaled(causes: Sequence[Cause], excess_usd: float) -> list[Cause]:
    """The same shares of another excess: once the burn is over, what caused it is no longer to be seen."""
    return [Cause(tags=each.tags, excess_usd=each.share * excess_usd, share=each.share) for each in causes]


def _wholes(part: Scope, scopes: Sequence[Scope]) -> list[Scope]:
    """The scopes whose series the series of `part` add up to.

    Several principals, such as keys and users, see the same dollars: a total is made of the first of them.
    """

    def within(whole: Scope, each: Scope) -> bool:
        return set(whole.group_by) < set(each.group_by) and set(each.sources) <= set(whole.sources)

    def makers(total: Scope) -> list[Scope]:
        made = [each for role in ("principal", "node", "bill") for each in [_first(role, total)] if each is not None]
        origin = _first("origin", total)
        return made or ([] if origin is None else [origin])

    def _first(role: str, total: Scope) -> Scope | None:
        return next((each for each in scopes if each.role == role and within(total, each)), None)

    roles = {"origin": ("principal", "bill"), "node": ("group",)}.get(part.role, ())
    own = [each for each in scopes if each.role in roles and within(each, part)]
    return own + [each for each in scopes if each.role == "total" and part in makers(each)]


def _separates(name: str, cells: Sequence[_Tags], usual: Sequence[float], change: Sequence[float]) -> bool:
    """Whether the change is spread over the values of a tag otherwise than the usual spend is."""
    added, before = _by(name, cells, change), _by(name, cells, usual)
    if len(added) < 2:
        return False
    added_usd, before_usd = math.fsum(added.values()), math.fsum(before.values())
    if added_usd <= 0:
        return False
    if before_usd <= 0:
        return True
    return math.fsum(abs(added[v] / added_usd - before[v] / before_usd) for v in added) / 2 >= _SPECIFIC


def _by(name: str, cells: Sequence[_Tags], values: Sequence[float]) -> dict[str, float]:
    """Sums by the value of a tag, none below 0."""
    found: dict[str, list[float]] = {}
    for cell, value in zip(cells, values, strict=True):
        found.setdefault(dict(cell).get(name, ""), []).append(value)
    return {value: max(0.0, math.fsum(each)) for value, each in found.items()}


def _explain(way: tuple[str, ...], cells: Sequence[_Tags], change: Sequence[float]) -> _Explanation | None:
    """The fewest values of the tags in `way` that explain enough; None where nothing was added."""
    sums: dict[_Tags, list[float]] = {}
    for cell, value in zip(cells, change, strict=True):
        sums.setdefault(tuple(each for each in cell if each[0] in way), []).append(value)
    added = {cell: usd for cell, each in sums.items() if (usd := math.fsum(each)) > 0}
    total = math.fsum(added.values())
    if total <= 0:
        return None
    chosen: list[tuple[_Tags, float]] = []
    covered = 0.0
    for cell, usd in sorted(added.items(), key=lambda each: (-each[1], each[0]))[:_MOST]:
        chosen.append((cell, usd / total))
        covered = min(1.0, math.fsum(share for _, share in chosen))
        if covered >= ENOUGH:
            break
    return _Explanation(way, chosen, covered)
