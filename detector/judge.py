"""Everything that judges a closed bucket, in its order: heads, rules, incidents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.heads import past_findings as by_past
from curb.detector.heads.demand import UnexplainedHead
from curb.detector.heads.drift import Drift
from curb.detector.heads.past import DollarsHead, Step
from curb.detector.incidents.alert_budget import BudgetController
from curb.detector.incidents.causes import RootCause
from curb.detector.incidents.feedback import heeded
from curb.detector.incidents.incidents import Episode, Incidents
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.rules.abuse import Abuse
from curb.detector.rules.autoscaler import Autoscaler
from curb.detector.rules.failing_requests import ErrorRate
from curb.detector.rules.growing_prompts import Context
from curb.detector.rules.growth import GrowthRule
from curb.detector.rules.idle_gpu import IdleGpu
from curb.detector.rules.jobs import Jobs
from curb.detector.rules.metric_rule import MetricRule
from curb.detector.rules.more_requests_per_user import Creep
from curb.detector.rules.new_origin import NewOrigins
from curb.detector.rules.new_principal import NewPrincipal
from curb.detector.rules.silent_feed import SilentFeed
from curb.detector.rules.unit_cost import UnitCostRule
from curb.detector.rules.week_on_week import Weeks
from curb.detector.scorers.protocol import ScorerSettings
from curb.detector.scorers.rule import ScorerRule
from curb.detector.settings import DetectorSettings
from curb.detector.state.amounts import Amounts
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.view import Finding, Forgetful, Rule, View
from curb.stream.records.spend import Alert


class Scoring:
    """The heads and rules over all series of a shard, and the incidents they make."""

    def __init__(self, settings: DetectorSettings, registry: SeriesRegistry, knowledge: Knowledge) -> None:
        self._settings, self._registry, self._knowledge = settings, registry, knowledge
        drift = Drift(settings.drift) if settings.drift.detector != "none" else None
        self.head = DollarsHead(settings.score, settings.bucket_s, settings.time_zone, drift=drift)
        self.incidents = Incidents(settings.alerts, registry, settings.scopes, settings.time_zone)
        self.budget = BudgetController(settings.alerts.budget, settings.time_zone)
        self._rules = make_rules(settings, registry)
        self._root_cause = RootCause(settings.scopes, registry)
        self._stepped = False

    def grow(self, first_seen: int) -> None:
        """Make room for the series that came since; they were born at `first_seen` (epoch seconds)."""
        if self.head.n < len(self._registry):
            self.head.grow(len(self._registry), first_seen)

    def close(self, start: int, amounts: Amounts, gap: bool, stream_since: float) -> tuple[ClosedBucket, list[Alert]]:
        """Judge the bucket that begins at `start`, then learn from it."""
        settings, n = self._settings, len(self._registry)
        if amounts.unscored_cost.any():
            amounts = amounts._replace(cost=amounts.cost - amounts.unscored_cost)
        frozen = self.incidents.frozen_mask(start, n, self._knowledge)
        planned = self._knowledge.planned_usd(
            start, amounts.cost, self.head.expected_usd, self._registry.scopes, self._registry.tags
        )
        if planned.any():  # announced work is neither odd nor usual
            amounts = _unplanned(amounts, planned)
            frozen |= planned > 0
        scores = self.head.step(Step(start, amounts.cost, amounts.requests, gap, frozen))
        self._stepped = True
        end = start + settings.bucket_s
        bucket = ClosedBucket(start, end, end + settings.grace_s, amounts, scores, gap)
        firing = self.incidents.firing_mask(n)
        self.budget.begin(start, int(np.count_nonzero(self._registry["detect"])))
        view = View(bucket, self._registry, self._knowledge, stream_since, frozen, firing, raised=self.budget.raised)
        findings: list[Finding] = []
        for rule in self._rules.values():
            findings += rule.close(view)
        findings += by_past.findings(view, settings.score, settings.alerts.calm_usd_per_hour)
        abuse = self._rules.get("abuse")
        if isinstance(abuse, Abuse):
            findings = abuse.named(view, findings)
        findings = heeded(findings, self._knowledge, self._registry, bucket.at, settings.score.notice_threshold)
        self._root_cause.close(view)
        before = {alert.alert_id: alert.tier for alert in self.incidents.firing}
        alerts = self.incidents.close(view, findings, self.head.baseline, self._root_cause.causes)
        self.budget.count(alerts, before)
        self._forget(view, firing & ~self.incidents.firing_mask(n))
        return bucket, alerts

    def _forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """What incidents burnt that are over is no reason for another one."""
        if over.any():
            self.head.forget(np.flatnonzero(over))
            for rule in self._rules.values():
                if isinstance(rule, Forgetful):
                    rule.forget(view, over)

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
            arrays.update({f"rule.{name}": rule.dump() for name, rule in self._rules.items()})
        return episodes, arrays

    def load(self, episodes: Mapping[int, Episode], arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take over what `dump` gave; a rule that was not on before begins anew."""
        self.incidents.load(episodes, arrays["excess"])
        if not arrays["head"]:
            return
        self._stepped = True
        self.head.load(arrays["head"])
        if "root_cause" in arrays:
            self._root_cause.load(arrays["root_cause"])
        if "alert_budget" in arrays:
            self.budget.load(arrays["alert_budget"])
        for name, rule in self._rules.items():
            if f"rule.{name}" in arrays:
                rule.load(arrays[f"rule.{name}"])


