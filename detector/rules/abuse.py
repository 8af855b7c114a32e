"""Tells abuse from runaway and growth: how a principal's use changed in kind decides what an alert is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.rules.population import Config, Judgement, Population, Use
from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import Finding, Rule, RuleContext
from curb.detector.state.view import View
from curb.stream.time import HOUR_S

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

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._share = min(1.0, context.step_s / HOUR_S)
        self._population = Population(config)
        #: The last hour, exponentially weighted; only its ratios are looked at, for which float32 is plenty.
        names = (*_AMOUNTS, *(f"new_{tag}" for tag in _NEW))
        self._hour = Columns({name: Column(dtype=np.float32) for name in names}, 64)
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
        values = {name: getattr(subjects.amounts, name) for name in _AMOUNTS}
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
        """What `load` takes."""
        closed = np.array([-1 if self._closed is None else self._closed], np.int64)
        population = {f"population.{name}": array for name, array in self._population.dump().items()}
        return {"closed": closed, **self._hour.dump("hour"), **population}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._hour.load("hour", arrays)
        self._population.load({n[11:]: array for n, array in arrays.items() if n.startswith("population.")})
        closed = int(arrays["closed"][0])
        self._closed = None if closed < 0 else closed
