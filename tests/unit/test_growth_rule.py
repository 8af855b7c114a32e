"""The growth rule in the detector: local days, gaps, one line a day, silence beside alerts, restarts."""

from __future__ import annotations

import numpy as np
import pytest

from curb.detector.judge import make_rules
from curb.detector.rules.growth import DAYS, GrowthRule
from curb.detector.rules.growth import Config as GrowthConfig
from curb.detector.settings import DetectorSettings
from curb.detector.state.rule import Finding, RuleContext
from curb.detector.state.scopes import DEFAULT_SCOPES
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

STEP_S = 3600
Found = list[tuple[float, Finding]]


def rule(zone: str = "UTC") -> GrowthRule:
    return GrowthRule(GrowthConfig(), RuleContext(3600, zone))


def rows(at: int) -> list[Row]:
    """A key that grows by 3 % a day from $48 a day on, and one that does not; weekends are quiet."""
    day = (at - T0) / DAY
    week = 1.0 if day % 7 < 5 else 0.4
    return [usage("grows", cost=2 * week * 1.03**day), usage("stays", cost=2 * week)]


def run(fleet: Fleet, of: GrowthRule, days: float, dead: range = range(0), firing: tuple[int, ...] = ()) -> Found:
    """Findings by days since the start; within `dead` there is a gap."""
    found: Found = []
    while fleet.now < T0 + days * DAY:
        gap = fleet.now in dead
        view = fleet.view(() if gap else rows(fleet.now), gap=gap, firing=firing)
        found += [((fleet.now - T0) / DAY, each) for each in of.close(view)]
    return found


def test_a_climb_is_told_once_a_day_at_midnight() -> None:
    fleet = Fleet(STEP_S)
    found = run(fleet, rule(), DAYS + 3)
    assert [at for at, _ in found] == [DAYS, DAYS + 1, DAYS + 2, DAYS + 3]
    for _, finding in found:
        assert fleet.registry.tags[finding.series]["api_key"] == "grows"
        assert (finding.kind, finding.tier, finding.family.name, finding.lasting) == (
            "growth",
            "digest",
            "growth",
            False,
        )
        assert finding.score > 1
        assert finding.words.startswith("2.9 % more every day for four weeks")


def test_days_end_at_local_midnight() -> None:
    found = run(Fleet(STEP_S, time_zone="America/New_York"), rule("America/New_York"), DAYS + 2)
    # The stream began at 20:00 there: those four hours are no day.
    assert [at for at, _ in found] == [pytest.approx(DAYS + 4 / 24), pytest.approx(DAYS + 1 + 4 / 24)]


def test_a_day_without_data_counts_as_the_week_before() -> None:
    dead = range(T0 + 20 * DAY + 3 * HOUR, T0 + 22 * DAY - 3 * HOUR)
    assert [at for at, _ in run(Fleet(STEP_S), rule(), DAYS, dead)] == [DAYS]


@pytest.mark.parametrize("closed", [0, 3])
def test_buckets_that_are_passed_over_are_a_gap_where_the_one_before_was(closed: int) -> None:
    fleet, of = Fleet(STEP_S), rule()
    run(fleet, of, 20)
    run(fleet, of, 20 + closed / 24, range(T0, T0 + 30 * DAY))
    fleet.now = T0 + 23 * DAY + 6 * HOUR
    assert (len(run(fleet, of, DAYS)) == 1) == (closed > 0)


def test_where_an_alert_fires_it_is_silent() -> None:
    assert run(Fleet(STEP_S), rule(), DAYS + 1, firing=(0,)) == []


def test_only_series_that_may_alert_are_watched() -> None:
    fleet, of = Fleet(STEP_S), rule()
    run(fleet, of, 1)
    assert [fleet.registry.scopes[i] for i in saved(of)["watched"]] == ["key", "key"]
    every = [scope.model_copy(update={"detect": True}) for scope in DEFAULT_SCOPES]
    fleet, of = Fleet(STEP_S, scopes=every), rule()
    run(fleet, of, 1)
    watched = sorted(fleet.registry.scopes[i] for i in saved(of)["watched"])
    assert watched == ["key", "key", "model", "team"]


@pytest.mark.parametrize("days", [0.5, 20, 20.4, DAYS - 1 / 24])
def test_it_goes_on_where_it_was_saved(days: float) -> None:
    fleet, of = Fleet(STEP_S), rule()
    before = run(fleet, of, days)
    again = rule()
    again.load(saved(of))
    assert before + run(fleet, again, DAYS + 1) == run(Fleet(STEP_S), rule(), DAYS + 1)


def test_a_series_costs_little_memory() -> None:
    of = rule()
    run(Fleet(STEP_S), of, 1)
    assert of.bytes_per_series <= 28 * 4 + 1 + 8


def test_the_detector_asks_it_and_it_can_be_switched_off() -> None:
    def names(settings: DetectorSettings) -> set[str]:
        return {rule.name for rule in make_rules(settings)}

    assert "growth" in names(DetectorSettings())
    assert "growth" not in names(DetectorSettings(growth=GrowthConfig(enabled=False)))


def test_a_silent_fleet_is_no_growth() -> None:
    fleet, of = Fleet(STEP_S), rule()
    while fleet.now < T0 + (DAYS + 2) * DAY:
        assert of.close(fleet.view([usage(cost=0.0)])) == []
    assert not np.any(saved(of)["growth.usd"])
