"""Day-one caps: a key that spends much before its past is known is a notice; an old or a planned one is not."""

from __future__ import annotations

import pytest

from curb.detector.rules.caps import Config, DayOneCaps
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.records.spend import PlannedActivity
from curb.testing.rules import Fleet, usage

MINUTES = pytest.mark.parametrize("step_s", [60, 300])


def findings(usd_per_hour: float, step_s: int, *, hours: float, after_days: float = 0.0) -> list[tuple[float, Finding]]:
    """Hours since the key began to burn, and what was found then; it burnt $1/h for `after_days` before."""
    fleet, rule = Fleet(step_s=step_s), DayOneCaps(Config(), RuleContext(step_s))
    begins = int(fleet.now + 86400 * after_days)
    list(fleet.run(rule, begins, lambda start: [usage("k", step_s / 3600)]))
    burns = [usage("k", usd_per_hour * step_s / 3600), usage("other", step_s / 3600)]
    end = int(begins + 3600 * hours)
    return [((at - begins) / 3600, each) for at, found in fleet.run(rule, end, lambda start: burns) for each in found]


@MINUTES
def test_a_new_key_over_the_cap_is_a_notice_from_the_first_minutes_on(step_s: int) -> None:
    at, finding = findings(6000.0, step_s, hours=2)[0]
    assert at <= max(0.05, step_s / 3600)
    assert (finding.kind, finding.tier, finding.channel) == ("runaway", "notice", "day_one_cap")
    assert "over the cap of $250.00" in finding.words
    assert finding.score > 1


@MINUTES
def test_below_the_cap_is_nothing(step_s: int) -> None:
    assert findings(240.0, step_s, hours=48) == []


@MINUTES
def test_a_slow_one_is_found_when_its_hour_is_over_the_cap(step_s: int) -> None:
    at, _ = findings(300.0, step_s, hours=4)[0]
    assert 1.0 <= at <= 2.0


@MINUTES
@pytest.mark.parametrize(("times", "tiers"), [(5.0, set()), (7.0, {"notice"})])
def test_a_key_of_half_a_day_has_a_cap_by_its_own_hours(step_s: int, times: float, tiers: set[str]) -> None:
    """It spends $5 an hour for half a day, and then so many times as much for three hours."""
    fleet, rule = Fleet(step_s=step_s), DayOneCaps(Config(), RuleContext(step_s))
    begins = int(fleet.now + 43200)
    list(fleet.run(rule, begins, lambda start: [usage("k", 5.0 * step_s / 3600)]))
    burns = [usage("k", 5.0 * times * step_s / 3600)]
    found = [(at - begins, each) for at, some in fleet.run(rule, begins + 10800, lambda start: burns) for each in some]
    assert {each.tier for _, each in found} == tiers
    for _, each in found[:1]:
        assert "never spent more than $5." in each.words


def test_cents_and_a_first_hour_have_no_cap_of_their_own() -> None:
    def loop(before_usd: float, before_h: int, burn_usd: float) -> list[Finding]:
        fleet, rule = Fleet(step_s=300), DayOneCaps(Config(), RuleContext(300))
        begins = fleet.now + 3600 * before_h
        list(fleet.run(rule, begins, lambda start: [usage("k", before_usd / 12)]))
        return [
            each
            for _, some in fleet.run(rule, begins + 7200, lambda start: [usage("k", burn_usd / 12)])
            for each in some
        ]

    assert loop(0.01, 12, 15.0) == []
    assert loop(1.0, 2, 100.0) == []
    assert loop(1.0, 12, 100.0)


@MINUTES
def test_from_the_third_day_on_the_past_judges(step_s: int) -> None:
    assert findings(6000.0, step_s, hours=2, after_days=3.0) == []
    assert findings(6000.0, step_s, hours=2, after_days=2.5)


def test_announced_work_has_no_cap() -> None:
    fleet, rule = Fleet(), DayOneCaps(Config(), RuleContext(60))
    plan = PlannedActivity(
        id="p",
        at=fleet.now,
        tags={"team": "a", "project": "p", "api_key": "k"},
        start=fleet.now,
        end=fleet.now + 86400,
        max_usd=1e6,
    )
    fleet.knowledge.add(plan)
    found = [each for _, each in fleet.run(rule, fleet.now + 7200, lambda start: [usage("k", 100.0)])]
    assert not any(found)


def test_a_gap_is_no_spend() -> None:
    fleet, rule = Fleet(), DayOneCaps(Config(), RuleContext(60))
    assert not any(found for _, found in fleet.run(rule, fleet.now + 600, lambda start: None))
