"""Findings of the dollars head: which tier and kind a score makes, and whose scores count at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from curb.detector.heads.past import ScoreSettings
from curb.detector.heads.past_findings import PastRule
from curb.detector.state.rule import Finding, RuleContext
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.detector.state.view import Demand, View
from tests.fakes.views import Fleet, Row, gpu, usage

RULE = PastRule(ScoreSettings(), RuleContext(3600, calm_usd_per_hour=0.5))


def scored(
    rows: list[Row], *, notice: float = 8.0, page: float = -9.0, expected: float = 1.0, scopes: Any = DEFAULT_SCOPES
) -> View:
    """Every series has the same scores, over the 2-hour window."""
    view = Fleet(3600, scopes=scopes).view(rows)
    n = len(view.registry)
    scores = replace(
        view.bucket.scores,
        notice=np.full(n, notice),
        page=np.full(n, page),
        channel=np.full(n, 2, np.intp),
        expected_fast=np.full(n, expected),
    )
    view.bucket = replace(view.bucket, scores=scores)
    return view


def findings(view: View) -> list[Finding]:
    return RULE.close(view)


@pytest.mark.parametrize(
    ("notice", "page", "tier"),
    [(1.9, -9.0, None), (2.0, -9.0, "digest"), (5.9, 5.9, "digest"), (6.0, -9.0, "notice"), (6.0, 6.0, "page"),
     (-9.0, 6.0, "page")],
)  # fmt: skip
def test_scores_make_tiers(notice: float, page: float, tier: str | None) -> None:
    found = findings(scored([usage(cost=9.0)], notice=notice, page=page))
    assert [each.tier for each in found] == ([] if tier is None else [tier])


def test_what_is_said() -> None:
    view = scored([usage(cost=9.0)], notice=7.0, page=6.5)
    (finding,) = findings(view)
    assert view.registry.scopes[finding.series] == "key"
    assert (finding.kind, finding.channel, finding.score) == ("runaway", "dollars/120min", 7)
    assert finding.words == "more than its own past explains, over the 2-hour window"


def test_what_tells_its_users_is_growth_in_the_digest() -> None:
    view = scored([usage("k1", 9.0), usage("k2", 9.0)], page=9.0)
    n = len(view.principals.index)
    told = np.arange(n) == 0
    view.demand = Demand(np.zeros(n), np.zeros(n), told, told, told)
    grown, odd = findings(view)
    assert (grown.kind, grown.tier, grown.series) == ("growth", "digest", int(view.principals.index[0]))
    assert grown.words.endswith("but as much as its users do")
    assert (odd.kind, odd.tier) == ("runaway", "page")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("users", "tier"), [(60, "digest"), (2, "page")])
def test_where_demand_does_not_judge_yet_users_explain_what_an_ordinary_fleets_would(
    users: int, tier: str, known: bool
) -> None:
    """That users are known does not say what a request of theirs costs."""
    view = scored([usage(cost=9.0, requests=200, users=users)], page=9.0)
    no, yes = np.array([False]), np.array([True])
    view.demand = Demand(np.zeros(1), np.zeros(1), np.array([known]), yes, no)
    (finding,) = findings(view)
    assert finding.tier == tier


@pytest.mark.parametrize(("cost", "said"), [(1.7, False), (1.71, True)])
def test_what_burns_near_the_expected_is_calm(cost: float, said: bool) -> None:
    assert bool(findings(scored([usage(cost=cost)], expected=1.0))) is said


def test_machines_jobs_and_what_may_not_alert_are_left_to_others() -> None:
    view = scored([gpu("n1", cost=9.0), usage("k1", 9.0, job="nightly")])
    assert {"node", "group", "key", "team", "model", "origin"} == set(view.registry.scopes)
    assert findings(view) == []
    watched = (
        Scope(name="team", group_by=("team",), role="total"),
        Scope(name="mute", group_by=("team",), detect=False),
    )
    view = scored([usage(cost=9.0)], scopes=watched)
    assert [view.registry.scopes[each.series] for each in findings(view)] == ["team"]
