"""Idle GPU machines: hours of their own, groups, gaps, jitter, long stretches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from curb.detector.rules.idle_gpu import Config as IdleGpuConfig
from curb.detector.rules.idle_gpu import IdleGpu
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.records.spend import PlannedActivity
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, gpu, saved

pytestmark = pytest.mark.long

Rows = Callable[[int], list[Row] | None]


def rule(step_s: int = 300, **settings: Any) -> IdleGpu:
    return IdleGpu(IdleGpuConfig(**settings), RuleContext(step_s))


def clock(at: int) -> tuple[int, float]:
    """Day of the stream, hour of the day."""
    return (at - T0) // DAY, (at - T0) % DAY / HOUR


def office(idle_from: int, idle_until: int, per_hour: float = 12.0, step_s: int = 300, gib: float = 20.0) -> Rows:
    """A machine that works from 9 to 19, and stays on without work in between two moments; another one is always on."""

    def rows(at: int) -> list[Row]:
        _, hour = clock(at)
        cost = per_hour * step_s / HOUR
        always = gpu("always", 60.0, cost, group="other")
        if idle_from <= at < idle_until:
            return [always, gpu("dev", 0.0, cost, gib=gib)]
        return [always, gpu("dev", 80.0, cost)] if 9 <= hour < 19 else [always]

    return rows


def said(fleet: Fleet, of: IdleGpu, until: int, rows: Rows) -> list[tuple[int, Finding]]:
    return [(at, finding) for at, findings in fleet.run(of, until, rows) for finding in findings]


@pytest.mark.parametrize("step_s", [30, 60, 300, 900, 3600])
def test_a_machine_left_on_after_hours_is_paged_once_it_is_idle_for_a_while(step_s: int) -> None:
    start, end = T0 + 3 * DAY + 19 * HOUR, T0 + 4 * DAY + 3 * HOUR
    fleet, idle = Fleet(step_s, T0 + DAY), rule(step_s)
    found = said(fleet, idle, end + HOUR, office(start, end, step_s=step_s))
    first, finding = found[0]
    assert 600 <= first - start <= max(25 * 60, 2 * step_s)
    assert (finding.kind, finding.family.name, finding.lasting) == ("idle", "idle_gpu", True)
    tiers = [(finding.tier, at - start) for at, finding in found]
    assert all(tier == ("page" if after >= 20 * 60 else "notice") for tier, after in tiers if abs(after - 1200) > 600)
    assert tiers[-1][0] == "page"
    assert fleet.registry.tags[finding.series] == {"team": "a", "group": "g", "node": "dev"}
    assert "20 GiB loaded" in finding.words
    # It is said in every bucket until the machine goes off, and the dollars are those since it was left on.
    last, finding = found[-1]
    assert len(found) == (last - first) // step_s + 1
    assert 0 <= last - end <= 20 * 60
    assert finding.excess_usd == pytest.approx(12.0 * 8, abs=12 * max(0.25, step_s / HOUR))


def test_hours_with_work_and_idle_hours_of_a_usual_day_say_nothing() -> None:
    fleet, idle = Fleet(), rule()
    rng = np.random.default_rng(1)

    def rows(at: int) -> list[Row]:
        _, hour = clock(at)
        # Two thirds of the samples of a busy machine read zero.
        return [gpu("dev", float(rng.choice([0, 0, 70])))] if 9 <= hour < 19 else []

    assert said(fleet, idle, T0 + 10 * DAY, rows) == []


def test_nothing_loaded_or_nothing_measured_is_not_told_out_of_hours() -> None:
    start, end = T0 + 3 * DAY + 19 * HOUR, T0 + 3 * DAY + 23 * HOUR
    assert said(Fleet(), rule(), end, office(start, end, gib=0.0)) == []
    unmeasured = office(start, end)

    def rows(at: int) -> list[Row]:
        return [{**row, "gpu_samples": 0} if at >= start else row for row in unmeasured(at) or ()]

    assert said(Fleet(), rule(), end, rows) == []


def test_work_out_of_hours_is_no_news_and_becomes_usual() -> None:
    def rows(at: int) -> list[Row]:
        day, hour = clock(at)
        if 9 <= hour < 19:
            return [gpu("dev", 80.0)]
        if 20 <= hour < 23:
            return [gpu("dev", 80.0)] if day == 3 else [gpu("dev", 0.0)] if day == 5 else []
        return []

    assert said(Fleet(), rule(), T0 + 6 * DAY, rows) == []


def test_what_was_idle_out_of_hours_is_no_habit() -> None:
    def rows(at: int) -> list[Row]:
        day, hour = clock(at)
        late = 19 <= hour < 23 and day >= 3
        return [gpu("dev", 0.0 if late else 80.0)] if 9 <= hour < 19 or late else []

    days = {clock(at)[0] for at, _ in said(Fleet(), rule(), T0 + 8 * DAY, rows)}
    assert days == {3, 4, 5, 6, 7}


def test_a_gap_of_the_fleet_neither_ends_a_stretch_nor_teaches_that_a_machine_was_off() -> None:
    start, end = T0 + 3 * DAY + 19 * HOUR, T0 + 4 * DAY + 3 * HOUR
    rows = office(start, end)

    def with_gaps(at: int) -> list[Row] | None:
        day, hour = clock(at)
        in_hours = day < 3 and 12 <= hour < 15
        return None if in_hours or start + HOUR <= at < start + 3 * HOUR else rows(at)

    found = said(Fleet(), rule(), end, with_gaps)
    assert found[0][0] - start <= 25 * 60
    assert len(found) == (end - found[0][0]) // 300 + 1

    def idle_at_noon(at: int) -> list[Row] | None:
        day, hour = clock(at)
        return None if day < 3 and 12 <= hour < 15 else [gpu("dev", 0.0)] if day == 3 and 9 <= hour < 19 else rows(at)

    assert said(Fleet(), rule(), T0 + 3 * DAY + 19 * HOUR, idle_at_noon) == []


def test_what_a_gap_hides_of_the_first_days_is_not_taken_for_off() -> None:
    evening = {(0, 16), (0, 17), (0, 18), (1, 17), (1, 18)}

    def rows(at: int) -> list[Row] | None:
        day, hour = clock(at)
        if (day, int(hour)) in evening:
            return None
        return [gpu("dev", 0.0 if day >= 2 and hour >= 15 else 80.0)] if 9 <= hour < 19 else [gpu("n", group="o")]

    assert said(Fleet(), rule(), T0 + 4 * DAY, rows) == []


def test_hours_that_vary_widen_the_tolerance() -> None:
    rng = np.random.default_rng(2)
    shifts = rng.uniform(-60, 60, (40, 2)) * 60

    def rows(at: int) -> list[Row]:
        day, _ = clock(at)
        begin, end = T0 + day * DAY + 9 * HOUR + shifts[day, 0], T0 + day * DAY + 19 * HOUR + shifts[day, 1]
        # Idle from 18:00 until it is switched off, some days not at all.
        if day % 5 == 4 or not begin <= at < end:
            return []
        return [gpu("dev", 0.0 if clock(at)[1] >= 18 else 80.0)]

    found = said(Fleet(), rule(), T0 + 40 * DAY, rows)
    assert len({clock(at)[0] for at, _ in found}) <= 1
    # Left on over the night it is found all the same.
    night = said(Fleet(), rule(), T0 + 20 * DAY, lambda at: [gpu("dev", 0.0)] if at >= T0 + 17.7 * DAY else rows(at))
    assert night
    assert clock(night[-1][0] - 1)[0] == 19


def test_machines_with_new_names_follow_the_hours_of_their_group() -> None:
    def rows(at: int) -> list[Row]:
        day, hour = clock(at)
        if 9 <= hour < 19:
            return [gpu(f"w-{day}", 0.0 if hour < 11 else 80.0)]
        return [gpu("w-night", 0.0)] if day == 4 and hour >= 21.5 else []

    fleet = Fleet()
    found = said(fleet, rule(), T0 + 5 * DAY, rows)
    assert {fleet.registry.tags[finding.series]["node"] for _, finding in found} == {"w-night"}
    assert clock(found[0][0])[1] <= 22


def test_a_machine_always_on_is_noticed_when_idle_far_longer_than_ever() -> None:
    def rows(at: int) -> list[Row]:
        day, hour = clock(at)
        # Six idle hours every day; from the sixth day on no work at all.
        return [gpu("inf", 0.0 if hour < 6 or day >= 6 else 50.0, 0.5)]

    found = said(Fleet(), rule(), T0 + 8 * DAY, rows)
    first, finding = found[0]
    assert (finding.tier, finding.channel) == ("notice", "idle_gpu/long")
    assert 17 * HOUR <= first - (T0 + 6 * DAY) <= 19 * HOUR
    assert len(found) == (T0 + 8 * DAY - first) // 300 + 1


def test_planned_machines_may_wait_idle() -> None:
    start, end = T0 + 3 * DAY + 19 * HOUR, T0 + 3 * DAY + 23 * HOUR
    fleet = Fleet()
    plan = {"team": "a", "group": "g"}
    fleet.knowledge.add(PlannedActivity(id="p", at=T0, tags=plan, start=start, end=end, max_usd=500))
    assert said(fleet, rule(), end, office(start, end)) == []


def test_a_restart_and_a_changed_future_change_nothing() -> None:
    start, end = T0 + 3 * DAY + 19 * HOUR, T0 + 4 * DAY + 3 * HOUR
    rows = office(start, end)
    whole = said(Fleet(), rule(), end, rows)
    for cut in (T0 + 2 * DAY + 5 * HOUR, start + 300, start + 5 * HOUR):
        fleet, before, after = Fleet(), rule(), rule()
        found = said(fleet, before, cut, rows)
        assert found == [each for each in whole if each[0] <= cut]
        after.load(saved(before))
        assert found + said(fleet, after, end, rows) == whole


def test_odd_numbers_say_nothing() -> None:
    odd = [float("nan"), -1.0, 0.0, 1e18]

    def rows(at: int) -> list[Row]:
        value = odd[at // 300 % 4]
        return [{**gpu("dev", value, value), "gpu_gib": value}, *([gpu(f"n{at}", 50.0)] if at % DAY == 0 else [])]

    assert said(Fleet(), rule(), T0 + 5 * DAY, rows) == []


def test_the_state_of_a_machine_is_small() -> None:
    assert rule().bytes_per_series <= 480  # with the row of a group, for a node alone in it
