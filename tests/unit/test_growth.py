"""The growth rule: sees a steady climb under a weekly season, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.detection.simulator_growth import GrowthLedger
from benchmarks.detection.simulator_traffic import CREEP, Traffic
from detector.growth import DAYS, Growth, Growths

Floats = NDArray[np.float64]
WEEK = np.array([1.0, 1.1, 1.2, 1.1, 1.0, 0.3, 0.2])


def days(count: int, rate: float, seed: int = 1, usd: float = 100.0, noise: float = 0.05) -> Floats:
    """Dollars of `count` days that grow by `rate` a day under a strong week."""
    day = np.arange(count)
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(count))
    return np.asarray(usd * np.exp(rate * day) * WEEK[day % 7] * wobble)


def feed(rule: Growth, columns: Floats) -> list[Growths]:
    """`columns` of shape (days, series)."""
    rule.grow(columns.shape[1])
    return [rule.step(day) for day in columns]


def test_a_climb_of_three_percent_a_day_fires_and_is_measured() -> None:
    last = feed(Growth(), days(DAYS, 0.03)[:, None])[-1]
    assert last.slope[0] == pytest.approx(0.03, abs=0.005)
    assert last.t[0] > 4
    assert last.excess_usd_per_day[0] > 5
    assert last.fires[0]


def test_flat_falling_small_and_young_spend_does_not_fire() -> None:
    climbing = days(DAYS, 0.03)
    young = np.where(np.arange(DAYS) < 3, 0.0, climbing)
    series = np.stack([days(DAYS, 0.0), days(DAYS, -0.03), climbing / 200, young, np.zeros(DAYS)], axis=1)
    for scores in feed(Growth(), series):
        assert not scores.fires.any()
        assert all(np.isfinite(each).all() for each in (scores.t, scores.slope, scores.excess_usd_per_day))


def test_single_wild_days_neither_make_nor_hide_a_trend() -> None:
    flat, climbing = days(DAYS, 0.0), days(DAYS, 0.03)
    flat[-1] *= 30
    climbing[10] *= 0.05
    last = feed(Growth(), np.stack([flat, climbing], axis=1))[-1]
    assert last.fires.tolist() == [False, True]


def test_the_week_may_begin_on_any_day() -> None:
    for offset in range(7):
        series = days(DAYS + offset, 0.0, noise=0.01)[offset:]
        assert not feed(Growth(), series[:, None])[-1].fires[0]


def test_a_day_that_is_not_known_counts_as_the_one_a_week_before() -> None:
    series = days(DAYS + 7, 0.03)
    holed, whole = Growth(), Growth()
    feed(whole, series[:, None])
    holed.grow(1)
    for number, usd in enumerate(series):
        down = number == DAYS
        last = holed.step(np.array([0.0 if down else usd]), known=not down)
    assert last.fires[0]
    assert holed.columns["usd"][-7, 0] == pytest.approx(series[DAYS - 7], rel=1e-6)


def test_bad_numbers_are_days_of_the_week_before_and_refunds_are_zero() -> None:
    rule = Growth()
    feed(rule, np.full((DAYS, 3), 10.0))
    scores = rule.step(np.array([np.nan, np.inf, -50.0]))
    assert rule.columns["usd"][-1].tolist() == [10.0, 10.0, 0.0]
    assert not scores.fires.any()


def test_dump_and_load_go_on_and_the_future_changes_nothing() -> None:
    series = np.stack([days(40, 0.03), days(40, 0.0, seed=2)], axis=1)
    one, other = Growth(), Growth()
    ahead = feed(one, series)
    feed(other, series[:20])
    again = Growth()
    again.load({name: array.copy() for name, array in other.dump().items()})
    for expected, day in zip(ahead[20:], series[20:], strict=True):
        got = again.step(day)
        assert np.array_equal(got.t, expected.t)
        assert np.array_equal(got.fires, expected.fires)
    assert one.bytes_per_series < 150


def test_creep_in_simulated_traffic_is_found_in_time() -> None:
    """Days of 3 % on simulated daily sums: noise, seasons and launches as the benchmark has them."""
    traffic = Traffic(120, 2)
    ledger = GrowthLedger(traffic)
    for day in traffic.days():
        ledger.add(day)
    result = ledger.result()
    assert result.count == int(((traffic.incident == CREEP) & (traffic.born == 0)).sum())
    assert result.recall >= 0.7
    assert result.false_alarms <= 0.06
