"""Views of closed buckets out of plain rows, as the detector's rules are asked about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from curb.detector.incidents.knowledge import Knowledge
from curb.detector.rules.table import families
from curb.detector.state.amounts import AMOUNTS, Amounts
from curb.detector.state.bucket import ClosedBucket, Scores
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Family, Finding, Rule
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.detector.state.view import View

#: A Monday, midnight UTC.
T0 = 1_750_032_000
HOUR, DAY = 3600, 86400

#: {"source": "usage", "tags": {...}, "cost": 1.0, "requests": 3, ...}: amounts by their names in `Amounts`.
Row = Mapping[str, Any]


class Closes(Protocol):
    """A rule, or a test's stand-in that sets something on the view first."""

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

    def run(
        self, rule: Closes, until: int, rows: Callable[[int], Iterable[Row] | None]
    ) -> Iterator[tuple[int, list[Finding]]]:
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


def family(name: str) -> Family:
    """The family of this name, with all that its rule declares."""
    return families().of(name)


def saved(rule: Rule) -> dict[str, Any]:
    """What a rule dumps, copied as a snapshot would."""
    return {name: np.array(array) for name, array in rule.dump().items()}


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
