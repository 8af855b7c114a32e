"""The rule for any metric that somebody wants watched: the metric head over the series of one scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.rules.metric_head import MetricHead
from curb.detector.rules.metric_tail import MetricSettings
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import NOT_MEASURED, Family, Finding, Rule, RuleContext
from curb.detector.state.view import Floats, View
from curb.stream.settings import Settings

Metric = Literal[
    "cost", "requests", "errors", "users", "input_tokens", "output_tokens", "gpu_utilization", "memory_used"
]


class MetricWatch(Settings):
    """One metric of one scope, watched by the metric head; never a page."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name; findings carry it.")
    scope: str = Field(description="Name of the scope whose series are watched.")
    metric: Metric = Field(description="What is watched, per bucket.")
    tier: Literal["digest", "notice"] = Field(default="digest", description="The tier of findings.")
    hold_minutes: int = Field(default=60, ge=1, description="How long a finding is said again after it fired.")
    head: MetricSettings = Field(
        default=MetricSettings(fire_at=12.0, one_sided=True), description="The head's own settings, in samples."
    )


class MetricRule(Rule):
    """Findings where a metric is far outside what its series has shown, for an hour after it was."""

    config = MetricWatch
    settings_at = "metrics"

    def __init__(self, config: MetricWatch, context: RuleContext) -> None:
        self._watch, self._zone = config, ZoneInfo(context.time_zone)
        self.name = f"metric.{config.name}"
        self.families = (Family(f"metric-{config.name}", NOT_MEASURED),)
        self._head = MetricHead(config.head)
        #: Numbers of the series of the scope, and how far the registry was searched for them.
        self._numbers = np.zeros(0, np.int64)
        self._looked_at = 0
        self._fired = np.zeros(0, np.int64)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        self._take_in(view)
        if view.bucket.gap or not len(self._numbers):
            return []
        value = self._values(view)
        scores = self._head.step(value, self._day_share(view.start))
        self._fired[scores.fired] = view.start
        holds = view.start - self._fired < 60 * self._watch.hold_minutes
        name = self._watch.metric.replace("_", " ")
        return [
            Finding(
                series=int(self._numbers[row]),
                family=self.families[0],
                kind="runaway",
                tier=self._watch.tier,
                score=float(scores.surprise[row] / self._watch.head.fire_at),
                words=f"its {name} left what it has shown so far: {value[row]:,.6g} in {view.step_s / 60:g} min",
                lasting=True,
            )
            for row in np.flatnonzero(holds).tolist()
        ]

    def _take_in(self, view: View) -> None:
        scopes = view.registry.scopes
        new = [i for i in range(self._looked_at, len(scopes)) if scopes[i] == self._watch.scope]
        self._looked_at = len(scopes)
        if new:
            self._numbers = np.concatenate([self._numbers, np.array(new, np.int64)])
            self._fired = np.concatenate([self._fired, np.full(len(new), -(2**40), np.int64)])
            self._head.grow(len(self._numbers))

    def _values(self, view: View) -> Floats:
        amounts = view.bucket.amounts.of(self._numbers)
        if self._watch.metric in ("gpu_utilization", "memory_used"):
            total = amounts.gpu_percents if self._watch.metric == "gpu_utilization" else amounts.gpu_gib
            return np.where(amounts.gpu_samples > 0, total / np.maximum(amounts.gpu_samples, 1.0), np.nan)
        value: Floats = getattr(amounts, self._watch.metric)
        return value

    def _day_share(self, start: int) -> float:
        hour = local_hour(start, self._zone)
        return (hour.of_day + hour.fraction) / 24

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        own = {"numbers": self._numbers, "fired": self._fired, "looked_at": np.array([self._looked_at])}
        return {**{f"head.{name}": array for name, array in self._head.dump().items()}, **own}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._numbers, self._fired = np.array(arrays["numbers"]), np.array(arrays["fired"])
        self._looked_at = int(arrays["looked_at"][0])
        self._head.load({name[5:]: array for name, array in arrays.items() if name.startswith("head.")})
