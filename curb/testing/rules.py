"""Lets authors of a rule run it on made-up buckets, and checks every promise of a rule: `faults(MyRule)` is empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, get_args

import msgspec
import numpy as np

from curb.detector.heads.demand import Config as DemandConfig
from curb.detector.heads.demand import UnexplainedHead
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.rules.table import RULES, path_of
from curb.detector.settings import DetectorSettings
from curb.detector.state.amounts import AMOUNTS, Amounts
from curb.detector.state.bucket import ClosedBucket, Scores
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Family, Finding, Rule, RuleContext
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.detector.state.view import View
from curb.stream.records.spend import AlertKind, Tier
from curb.stream.settings import Settings

#: A Monday, midnight UTC.
T0 = 1_750_032_000
HOUR, DAY = 3600, 86400

#: {"source": "usage", "tags": {...}, "cost": 1.0, "requests": 3, ...}: amounts by their names in `Amounts`.
Row = Mapping[str, Any]
#: The rows of the bucket that starts at a time, None for a gap.
Rows = Callable[[int], Iterable[Row] | None]


class Closes(Protocol):
    """A rule, or something that wraps one."""

    def close(self, view: View) -> Sequence[Finding]: ...


class Fleet:
    """Closes one bucket after the other. Rows go to the series of every scope, as the rollup does it."""

    def __init__(
        self,
        step_s: int = 300,
        start: int = T0,
        scopes: Sequence[Scope] = DEFAULT_SCOPES,
        time_zone: str = "UTC",
        stream_since: float | None = None,
    ) -> None:
        self.step_s, self.now, self.scopes = step_s, start, scopes
        self.stream_since = float(start if stream_since is None else stream_since)
        self.registry = SeriesRegistry(scopes, time_zone)
        self.knowledge = Knowledge(scopes, time_zone)

    def view(self, rows: Iterable[Row], *, gap: bool = False, firing: Iterable[int] = ()) -> View:
        """The next bucket."""
        sums: dict[int, list[float]] = {}
        for row in rows:
            values = [float(row.get(name, 0.0)) for name in AMOUNTS]
            for scope in self.scopes:
                if row.get("source", "usage") in scope.sources:
                    tags = msgspec.json.encode(dict(scope.series(row["tags"])))
                    number = self.registry.number(scope.name, tags, self.now)
                    held = sums.setdefault(number, [0.0] * len(AMOUNTS))
                    sums[number] = [a + b for a, b in zip(held, values, strict=True)]
        n = len(self.registry)
        amounts = np.zeros((len(AMOUNTS), n))
        for number, values in sums.items():
            amounts[:, number] = values
        self.registry["total_usd"][...] += amounts[0]
        frozen = np.zeros(n, np.bool_)
        frozen[list(firing)] = True
        start, end = self.now, self.now + self.step_s
        bucket = ClosedBucket(start, end, end + 30.0, Amounts(*amounts), _scores(amounts[0], self.step_s), gap)
        self.now = end
        return View(bucket, self.registry, self.knowledge, self.stream_since, frozen, frozen.copy())

    def run(self, rule: Closes, until: int, rows: Rows) -> Iterator[tuple[int, list[Finding]]]:
        """Closes buckets up to `until` (epoch s) with what `rows(start)` gives, None for a gap; their ends and what
        `rule` says."""
        while self.now < until:
            given = rows(self.now)
            view = self.view(given or (), gap=given is None)
            yield self.now, list(rule.close(view))


def gpu(node: str, percent: float = 90.0, cost: float = 1.0, *, group: str = "g", gib: float = 20.0) -> Row:
    """One sample of a node in team a."""
    return {
        "source": "gpu",
        "tags": {"team": "a", "group": group, "node": node},
        "cost": cost,
        "gpu_samples": 1,
        "gpu_percents": percent,
        "gpu_gib": gib,
    }


def usage(key: str = "k1", cost: float = 1.0, *, team: str = "a", job: str | None = None, **amounts: float) -> Row:
    """Usage of a key."""
    tags = {"team": team, "project": "p", "api_key": key, "model": "m", "region": "r"} | ({"job": job} if job else {})
    return {"tags": tags, "cost": cost, "requests": 1, **amounts}


def _scores(cost: np.ndarray[Any, np.dtype[np.float64]], step_s: int) -> Scores:
    n, rate = len(cost), cost * HOUR / step_s
    return Scores(
        notice=np.full(n, -9.0),
        page=np.full(n, -np.inf),
        channel=np.zeros(n, np.intp),
        expected_rate=np.zeros(n),
        rate=rate,
        expected_fast=np.zeros(n),
        excess=np.zeros(n),
        requests_rate=np.zeros(n),
    )


# --- the promises of a rule -------------------------------------------------------------------------------------------


def faults(rule: type[Rule], table: Sequence[type[Rule]] = RULES, rows: Rows | None = None) -> list[str]:
    """What is missing for the rule to be one, in sentences; empty when all promises hold.

    `table` holds the other rules. `rows` gives the rows of the bucket that starts at a time (epoch seconds), None for a
    gap, for four days from `T0`; on them the rule must find something. Without them it runs on `ordinary` rows.
    """
    found = list(_incomplete(rule))
    found = found or [*_undeclared(rule), *_taken(rule, [each for each in table if each is not rule])]
    found = found or list(_not_made(rule))
    found = found or list(_broken(rule, rows or ordinary, must_find=rows is not None))
    return found or list(_noisy(rule))


def ordinary(start: int) -> Iterable[Row] | None:
    """Four days of six keys, a job and two machines in all their noise, with a gap, a runaway and a newcomer."""
    day, hour = divmod(start - T0, DAY)[0], (start - T0) % DAY // HOUR
    if day == 2 and hour == 3:
        return None
    draw = np.random.default_rng(start)
    rows: list[Row] = []
    for number in range(6 + (day >= 3)):
        requests = float(draw.poisson(40))
        wild = 30.0 if (number, day) == (0, 3) and 9 <= hour < 15 else 1.0
        failed = 0.6 * requests if (number, day) == (1, 3) else 0.0
        cost = 0.01 * requests * wild * (100.0 if number == 6 else 1.0)
        tokens = 900.0 * requests * wild
        rows.append(
            usage(
                f"k{number}", cost, requests=requests, errors=failed, users=float(draw.integers(5, 15)),
                input_tokens=tokens, output_tokens=0.3 * tokens,
            )
        )  # fmt: skip
    if hour == 1:
        rows.append(usage("k0", 20.0 if day == 3 else 1.0, job="nightly", requests=50.0))
    rows.append(gpu("n1", float(draw.uniform(40, 95)) if day < 3 else 0.0))
    rows += [gpu(f"n{2 + extra}", 0.0) for extra in range(8 if day == 3 and hour >= 12 else 1)]
    return rows


def _incomplete(rule: type[Rule]) -> Iterator[str]:
    """What is not there at all, so that nothing else of the rule can be read."""
    called = getattr(rule, "name", "")
    if not isinstance(called, str) or not called.isidentifier():
        yield f"{rule.__name__}.name is missing: a word under which its state is saved"
    if not rule.part:
        yield f"{rule.__name__}.part is missing: what it looks at, in few words"
    if not (isinstance(rule.config, type) and issubclass(rule.config, Settings)):
        yield f"{rule.__name__}.config is no Settings"
    if not (isinstance(rule.families, tuple) and all(isinstance(each, Family) for each in rule.families)):
        yield f"{rule.__name__}.families is no tuple of Family: `families = (MINE,)`, with the comma"
    for method in sorted(rule.__abstractmethods__):
        yield f"{rule.__name__}.{method} is missing: a rule needs `__init__(config, context)` and `close(view)`"


def _undeclared(rule: type[Rule]) -> Iterator[str]:
    for family in rule.families:
        if not family.name:
            yield f"a family of {rule.__name__} has no name: alerts carry it as their channel"
        if family.docs is None or not all(family.docs):
            yield f"family {family.name} has no docs line: Docs(title, finds, when, tiers)"
        points = family.confidence.points
        in_order = list(points) == sorted(points) and all(0 < share <= 1 for _, share in points)
        if not in_order or bool(points) != bool(family.confidence.measured):
            yield (
                f"family {family.name} has no confidence: shares over 0 up to 1, by rising score, and how they were "
                "measured (or NOT_MEASURED)"
            )
    for key, field in rule.config.model_fields.items():
        if not field.description:
            yield f"setting {key} of {rule.__name__} has no description"
        if field.is_required():
            yield f"setting {key} of {rule.__name__} has no default"
    part: Any = DetectorSettings()
    for each in rule.settings_at.split(".") if rule.settings_at else []:
        part = getattr(part, each, None)
    if rule.settings_at and not isinstance(part, rule.config):
        yield f"{rule.__name__}.settings_at: there is no {path_of(rule)} of its config below detector"


def _not_made(rule: type[Rule]) -> Iterator[str]:
    try:
        rule(rule.config(), RuleContext(900, warmup_s=DAY))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        made = f"{rule.__name__}(config, context) with a {rule.config.__name__} as `config`"
        yield f"{made} fails: {error}; `config` of the class names its settings"


def _taken(rule: type[Rule], others: Sequence[type[Rule]]) -> Iterator[str]:
    if rule.name in {each.name for each in others}:
        yield f"name {rule.name} is another rule's: its state would be saved over that one's"
    channels = Counter(family.name for each in (rule, *others) for family in each.families)
    yield from (f"channel {family.name} is declared twice" for family in rule.families if channels[family.name] > 1)
    if path_of(rule) in {path_of(each) for each in others}:
        yield f"settings {path_of(rule)} are another rule's"


def _broken(rule: type[Rule], rows: Rows, *, must_find: bool) -> Iterator[str]:
    """Faults of the rule at work, over four days in buckets of 15 minutes."""
    fleet, demand = Fleet(900), UnexplainedHead(DemandConfig(), RuleContext(900))
    once, twice, loaded = (rule(rule.config(), RuleContext(900, warmup_s=DAY)) for _ in range(3))
    heard = 0
    while fleet.now < T0 + 4 * DAY:
        given = rows(fleet.now)
        view = fleet.view(given or (), gap=given is None)
        demand.close(view)
        before = [array.copy() for array in view.bucket.amounts]
        try:
            answer = once.close(view)
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            yield f"{rule.__name__}.close fails: {error}; `config` of the class is {rule.config.__name__}"
            return
        if not isinstance(answer, Sequence) or not all(isinstance(each, Finding) for each in answer):
            yield f"{rule.__name__}.close gives {answer!r:.60}, no list of Finding; [] when there is nothing"
            return
        found, again = list(answer), list(twice.close(view))
        heard += len(found)
        if found != again:
            yield "it is not deterministic: two of it find different things in the same buckets"
            return
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, view.bucket.amounts, strict=True)):
            yield "it changes the amounts of the bucket, which other rules read"
            return
        yield from (wrong := list(_unsound(rule, found, len(fleet.registry))))
        if wrong:
            return
        if fleet.now == T0 + 2 * DAY:
            loaded.load(_copied(once))
        elif fleet.now > T0 + 2 * DAY and list(loaded.close(view)) != found:
            lost = "loaded after two days, it finds different things; are all columns in `parts`?"
            yield f"its state does not survive dump and load: {lost}"
            return
        if view.bucket.end % (6 * HOUR) == 0 and fleet.now > T0 + 3 * DAY:
            over = np.ones(len(fleet.registry), np.bool_)
            for each in (once, twice, loaded):
                each.forget(view, over)
    if not _same(_copied(once), _copied(loaded)):
        yield "its state does not survive dump and load: loaded after two days, it ends with another state"
    if must_find and not heard:
        yield "it finds nothing in the rows that were made for it: four days, a row for each bucket of 15 minutes"


def _unsound(rule: type[Rule], found: Sequence[Finding], series: int) -> Iterator[str]:
    for finding in found:
        if finding.family not in rule.families:
            yield f"it finds {finding.family.name}, which {rule.__name__}.families does not declare"
        elif not 0 <= finding.series < series:
            yield f"it finds series {finding.series}, of {series}"
        elif not isinstance(finding.score, int | float):
            yield f"a finding of {finding.family.name} has the score {finding.score!r}, which is no number: use float()"
        elif not np.isfinite(finding.score):
            yield f"a finding of {finding.family.name} has the score {finding.score}"
        elif finding.tier not in get_args(Tier):
            yield f"a finding of {finding.family.name} has the tier {finding.tier!r}: {_one_of(Tier)}"
        elif finding.kind not in get_args(AlertKind):
            yield f"a finding of {finding.family.name} has the kind {finding.kind!r}: {_one_of(AlertKind)}"
        elif not finding.words:
            yield f"a finding of {finding.family.name} has no words"


def _one_of(values: Any) -> str:
    """The values of a Literal, for people."""
    return f"it must be one of {', '.join(get_args(values))}"


def _noisy(rule: type[Rule]) -> Iterator[str]:
    """Steady and absent spend: nothing to find, and no state that grows."""
    for cost in (0.0, 1.0):
        fleet, steady = Fleet(3600), rule(rule.config(), RuleContext(3600, warmup_s=DAY))
        sizes = []
        for _ in range(12 * 24):
            if steady.close(fleet.view([usage(cost=cost, requests=60.0 * cost, users=9.0 * cost)])):
                rates = f"{60 * cost:g} requests of {9 * cost:g} users, no tokens"
                yield f"it finds something in a steady ${cost:g} an hour ({rates})"
                return
            sizes.append(sum(array.nbytes for array in steady.dump().values()))
        if sizes[-1] > 1.05 * sizes[len(sizes) // 2]:
            yield "its state grows with time, at the same series"
            return


def _copied(rule: Rule) -> dict[str, Any]:
    """What a rule dumps, copied as a snapshot would."""
    return {name: np.array(array) for name, array in rule.dump().items()}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one
    )