def _unplanned(amounts: Amounts, planned_usd: NDArray[np.float64]) -> Amounts:
    """What is left of a bucket without announced work: its dollars, and requests in proportion.

    Which of the tokens were the work's is not known, so that none are looked at while it goes on.
    """
    announced = planned_usd > 0
    rest = 1 - np.divide(planned_usd, amounts.cost, out=np.zeros_like(planned_usd), where=announced)
    return amounts._replace(
        cost=amounts.cost - planned_usd,
        requests=amounts.requests * rest,
        errors=amounts.errors * rest,
        input_tokens=np.where(announced, 0.0, amounts.input_tokens),
        output_tokens=np.where(announced, 0.0, amounts.output_tokens),
    )


def make_rules(settings: DetectorSettings, registry: SeriesRegistry) -> dict[str, Rule]:
    """The rules that are on, in the order in which they are asked: demand first, others build on it."""
    step_s, zone, principals = settings.bucket_s, settings.time_zone, settings.principals
    machines = settings.machines
    origins = NewOrigins(principals.new_origin, registry, step_s)
    newcomers = NewPrincipal(principals.new_principal, settings.warmup_s, step_s)
    rules: dict[str, tuple[bool, Rule]] = {
        "unexplained": (settings.unexplained.enabled, UnexplainedHead(settings.unexplained, step_s, zone)),
        "new_principal": (principals.new_principal.enabled, newcomers),
        "new_origin": (principals.new_origin.enabled, origins),
        "errors": (principals.errors.enabled, ErrorRate(principals.errors, step_s)),
        "context": (principals.context.enabled, Context(principals.context, step_s)),
        "unit_cost": (principals.unit_cost.enabled, UnitCostRule(principals.unit_cost, step_s)),
        "creep": (principals.creep.enabled, Creep(principals.creep, step_s)),
        "weeks": (principals.weeks.enabled, Weeks(principals.weeks, step_s)),
        "idle_gpu": (machines.idle_gpu.enabled, IdleGpu(machines.idle_gpu, step_s, zone)),
        "autoscaler": (
            machines.autoscaler.enabled,
            Autoscaler(machines.autoscaler, step_s, zone, warmup_days=settings.warmup_s / 86400),
        ),
        "jobs": (settings.jobs.enabled, Jobs(settings.jobs, step_s, zone, warmup_days=settings.warmup_s / 86400)),
        "growth": (settings.growth.enabled, GrowthRule(settings.growth, zone)),
        "silent_feed": (settings.feed.enabled, SilentFeed(settings.feed, step_s)),
        "abuse": (settings.population.enabled, Abuse(settings.population, origins, step_s)),
    }
    rules |= {f"metric.{watch.name}": (True, MetricRule(watch, zone)) for watch in settings.metrics}
    scorers = [each for each in settings.scorers if isinstance(each, ScorerSettings)]
    rules |= {f"scorer.{each.name}": (True, ScorerRule(each, step_s)) for each in scorers}
    return {name: rule for name, (enabled, rule) in rules.items() if enabled}
