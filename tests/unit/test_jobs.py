"""Runs of jobs: plans, times of day, sizes, runs without end, services under a job's name, restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from curb.detector.rules.jobs import Config as JobConfig
from curb.detector.rules.jobs import Jobs
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.records.spend import PlannedActivity
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

pytestmark = pytest.mark.long

Rows = Callable[[int], list[Row]]
RowsOrGap = Callable[[int], list[Row] | None]
#: (begin in hours of the stream, hours, dollars) of each run.
Runs = list[tuple[float, float, float]]
NIGHTLY: Runs = [(24 * day + 2 + 0.1 * (day % 3), 1.0, 60.0) for day in range(30)]


def rule(step_s: int = 300, **settings: Any) -> Jobs:
    return Jobs(JobConfig(**settings), RuleContext(step_s))


def of(runs: Runs, step_s: int = 300, job: str = "embed") -> Rows:
    def rows(at: int) -> list[Row]:
        hour = (at - T0) / HOUR
        rates = [usd / hours for begin, hours, usd in runs if begin <= hour < begin + hours]
        return [usage(cost=1.0 * step_s / HOUR)] + [usage(cost=rate * step_s / HOUR, job=job) for rate in rates]

    return rows


def said(fleet: Fleet, of_rule: Jobs, until: int, rows: RowsOrGap) -> list[tuple[int, Finding]]:
    return [(at, finding) for at, findings in fleet.run(of_rule, until, rows) for finding in findings]


@pytest.mark.parametrize("step_s", [60, 300, 3600])
def test_a_nightly_job_says_nothing_until_a_run_is_far_larger(step_s: int) -> None:
    fleet = Fleet(step_s)
    found = said(fleet, rule(step_s), T0 + 7 * DAY, of([*NIGHTLY, (24 * 6 + 2, 4.0, 400.0)], step_s))
    first, finding = found[0]
    # $150 are 2.5 times the largest run before.
    assert 0 <= first - (T0 + 6 * DAY + 2.9 * HOUR) <= max(900, 2 * step_s)
    assert (finding.kind, finding.tier, finding.channel) == ("runaway", "notice", "job")
    assert fleet.registry.tags[finding.series]["job"] == "embed"
    assert "times the largest run at this time of day" in finding.words
    assert finding.excess_usd == pytest.approx(150 - 60, abs=0.4 * 400 * max(step_s, 900) / HOUR)


def test_a_first_run_is_a_digest_line_from_ten_dollars_on() -> None:
    found = said(Fleet(), rule(), T0 + 7 * DAY, of([(24 * 4 + 9, 12.0, 3000.0)]))
    assert found[0][0] == T0 + 4 * DAY + 9 * HOUR + 300
    assert "the first one of this job" in found[0][1].words
    assert {finding.tier for _, finding in found} == {"digest"}


@pytest.mark.parametrize("step_s", [60, 300])
def test_a_first_run_is_a_notice_when_it_will_be_huge_and_not_for_one_dear_minute(step_s: int) -> None:
    begin = T0 + 4 * DAY + 9 * HOUR
    found = said(Fleet(step_s), rule(step_s), T0 + 5 * DAY, of([(24 * 4 + 9, 6.0, 9000.0)], step_s))
    first, notice = next((at, finding) for at, finding in found if finding.tier == "notice")
    # $1,500 an hour come to far more than $5,000 in 16 hours; the pace is known after half an hour.
    assert first - begin == 30 * 60
    assert notice.words.endswith("unlike any run before and not announced")
    assert notice.excess_usd == pytest.approx(750)
    dear = said(Fleet(step_s), rule(step_s), T0 + 5 * DAY, of([(24 * 4 + 9, step_s / HOUR, 900.0)], step_s))
    assert {finding.tier for _, finding in dear} == {"digest"}


def test_what_comes_every_week_or_month_is_known_the_second_time() -> None:
    monthly: Runs = [(24 * day + 9, 8.0, 800.0) for day in (5, 35, 65)]
    nightly: Runs = [(24 * day + 2, 1.0, 60.0) for day in range(70)]
    found = said(Fleet(900), rule(900), T0 + 70 * DAY, of(monthly + nightly, 900))
    assert {(at - T0) // DAY for at, _ in found} == {5}


def test_a_run_at_another_time_is_a_notice_if_none_at_any_time_came_near_it() -> None:
    found = said(Fleet(), rule(), T0 + 7 * DAY, of([*NIGHTLY, (24 * 6 + 14, 5.0, 500.0)]))
    assert found[0][1].tier == "digest"
    assert found[-1][1].tier == "notice"
    assert min(at for at, each in found if each.tier == "notice") <= T0 + 6 * DAY + 16 * HOUR
    small = said(Fleet(), rule(), T0 + 7 * DAY, of([*NIGHTLY, (24 * 6 + 14, 1.0, 100.0)]))
    assert {finding.tier for _, finding in small} == {"digest"}


@pytest.mark.parametrize(("cap", "tiers"), [(500.0, set()), (300.0, {"notice"})])
def test_a_planned_run_is_silent_up_to_its_cap(cap: float, tiers: set[str]) -> None:
    fleet = Fleet()
    begin = T0 + 5 * DAY
    tags = {"team": "a", "project": "p", "env": "dev", "api_key": "k1", "job": "backfill"}
    fleet.knowledge.add(PlannedActivity(id="p", at=T0, tags=tags, start=begin, end=begin + 4 * HOUR, max_usd=cap))
    found = said(fleet, rule(), begin + 6 * HOUR, of([(24 * 5, 4.0, 400.0)], job="backfill"))
    assert {finding.tier for _, finding in found} == tiers
    assert all(finding.excess_usd is not None and 0 < finding.excess_usd <= 105 for _, finding in found)


def test_a_run_without_end_is_a_notice() -> None:
    found = said(Fleet(), rule(), T0 + 5 * DAY, of([(24 * 4, 24.0, 480.0)]))
    first = next(at for at, finding in found if finding.tier == "notice")
    assert first == T0 + 4 * DAY + 16 * HOUR


def test_a_job_active_most_of_the_time_is_a_service_and_not_told() -> None:
    service: Runs = [(0, 24 * 8, 24 * 8 * 20.0)]
    always, nightly = of(service, job="service"), of(NIGHTLY)
    assert said(Fleet(), rule(), T0 + 8 * DAY, lambda at: always(at) + nightly(at)[1:]) == []


def test_a_gap_neither_ends_a_run_nor_lengthens_a_pause() -> None:
    gap = range(T0 + 6 * DAY + 9000, T0 + 6 * DAY + 9000 + 3 * HOUR)
    # One run of five hours, in the middle of which nothing is known for three.
    rows = of([*NIGHTLY[:6], (24 * 6 + 2, 5.0, 400.0)])
    found = said(Fleet(), rule(), T0 + 7 * DAY, lambda at: None if at in gap else rows(at))
    assert found[-1][1].excess_usd == pytest.approx(400 * 2 / 5 - 60, abs=30)


def test_what_is_told_every_night_becomes_usual_in_steps() -> None:
    larger: Runs = [(24 * day + 2, 1.0, 60.0 if day < 6 else 300.0) for day in range(14)]
    nights = {(at - T0) // DAY for at, _ in said(Fleet(), rule(), T0 + 14 * DAY, of(larger))}
    assert nights == {6, 7}


def test_nothing_is_said_in_the_warm_up_and_odd_numbers_are_borne() -> None:
    assert said(Fleet(), rule(), T0 + 3 * DAY, of([(24, 20.0, 9000.0)])) == []
    odd = [float("nan"), -5.0, 0.0]
    assert said(Fleet(), rule(), T0 + 4 * DAY, lambda at: [usage(cost=odd[at // 300 % 3], job="odd")]) == []


def test_a_restart_and_a_changed_future_change_nothing() -> None:
    rows, end = of([*NIGHTLY, (24 * 6 + 2, 4.0, 400.0)]), T0 + 7 * DAY
    whole = said(Fleet(), rule(), end, rows)
    for cut in (T0 + 4 * DAY + 3 * HOUR, T0 + 6 * DAY + int(3.25 * HOUR), T0 + 6 * DAY + 7 * HOUR):
        fleet, before, after = Fleet(), rule(), rule()
        found = said(fleet, before, cut, rows)
        assert found == [each for each in whole if each[0] <= cut]
        after.load(saved(before))
        assert found + said(fleet, after, end, rows) == whole


def test_a_job_keeps_little() -> None:
    assert rule().bytes_per_series <= 400
