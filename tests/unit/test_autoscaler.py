"""Groups that grow: ramps without work, growth with work, plans, new groups, restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from curb.detector.rules.autoscaler import Autoscaler
from curb.detector.rules.autoscaler import Config as AutoscalerConfig
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.records.spend import PlannedActivity
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, gpu, saved

pytestmark = pytest.mark.long

Rows = Callable[[int], list[Row]]
RowsOrGap = Callable[[int], list[Row] | None]
RAMP, OVER = T0 + 5 * DAY + 8 * HOUR, T0 + 5 * DAY + 14 * HOUR


def rule(step_s: int = 300, **settings: Any) -> Autoscaler:
    return Autoscaler(AutoscalerConfig(**settings), RuleContext(step_s))


def ramp(percent: float = 0.5, per_hour: float = 3.0, step_s: int = 300, until: int = OVER, names: str = "x") -> Rows:
    """Two machines at night and five by day; from the ramp on one more every six minutes up to twenty."""

    def rows(at: int) -> list[Row]:
        hour, cost = (at - T0) % DAY / HOUR, per_hour * step_s / HOUR
        usual = [gpu(f"n{i}", 50.0, cost) for i in range(5 if 8 <= hour < 18 else 2)]
        added = min(20, int((at - RAMP) // 360)) if RAMP <= at < until else 0
        return usual + [gpu(f"{names}{i}", percent, cost) for i in range(added)]

    return rows


def said(fleet: Fleet, of: Autoscaler, until: int, rows: RowsOrGap) -> list[tuple[int, Finding]]:
    return [(at, finding) for at, findings in fleet.run(of, until, rows) for finding in findings]


@pytest.mark.parametrize("step_s", [60, 300, 900, 3600])
def test_machines_without_work_beyond_the_usual_most_are_paged(step_s: int) -> None:
    fleet = Fleet(step_s)
    found = said(fleet, rule(step_s), OVER + HOUR, ramp(step_s=step_s))
    first, finding = found[0]
    assert first - RAMP <= max(35 * 60, 3 * step_s)
    assert (finding.kind, finding.tier, finding.channel, finding.lasting) == ("runaway", "page", "autoscaler", True)
    assert fleet.registry.tags[finding.series] == {"team": "a", "group": "g"}
    assert 0 <= len(found) - ((OVER - first) // step_s + 1) <= 300 // step_s
    # Twenty machines for most of six hours at $3.
    assert found[-1][1].excess_usd == pytest.approx(20 * 3 * 5, rel=0.15)


def test_machines_that_work_are_growth_for_the_digest_and_become_usual() -> None:
    found = said(Fleet(), rule(), T0 + 8 * DAY, ramp(80.0, until=T0 + 9 * DAY))
    assert {(finding.kind, finding.tier) for _, finding in found} == {("growth", "digest")}
    assert max(at for at, _ in found) <= T0 + 6 * DAY + 300


def test_a_ramp_is_never_learned() -> None:
    found = said(Fleet(), rule(), T0 + 9 * DAY, ramp(until=T0 + 20 * DAY))
    assert found[-1][0] == T0 + 9 * DAY
    assert "6 were the most" in found[-1][1].words


def test_reused_names_and_replaced_machines() -> None:
    usual = ramp()

    def known_names(at: int) -> list[Row]:
        # The names of the ramp are old ones, seen on the first day.
        return usual(at) + ([gpu(f"x{i}", 50.0, 0.1) for i in range(3)] if at == T0 else [])

    assert said(Fleet(), rule(), OVER, known_names)[0][0] - RAMP <= 35 * 60

    def replaced(at: int) -> list[Row]:
        generation = (at - T0) // (6 * HOUR)
        return [gpu(f"n{generation}-{i}", 0.0 if at % (6 * HOUR) < 1800 else 60.0) for i in range(6)]

    assert said(Fleet(), rule(), T0 + 8 * DAY, replaced) == []


def test_a_day_with_a_burst_of_work_slow_to_begin_is_not_paged() -> None:
    def rows(at: int) -> list[Row]:
        usual = [gpu(f"n{i}", 50.0) for i in range(5)]
        booted = at - (T0 + 5 * DAY)
        return usual + [gpu(f"b{i}", 0.0 if booted < 300 else 70.0) for i in range(10 if booted >= 0 else 0)]

    assert all(finding.tier == "digest" for _, finding in said(Fleet(), rule(), T0 + 6 * DAY, rows))


def test_planned_machines_are_silent_up_to_the_cap() -> None:
    for cap, silent in ((1000.0, True), (20.0, False)):
        fleet, autoscaler, found = Fleet(), rule(), []
        tags = {"team": "a", "group": "g", "job": "train"}
        fleet.knowledge.add(PlannedActivity(id="p", at=T0, tags=tags, start=RAMP, end=OVER, max_usd=cap))
        rows = ramp()
        while fleet.now < OVER:
            view = fleet.view(rows(fleet.now))
            registry, cost = fleet.registry, view.bucket.cost
            fleet.knowledge.planned_usd(view.start, cost, 0 * cost, registry.scopes, registry.tags)
            found += autoscaler.close(view)
        assert (not found) == silent


def test_a_group_never_seen_before_is_a_digest_line_for_a_day() -> None:
    usual = ramp(until=0)

    def rows(at: int) -> list[Row]:
        hours = (at - T0) / HOUR - 5 * 24
        new = [gpu(f"t{i}", 95.0, 2.0, group="train") for i in range(8)] if 0 <= hours < 20 or hours >= 30 else []
        return usual(at) + new

    fleet = Fleet()
    found = said(fleet, rule(), T0 + 8 * DAY, rows)
    assert {finding.channel for _, finding in found} == {"autoscaler/new"}
    assert {fleet.registry.tags[finding.series]["group"] for _, finding in found} == {"train"}
    # It ends when the machines go off.
    assert found[-1][0] == T0 + 5 * DAY + 20 * HOUR


def test_nothing_is_said_in_the_warm_up_of_the_stream() -> None:
    assert said(Fleet(start=RAMP - DAY), rule(), OVER, ramp()) == []


def test_a_gap_ends_and_teaches_nothing() -> None:
    rows = ramp()
    gap = range(RAMP + 2 * HOUR, RAMP + 3 * HOUR)
    found = said(Fleet(), rule(), OVER, lambda at: None if at in gap else rows(at))
    assert len(found) == (OVER - found[0][0]) // 300 + 1


def test_a_restart_and_a_changed_future_change_nothing() -> None:
    rows, end = ramp(), OVER + HOUR
    whole = said(Fleet(), rule(), end, rows)
    for cut in (T0 + 2 * DAY, RAMP + 900, RAMP + 2 * HOUR):
        fleet, before, after = Fleet(), rule(), rule()
        found = said(fleet, before, cut, rows)
        assert found == [each for each in whole if each[0] <= cut]
        after.load(saved(before))
        assert found + said(fleet, after, end, rows) == whole
