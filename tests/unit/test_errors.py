"""Retry storms: the share of failed requests, their number and what they cost must all be high."""

from __future__ import annotations

import pytest

from curb.detector.rules.failing_requests import Config as ErrorConfig
from curb.detector.rules.failing_requests import ErrorRate
from curb.detector.state.rule import Finding, RuleContext
from tests.fakes.views import HOUR, T0, Fleet, saved, usage


def storm(
    failed: float, *, requests: float = 200, cost: float = 1.0, minutes: int = 60, job: str | None = None
) -> list[tuple[int, list[Finding]]]:
    """An hour of calm, then `failed` of the requests fail, those of a job or the key's own; by the minute of it."""
    fleet = Fleet(step_s=60)
    rule = ErrorRate(ErrorConfig(), RuleContext(60))
    calm = usage(cost=cost, requests=requests, errors=0.01 * requests)
    wild = usage(cost=cost, requests=requests, errors=failed * requests, job=job)
    begin = T0 + HOUR
    found = list(fleet.run(rule, begin + 60 * minutes, lambda start: [calm if start < begin else wild]))
    assert not [each for at, each in found if at <= begin and each]
    return [((at - begin) // 60, each) for at, each in found if at > begin]


@pytest.mark.parametrize(("job", "within"), [(None, 8), ("agent-run-7", 1)])
def test_a_storm_pages_while_it_lasts(job: str | None, within: int) -> None:
    found = storm(0.9, job=job)
    first = next(minute for minute, each in found if each)
    assert first <= within
    assert all(each for minute, each in found if minute >= first)
    (finding,) = found[-1][1]
    assert (finding.kind, finding.tier, finding.family.name) == ("runaway", "page", "errors")
    # A job has no calm hour before.
    assert finding.words == (
        "90 % of its requests fail and cost $51.51/h" if job else "86 % of its requests fail and cost $51.54/h"
    )
    assert finding.score == pytest.approx((0.9 if job else 0.86) / 0.25, rel=0.01)


@pytest.mark.parametrize(
    ("failed", "requests", "cost"),
    [(0.2, 200, 1.0), (0.9, 1.0, 1.0), (0.9, 200, 0.005)],
    ids=["few of many", "few in number", "for next to nothing"],
)
def test_what_is_not_all_three_is_silent(failed: float, requests: float, cost: float) -> None:
    assert not [each for _, each in storm(failed, requests=requests, cost=cost) if each]


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
