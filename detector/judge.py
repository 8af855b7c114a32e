"""Everything that judges a closed bucket, in its order: heads, rules, incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.heads.drift import Drift
from curb.detector.heads.past import DollarsHead, Step
from curb.detector.incidents.alert_budget import BudgetController
from curb.detector.incidents.causes import RootCause
from curb.detector.incidents.feedback import with_feedback
from curb.detector.incidents.fleet import to_fleet
from curb.detector.incidents.incidents import Episode, Incidents
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.rules import table
from curb.detector.rules.metric_rule import MetricRule
from curb.detector.scorers.protocol import ScorerSettings
from curb.detector.scorers.rule import ScorerRule
from curb.detector.settings import DetectorSettings
from curb.detector.state.amounts import Amounts
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.loops import Loop
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Finding, Rule, RuleContext
from curb.detector.state.view import View
from curb.stream.records.spend import Alert


class Scoring:
    """The heads and rules over all series of a shard, and the incidents they make."""

    def __init__(self, settings: DetectorSettings, registry: SeriesRegistry, knowledge: Knowledge) -> None:
        self._settings, self._registry, self._knowledge = settings, registry, knowledge
        drift = Drift(settings.drift) if settings.drift.detector != "none" else None
        is_bill = not settings.alerts.adopt
        self.head = DollarsHead(
            settings.score, settings.bucket_s, settings.time_zone, drift=drift, holds=is_bill, by_day=is_bill
        )
        self._rules = make_rules(settings)
        families = table.families(*self._rules)
        self.incidents = Incidents(settings.alerts, registry, settings.scopes, settings.time_zone, families, knowledge)
        self.budget = BudgetController(settings.alerts.budget, settings.time_zone, families)
        self._root_cause = RootCause(settings.scopes, registry)
        self._stepped = False
        #: Dollars that calls without usage are estimated at in the bucket that closed last, by series.
        self.estimated_usd: dict[int, float] = {}

    def grow(self, first_seen: int) -> None:
        """Make room for the series that came since; they were first seen at `first_seen` (epoch seconds)."""
        if self.head.n < len(self._registry):
            self.head.grow(len(self._registry), first_seen)

    def known_since(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the first bucket of each series was judged, epoch seconds."""
        return self.head.first_seen[index]

    def close(
        self,
        start: int,
        amounts: Amounts,
        gap: bool,
        stream_since: float,
        at: float,
        soft_in_a_row: Mapping[int, int],
        loops: Mapping[int, Sequence[Loop]],
    ) -> tuple[ClosedBucket, list[Alert]]:
        """Judge the bucket that starts at `start`, at `at` (epoch seconds), then learn from it.

        `soft_in_a_row` counts the soft alerts of a series, `loops` are those in its newest calls, see `View`.
        """
        settings, n = self._settings, len(self._registry)
        if amounts.unscored_cost.any():
            amounts = amounts._replace(cost=amounts.cost - amounts.unscored_cost)
        frozen = self.incidents.frozen_mask(start, n)
        planned = self._knowledge.planned_usd(
            start, amounts.cost, self.head.expected_usd, self._registry.scopes, self._registry.tags
        )
        if planned.any():  # announced work is neither unusual nor usual
            amounts = _unplanned(amounts, planned)
            frozen |= planned > 0
        scores = self.head.step(Step(start, amounts.cost, amounts.requests, gap, frozen))
        self._stepped = True
        bucket = ClosedBucket(start, start + settings.bucket_s, at, amounts, scores, gap)
        firing = self.incidents.firing_mask(n)
        self.budget.start(start, int(np.count_nonzero(self._registry["detect"])))
        view = View(
            bucket,
            self._registry,
            self._knowledge,
            stream_since,
            frozen,
            firing,
            raised=self.budget.raised,
            soft_in_a_row=soft_in_a_row,
            loops=loops,
        )
        findings: list[Finding] = []
        for rule in self._rules:
            findings += rule.close(view)
        for rule in self._rules:
            findings = list(rule.name_kinds(view, findings))
        findings, spoken_for = to_fleet(findings, self.incidents.open(), view, settings.scopes, self._root_cause.parts)
        findings = with_feedback(findings, self._knowledge, self._registry, bucket.at, settings.score.notice_threshold)
        self.estimated_usd = _estimated(view)
        self._root_cause.close(view)
        before = {alert.alert_id: alert.tier for alert in self.incidents.firing}
        alerts = self.incidents.close(view, findings, self.head.baseline, self._root_cause.causes, spoken_for)
        self.budget.count(alerts, before)
        self._forget(view, firing & ~self.incidents.firing_mask(n))
        return bucket, alerts

    def _forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Spend of closed incidents does not open a new one."""
        if over.any():
            self.head.forget(np.flatnonzero(over))
            for rule in self._rules:
                rule.forget(view, over)

    def in_common(self, number: int) -> dict[str, str]:
        """Tags that nearly all of what a series spent in the last hour has beside its own."""
        return self._root_cause.in_common(number)

    def skip(self, steps: int, start: int) -> None:
        """`steps` silent buckets of the whole fleet from `start` on."""
        self.head.skip(steps, start)

    def late(self, index: NDArray[np.int64], cost: NDArray[np.float64], start: int) -> None:
        """Dollars that came after their bucket closed."""
        if self._stepped:
            self.head.late(index, cost, start)

    def dump(self) -> tuple[dict[int, Episode], dict[str, dict[str, NDArray[Any]]]]:
        """What `load` takes: episodes, and flat arrays by part."""
        episodes, excess = self.incidents.dump()
        arrays = {"excess": excess, "head": self.head.dump() if self._stepped else {}}
        if self._stepped:
            arrays["root_cause"] = self._root_cause.dump()
            arrays["alert_budget"] = self.budget.dump()
            arrays.update({f"rule.{rule.name}": rule.dump() for rule in self._rules})
        return episodes, arrays

    def load(self, episodes: Mapping[int, Episode], arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Continue from `dump`; a rule that was not on before starts from nothing."""
        self.incidents.load(episodes, arrays["excess"])
        if not arrays["head"]:
            return
        self._stepped = True
        self.head.load(arrays["head"])
        if "root_cause" in arrays:
            self._root_cause.load(arrays["root_cause"])
        if "alert_budget" in arrays:
            self.budget.load(arrays["alert_budget"])
        for rule in self._rules:
            if f"rule.{rule.name}" in arrays:
                rule.load(arrays[f"rule.{rule.name}"])


