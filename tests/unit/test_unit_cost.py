"""The unit-cost head: sees a dearer request at any volume, and not more requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from curb.detector.heads.window_score import SILENT
from curb.detector.rules.unit_cost import UnitCost, UnitCostScores

pytestmark = pytest.mark.long

Floats = NDArray[np.float64]
#: At a moment: requests and dollars of every series.
Minute = Callable[[int], tuple[Floats, Floats]]

MONDAY = 1_741_564_800
DAY, HOUR = 86400, 3600
THRESHOLD = 2.0


def new_head(series: int, step_s: int = 60) -> UnitCost:
    head = UnitCost(step_s, hold_minutes=10, floor_usd_per_day=25.0, capacity=2)
    head.grow(series)
    return head


def feed(
    head: UnitCost, start: int, end: int, minute: Minute, *, step_s: int = 60, frozen: bool = False
) -> list[UnitCostScores]:
    out = []
    for at in range(start, end, step_s):
        requests, cost = minute(at)
        out.append(head.step(at, cost, requests, np.full(head.n, frozen)))
    return out


def traffic(rate: tuple[float, ...], unit: float = 0.02, dearer: float = 1.0, more: float = 1.0) -> Minute:
    """Poisson requests of noisy dollars; the same moment always gives the same."""

    def minute(at: int) -> tuple[Floats, Floats]:
        rng = np.random.default_rng([3, at])
        requests = rng.poisson(more * np.array(rate)).astype(np.float64)
        return requests, dearer * unit * 1.69 * rng.standard_gamma(requests / 1.69)

    return minute


def test_a_request_twice_as_dear_is_seen_within_minutes_when_busy() -> None:
    rates = (2.0, 40.0)
    head = new_head(2)
    quiet = feed(head, MONDAY, MONDAY + 5 * DAY, traffic(rates))
    assert max(each.notice.max() for each in quiet) < THRESHOLD
    start = MONDAY + 5 * DAY
    scores = feed(head, start, start + 6 * HOUR, traffic(rates, dearer=2.0))
    when = [next(i for i, each in enumerate(scores) if each.notice[k] >= THRESHOLD) for k in range(2)]
    assert when[1] < 25
    assert when[0] < 240
    last = scores[when[1]]
    assert last.ratio[1] == pytest.approx(2.0, rel=0.3)
    assert last.expected[1] == pytest.approx(0.02, rel=0.2)
    assert last.usd_per_day[1] == pytest.approx(0.5 * 40 * 1440 * 0.02, rel=0.4)


def test_ten_times_the_requests_are_not_its_business() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, traffic((5.0,)))
    start = MONDAY + 4 * DAY
    assert max(each.notice[0] for each in feed(head, start, start + DAY, traffic((5.0,), more=10.0))) < THRESHOLD


def test_a_dearer_request_that_costs_little_a_day_does_not_count() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, traffic((5.0,), unit=0.001))
    start = MONDAY + 4 * DAY
    scores = feed(head, start, start + DAY, traffic((5.0,), unit=0.001, dearer=2.0))
    assert all(each.notice[0] == SILENT for each in scores)


def test_a_lasting_price_becomes_normal_and_a_frozen_one_does_not() -> None:
    free, held = new_head(1, 300), new_head(1, 300)
    for head, frozen in ((free, False), (held, True)):
        feed(head, MONDAY, MONDAY + 4 * DAY, traffic((20.0,)), step_s=300)
        feed(head, MONDAY + 4 * DAY, MONDAY + 9 * DAY, traffic((20.0,), dearer=1.5), step_s=300, frozen=frozen)
    last = [feed(head, MONDAY + 9 * DAY, MONDAY + 9 * DAY + 300, traffic((20.0,)), step_s=300) for head in (free, held)]
    assert last[0][0].expected[0] > 0.026
    assert last[1][0].expected[0] < 0.023


def test_nothing_is_known_without_requests_and_odd_numbers_stay_finite() -> None:
    head = new_head(4)

    def odd(at: int) -> tuple[Floats, Floats]:
        minute = (at - MONDAY) // 60
        cost = 1e12 if minute == 6000 else 1.0
        return np.array([0.0, 5.0, -3.0, 1e9]), np.array([9.0, -2.0 if minute % 9 else 1.0, 1.0, cost])

    for scores in feed(head, MONDAY, MONDAY + 5 * DAY, odd):
        for each in (scores.notice, scores.ratio, scores.expected, scores.usd_per_day):
            assert np.isfinite(each).all()
        assert scores.notice[0] == scores.notice[2] == SILENT
        assert scores.expected[0] == 0


def test_dump_and_load_continue_bit_for_bit_and_neighbours_do_not_matter() -> None:
    both, alone = new_head(2), new_head(1)
    end = MONDAY + 2 * DAY + 1234 * 60
    feed(both, MONDAY, end, traffic((5.0, 30.0)))
    head = new_head(0)
    head.load({name: array.copy() for name, array in both.dump().items()})
    later = traffic((5.0, 30.0), dearer=2.0)
    expected = feed(both, end, end + 12 * HOUR, later)
    got = feed(head, end, end + 12 * HOUR, later)

    def first(minute: Minute) -> Minute:
        return lambda at: (minute(at)[0][:1], minute(at)[1][:1])

    feed(alone, MONDAY, end, first(traffic((5.0, 30.0))))
    single = feed(alone, end, end + 12 * HOUR, first(later))
    for a, b, c in zip(expected, got, single, strict=True):
        assert np.array_equal(a.notice, b.notice)
        assert np.array_equal(a.ratio, b.ratio)
        assert a.notice[0] == c.notice[0]
    assert head.bytes_per_series < 700


def test_the_state_of_another_step_length_goes_on() -> None:
    minutes, longer = new_head(1, 60), new_head(1, 300)
    end = MONDAY + 3 * DAY
    feed(minutes, MONDAY, end, traffic((8.0,)))
    longer.load(minutes.dump())
    five = traffic((40.0,))
    scores = feed(longer, end, end + 6 * HOUR, five, step_s=300)
    assert max(each.notice[0] for each in scores) < THRESHOLD
    assert scores[-1].expected[0] == pytest.approx(0.02, rel=0.2)
