"""Retry storms: the share of failed requests, their number and what they cost must all be high."""

from __future__ import annotations

import numpy as np
import pytest

from curb.detector.rules.failing_requests import Config as ErrorConfig
from curb.detector.rules.failing_requests import ErrorRate
from curb.detector.state.rule import Finding, RuleContext
from tests.fakes.views import HOUR, T0, Fleet, saved, usage


def storm(
    failed: float,
    *,
    requests: float = 200,
    cost: float = 1.0,
    minutes: int = 60,
    job: str | None = None,
    step_s: int = 60,
) -> list[tuple[int, list[Finding]]]:
    """An hour of calm, then `failed` of the requests fail, those of a job or the key's own; by the minute of it.

    `requests` and `cost` are those of a minute, whatever the length of a bucket.
    """
    fleet = Fleet(step_s=step_s)
    rule = ErrorRate(ErrorConfig(), RuleContext(step_s))
    requests, cost = requests * step_s / 60, cost * step_s / 60
    calm = usage(cost=cost, requests=requests, errors=0.01 * requests)
    wild = usage(cost=cost, requests=requests, errors=failed * requests, job=job)
    begin = T0 + HOUR
    found = list(fleet.run(rule, begin + 60 * minutes, lambda start: [calm if start < begin else wild]))
    assert not [each for at, each in found if at <= begin and each]
    return [((at - begin) // 60, each) for at, each in found if at > begin]


@pytest.mark.parametrize(
    ("job", "step_s", "within", "words"),
    [
        (None, 60, 8, "86 % of its requests fail and cost $51.54/h"),
        (None, 300, 10, "87 % of its requests fail and cost $52.31/h"),
        # A job has no calm hour before.
        ("agent-run-7", 60, 1, "90 % of its requests fail and cost $51.51/h"),
        ("agent-run-7", 300, 5, "90 % of its requests fail and cost $52.29/h"),
    ],
)
def test_a_storm_pages_while_it_lasts(job: str | None, step_s: int, within: int, words: str) -> None:
    found = storm(0.9, job=job, step_s=step_s)
    assert next(minute for minute, each in found if each) <= within
    assert all(each for minute, each in found if minute >= within)
    (finding,) = found[-1][1]
    assert (finding.kind, finding.tier, finding.family.name) == ("runaway", "page", "errors")
    assert finding.words == words
    assert finding.score == pytest.approx((0.9 if job else 0.86) / 0.25, rel=0.02)


@pytest.mark.parametrize("step_s", [60, 300])
@pytest.mark.parametrize(
    ("failed", "requests", "cost", "fires"),
    [
        (0.26, 200, 1.0, True),
        (0.25, 200, 1.0, False),
        (0.9, 1.2, 1.0, True),  # 21.6 errors in twenty minutes
        (0.9, 1.1, 1.0, False),  # 19.8
        (0.9, 200, 0.0098, True),  # $0.53 an hour on failed ones
        (0.9, 200, 0.0092, False),  # $0.497
    ],
    ids=["more than a quarter", "a quarter", "in number", "few in number", "half a dollar", "next to nothing"],
)
def test_share_number_and_cost_must_all_be_over_their_limits(
    failed: float, requests: float, cost: float, fires: bool, step_s: int
) -> None:
    found = storm(failed, requests=requests, cost=cost, step_s=step_s, minutes=180)
    assert bool(found[-1][1]) is fires


def test_the_finding_is_of_the_key_whose_requests_fail() -> None:
    fleet, rule = Fleet(step_s=300), ErrorRate(ErrorConfig(), RuleContext(300))
    rows = [usage(), usage("k2", cost=5.0, requests=1000, errors=900), usage("k3")]
    *_, (_, (finding,)) = fleet.run(rule, T0 + HOUR, lambda _: rows)
    assert fleet.registry.tags[finding.series]["api_key"] == "k2"


def test_what_a_limit_refused_has_cost_nothing() -> None:
    fleet, rule = Fleet(step_s=300), ErrorRate(ErrorConfig(), RuleContext(300))
    throttled = [usage(cost=5.0, requests=1000, errors=900, refused=900)]
    assert all(found == [] for _, found in fleet.run(rule, T0 + HOUR, lambda _: throttled))
    both = [usage(cost=5.0, requests=1000, errors=900, refused=600)]
    *_, (_, (finding,)) = fleet.run(rule, T0 + 2 * HOUR, lambda _: both)
    assert finding.words.startswith("74 % of its requests fail")


@pytest.mark.parametrize("job", [None, "j"])
def test_after_an_incident_its_errors_no_longer_count(job: str | None) -> None:
    fleet, rule = Fleet(step_s=60), ErrorRate(ErrorConfig(), RuleContext(60))
    rows = [usage(), usage("k2", requests=100, errors=90, job=job)]
    for _ in range(30):
        view = fleet.view(rows)
        (finding,) = rule.close(view)
    over = np.zeros(len(fleet.registry), np.bool_)
    over[finding.series] = True
    rule.forget(view, over)
    assert rule.close(fleet.view([usage(), usage("k2", requests=100, job=job)])) == []
    # Of the other series nothing is forgotten: their storm goes on.
    other = fleet.view(rows)
    rule.close(other)
    rule.forget(other, ~over)
    assert len(rule.close(fleet.view(rows))) == 0
    assert [len(rule.close(fleet.view(rows))) for _ in range(12)][-1] == 1


def test_state_goes_on_where_it_was_saved() -> None:
    fleet, rule, again = (
        Fleet(step_s=60),
        ErrorRate(ErrorConfig(), RuleContext(60)),
        ErrorRate(ErrorConfig(), RuleContext(60)),
    )
    rows = [usage(cost=1.0, requests=100, errors=40), usage("k2", requests=100, errors=70, job="j")]
    for _ in range(10):
        rule.close(fleet.view(rows))
    again.load(saved(rule))
    for _ in range(30):
        view = fleet.view(rows)
        assert again.close(view) == rule.close(view)
    assert len(rule.close(fleet.view(rows))) == 2
