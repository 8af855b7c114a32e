"""Distinguishes abuse from growth: how a principal's use changed in kind decides what an alert is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Bools, Column, Columns, Floats, Parts
from curb.detector.state.rule import Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.stream.time import HOUR_S


class Config(RuleConfig):
    """When the use of a principal counts as abusive: it changed in kind, not only in size."""

    enabled: bool = Field(
        default=True, description="Whether alerts are classified as abuse or growth by the change of use."
    )
    abusive_threshold: float = Field(
        default=2.5,
        gt=0,
        description="Use is abusive from this score on: the length of the vector of changes, in standard deviations "
        "over the first two of each.",
    )
    memory_days: float = Field(default=5.0, gt=0, le=60, description="How long a principal's usual use is remembered.")
    known_hours: int = Field(
        default=12, ge=1, description="Hours of use after which a principal is compared with its own past."
    )
    min_requests: int = Field(
        default=5, ge=1, description="An hour of fewer requests says nothing and teaches nothing."
    )


@dataclass(frozen=True)
class Use:
    """What N principals did in an hour; arrays of shape (N,). Where a source knows no users, `users` is 0."""

    cost: Floats
    requests: Floats
    errors: Floats
    users: Floats
    input_tokens: Floats
    output_tokens: Floats
    #: Share of the dollars on a model, and in a region, that the principal did not use a day before: 0 to 1.
    new_model: Floats
    new_region: Floats
    #: Jobs: nobody sits in front of them, so requests per user says nothing.
    job: Bools


@dataclass(frozen=True)
class Judgement:
    """How each of N principals stands; arrays of shape (N,) and (features, N)."""

    #: 0 is use as ever.
    score: Floats
    #: Signed distances of each feature in standard deviations; 0 where nothing is known.
    distance: Floats
    #: Compared with its own past; else with everybody's.
    own: Bools
    value: Floats
    usual: Floats


#: The features, in the order of the arrays: what they are called, and whether less of them also counts.
FEATURES = ("tokens per request", "output per input token", "share of errors", "requests per user")
_BOTH_SIDES = np.array([True, True, False, False])[:, None]
#: No principal is steadier than this, in the units of the features: logs, and the square
#: root of the error share. By hand.
_LEAST_SD = np.array([0.15, 0.20, 0.06, 0.15])[:, None]
#: Sampling noise of one request, in the same units; an hour of n requests has it over the root of n.
#: By hand.
_REQUEST_SD = np.array([1.0, 1.0, 0.5, 0.7])[:, None]
#: Before a population is known: what a feature differs between principals. By hand.
_PRIOR_SD = np.array([1.0, 1.0, 0.2, 1.0])[:, None]


class Params(NamedTuple):
    #: Standard deviations of a feature that count as nothing. By hand.
    free_sd: float = 2.0
    #: Standard deviations beyond which a feature says no more. By hand.
    distance_max: float = 12.0
    #: Standard deviations that count, when all dollars are on a model the principal never used. By hand.
    new_model_weight: float = 2.0
    #: The same for a region: few legitimate users move. By hand.
    new_region_weight: float = 5.0
    #: Standard deviations up to which a change is learned. By hand.
    clip_sd: float = 3.0
    #: Hours over which the population is averaged: a week. By hand.
    population_hours: float = 168.0
    #: Principals in an hour below which it says nothing about the population. By hand.
    least_principals: int = 5
    #: Share of the dollars on something new from which on it is named as a reason. By hand.
    named_share: float = 0.05
    #: Standard deviations in a median absolute deviation. By definition of a normal distribution.
    mad_to_sd: float = 1.4826


P = Params()


class Population(Parts):
    """One scope's principals. Judges an hour with what was known before it; `learn` is called once an hour.

    State: mean and variance of four features of each principal, and of all.
    Update: once an hour outside of incidents.
    Score: length of the vector of distances, over two standard deviations each.
    Source: a diagonal Mahalanobis distance.
    """

    def __init__(self, settings: Config, capacity: int = 64) -> None:
        self._settings = settings
        count = len(FEATURES)
        # float32: means of logarithms and counts of hours need no more.
        self._own = Columns(
            {name: Column((count,), np.float32) for name in ("usual", "variance", "hours")},
            capacity,
        )
        self.parts = {"own": self._own}
        #: Middle and spread over principals of the features, and how many hours taught them; shape (features, 1).
        self._middle = np.zeros((count, 1))
        self._spread = _PRIOR_SD.copy()
        self._hours = np.zeros((count, 1))

    @property
    def n(self) -> int:
        """Number of principals in use."""
        return self._own.n

    def grow(self, n: int) -> None:
        """Hold `n` principals; those that are new have no past."""
        self._own.grow(n)

    def judge(self, use: Use) -> Judgement:
        """How unlike its past, or everybody's, each principal's use is. Changes nothing."""
        value, known = features(use, self._settings.min_requests)
        own = self._own["hours"] >= self._settings.known_hours
        sampling = _REQUEST_SD**2 / np.maximum(use.requests, 1.0)
        deviation = np.sqrt(np.maximum(self._own["variance"], _LEAST_SD**2) + sampling)
        stranger = np.sqrt(self._spread**2 + sampling)
        usual = np.where(own, self._own["usual"], self._middle)
        distance = (value - usual) / np.where(own, deviation, stranger)
        distance = np.where(known & (own | (self._hours > 0)), np.clip(distance, -P.distance_max, P.distance_max), 0.0)
        over = np.maximum(0.0, np.where(_BOTH_SIDES, np.abs(distance), distance) - P.free_sd)
        square = (over**2).sum(axis=0)
        square = square + (P.new_model_weight * use.new_model) ** 2 + (P.new_region_weight * use.new_region) ** 2
        enough = use.requests >= self._settings.min_requests
        return Judgement(np.where(enough, np.sqrt(square), 0.0), distance, np.asarray(own.any(axis=0)), value, usual)

    def learn(self, use: Use, frozen: Bools) -> None:
        """An hour that is over. Principals with an open alert teach nothing."""
        value, known = features(use, self._settings.min_requests)
        taught = known & ~frozen
        self._learn_population(value, taught)
        self._learn_own(value, taught)

    def why(self, judgement: Judgement, i: int, use: Use) -> str:
        """The reasons of principal `i` in words, weightiest first; empty when its use is as ever."""
        reasons: list[tuple[float, str]] = []
        for f, name in enumerate(FEATURES):
            z = float(judgement.distance[f, i])
            weight = (abs(z) if _BOTH_SIDES[f, 0] else z) - P.free_sd
            if weight > 0:
                reasons.append((weight, _phrase(name, judgement, f, i)))
        for share, weight, what in (
            (use.new_model, P.new_model_weight, "a model"),
            (use.new_region, P.new_region_weight, "a region"),
        ):
            if share[i] >= P.named_share:
                reasons.append((weight * float(share[i]), f"{share[i]:.0%} of the spend on {what} it did not use"))
        return "; ".join(text for _, text in sorted(reasons, reverse=True))

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and the population."""
        population = np.concatenate([self._middle, self._spread, self._hours], axis=1)
        return {"population": population, **super().dump()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made. Raises ValueError for a state of other features."""
        population = arrays["population"]
        if population.shape != (len(FEATURES), 3):
            raise ValueError(f"population has shape {population.shape}, expected {(len(FEATURES), 3)}")
        super().load(arrays)
        self._middle, self._spread, self._hours = (population[:, i : i + 1].copy() for i in range(3))

    def _learn_population(self, value: Floats, taught: Bools) -> None:
        """Median and spread over the principals of this hour, averaged over a week of hours."""
        enough = taught.sum(axis=1, keepdims=True) >= P.least_principals
        for f in np.flatnonzero(enough):
            of = value[f, taught[f]]
            middle = float(np.median(of))
            spread = max(P.mad_to_sd * float(np.median(np.abs(of - middle))), float(_LEAST_SD[f, 0]))
            share = 1 / min(float(self._hours[f, 0]) + 1, P.population_hours)
            self._hours[f] += 1
            self._middle[f] += share * (middle - self._middle[f])
            self._spread[f] += share * (spread - self._spread[f])

    def _learn_own(self, value: Floats, taught: Bools) -> None:
        usual, variance, hours = self._own["usual"], self._own["variance"], self._own["hours"]
        settled = hours >= self._settings.known_hours
        limit = P.clip_sd * np.sqrt(np.maximum(variance, _LEAST_SD**2))
        change = value - usual
        change = np.where(settled, np.clip(change, -limit, limit), change)
        share = 1 / np.minimum(hours + 1, 24 * self._settings.memory_days)
        usual += np.where(taught, share * change, 0.0)
        # The first hour is the mean itself and says nothing about the spread.
        variance += np.where(taught & (hours > 0), share * (change**2 - variance), 0.0)
        hours += taught


def features(use: Use, min_requests: int) -> tuple[Floats, Bools]:
    """Values of shape (features, N) and which of them are known."""
    busy = use.requests >= min_requests
    tokens_in, tokens_out = np.maximum(use.input_tokens, 0.0), np.maximum(use.output_tokens, 0.0)
    tokens = tokens_in + tokens_out
    requests = np.maximum(use.requests, 1.0)
    value = np.stack(
        [
            np.log(np.maximum(tokens, 1.0) / requests),
            np.log((tokens_out + 1.0) / (tokens_in + 1.0)),
            np.sqrt(np.clip(use.errors / requests, 0.0, 1.0)),
            np.log(requests / np.maximum(use.users, 1.0)),
        ]
    )
    with_tokens = busy & (tokens_in > 0) & (tokens_out > 0)
    known = np.stack([busy & (tokens > 0), with_tokens, busy, busy & (use.users > 0) & ~use.job])
    return value, known & np.isfinite(value)


def _phrase(name: str, judgement: Judgement, f: int, i: int) -> str:
    value, usual = float(judgement.value[f, i]), float(judgement.usual[f, i])
    whose = "its usual" if judgement.own[i] else "everybody's usual"
    if name == "share of errors":
        return f"{value**2:.0%} of the requests failed, {whose} share is {max(0.0, usual) ** 2:.1%}"
    ratio = math.exp(min(50.0, max(-50.0, value - usual)))
    return f"{ratio:.1f}× {whose} {name}" if ratio >= 1 else f"{ratio:.2g}× {whose} {name}"


_AMOUNTS = ("cost", "requests", "errors", "users", "input_tokens", "output_tokens")
_NEW = ("model", "region")


class Abuse(Rule):
    """The population of principals. It finds nothing by itself; `name_kinds` gives findings of others their kind.

    State: the last hour of use, and the population.
    Update: the hour with every bucket, the population once an hour.
    Score: see Population; it names findings of others.
    Source: our own, no paper.
    """

    name = "abuse"
    part = "naming abuse"
    config = Config
    settings_at = "population"
    moments = ("closed",)

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._share = min(1.0, context.step_s / HOUR_S)
        self._population = Population(config)
        #: The last hour, exponentially weighted; only its ratios are looked at, for which float32 is plenty.
        names = (*_AMOUNTS, *(f"new_{tag}" for tag in _NEW))
        self._hour = Columns({name: Column(dtype=np.float32) for name in names}, 64)
        self.parts = {"hour": self._hour}
        self._closed: int | None = None

    def close(self, view: View) -> list[Finding]:
        """Follow the last hour and learn from it at its end."""
        subjects = view.principals
        count = len(subjects.index)
        self._hour.grow(count)
        self._population.grow(count)
        if view.bucket.gap:
            return []
        new = view.new_usd or dict.fromkeys(_NEW, np.zeros(count))
        amounts = subjects.amounts
        # What a limit refused says nothing about how a key is used: the limit may be Curb's.
        reached = amounts._replace(requests=amounts.requests - amounts.refused, errors=amounts.errors - amounts.refused)
        values = {name: getattr(reached, name) for name in _AMOUNTS}
        for name, value in (values | {f"new_{tag}": new[tag] for tag in _NEW}).items():
            held = self._hour[name]
            held *= 1 - self._share
            held += value
        hour = view.bucket.end // HOUR_S
        if self._closed is not None and hour > self._closed:
            self._population.learn(self._use(), subjects.frozen)
        self._closed = hour
        return []

    def name_kinds(self, view: View, findings: Sequence[Finding]) -> list[Finding]:
        """The findings, those of statistics on principals called abusive where the use says so."""
        index, use = view.principals.index, self._use() if findings else None
        judgement: Judgement | None = None
        result = []
        for finding in findings:
            row = int(np.searchsorted(index, finding.series))
            stranger = row == len(index) or index[row] != finding.series
            if stranger or use is None or not finding.family.statistic or finding.kind != "runaway":
                result.append(finding)
                continue
            judgement = judgement or self._population.judge(use)
            if judgement.score[row] >= self._settings.abusive_threshold:
                why = self._population.why(judgement, row, use)
                words = f"{finding.words}; {why}" if why else finding.words
                result.append(finding._replace(kind="abusive", words=words))
            else:
                result.append(finding)
        return result

    def _use(self) -> Use:
        hour = self._hour
        cost = np.maximum(hour["cost"], 1e-9)
        return Use(
            **{name: hour[name] for name in _AMOUNTS},
            **{f"new_{tag}": np.clip(hour[f"new_{tag}"] / cost, 0.0, 1.0) for tag in _NEW},
            job=np.zeros(hour.n, np.bool_),
        )

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and the population."""
        population = {f"population.{name}": array for name, array in self._population.dump().items()}
        return {**super().dump(), **population}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        super().load(arrays)
        self._population.load({n[11:]: array for n, array in arrays.items() if n.startswith("population.")})