def _estimated(view: View) -> dict[int, float]:
    """The estimate for calls without usage of each principal, and of the sums that it is a part of."""
    if view.estimated_usd is None:
        return {}
    found: dict[int, float] = {}
    for row in np.flatnonzero(view.estimated_usd > 0).tolist():
        number = int(view.principals.index[row])
        for series in (number, *view.registry.wholes(number)):
            found[series] = found.get(series, 0.0) + float(view.estimated_usd[row])
    return found


def _unplanned(amounts: Amounts, planned_usd: NDArray[np.float64]) -> Amounts:
    """The bucket without announced work: the dollars left, and requests in proportion.

    Nobody knows which tokens belong to the work, so tokens are not judged while it goes on.
    """
    announced = planned_usd > 0
    rest = 1 - np.divide(planned_usd, amounts.cost, out=np.zeros_like(planned_usd), where=announced)
    return amounts._replace(
        cost=amounts.cost - planned_usd,
        requests=amounts.requests * rest,
        errors=amounts.errors * rest,
        refused=amounts.refused * rest,
        input_tokens=np.where(announced, 0.0, amounts.input_tokens),
        output_tokens=np.where(announced, 0.0, amounts.output_tokens),
    )


def make_rules(settings: DetectorSettings) -> list[Rule]:
    """The rules that are on, in the order in which they are asked."""
    context = RuleContext(
        settings.bucket_s,
        settings.time_zone,
        settings.warmup_s,
        calm_usd_per_hour=settings.alerts.calm_usd_per_hour,
        billed=frozenset(scope.name for scope in settings.scopes if scope.is_billed),
    )
    made = table.make(settings, context)
    made += [MetricRule(watch, context) for watch in settings.metrics]
    made += [ScorerRule(each, context) for each in settings.scorers if isinstance(each, ScorerSettings)]
    return made
