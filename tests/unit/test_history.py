"""Daily and hourly dollars per series: rings, gaps, late sums, places, snapshots."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from curb.detector.forecast.days import day_of
from curb.detector.forecast.spend_history import DAYS, HOURS, HistorySettings, SpendHistory
from curb.detector.state.columns import pack, unpack

#: Monday, 6 January 2025, midnight UTC.
MONDAY = int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86400


def history(max_series: int = 100, zone: str = "UTC", bucket_s: int = HOUR) -> SpendHistory:
    return SpendHistory(HistorySettings(max_series=max_series), zone, bucket_s)


def run(held: SpendHistory, hours: int, usd: object, start: int = MONDAY, gap: object = None) -> None:
    """Hourly buckets; `usd` and `gap` are functions of the number of the hour."""
    for hour in range(hours):
        cost = np.array(usd(hour), float)  # type: ignore[operator]
        held.grow(["team"] * len(cost))
        held.close(start + hour * HOUR, cost, bool(gap and gap(hour)))  # type: ignore[operator]


def state(held: SpendHistory) -> dict[str, NDArray[np.generic]]:
    return {name: np.array(array) for name, array in held.dump().items()}


def test_days_and_hours_are_sums_of_buckets() -> None:
    held = history()
    run(held, 60, lambda hour: [1.0, hour % 24 + 1])
    days = held.daily(1)
    assert days is not None
    assert day_of(days.first_day).isoformat() == "2025-01-06"
    assert days.usd.tolist() == [300.0, 300.0]
    assert days.shares.tolist() == [1.0, 1.0]
    today = held.today(1)
    assert (today.usd, today.elapsed) == (78.0, 0.5)
    hours = held.hourly(1)
    assert hours is not None
    assert (hours.first_hour, len(hours.usd)) == (MONDAY, 59)
    assert hours.usd[:25].tolist() == [*range(1, 25), 1]


def test_days_are_local() -> None:
    held = history(zone="America/New_York")
    run(held, 53, lambda hour: [1.0])
    days = held.daily(0)
    assert days is not None
    # Five hours of the local 5 January, then whole days.
    assert day_of(days.first_day).isoformat() == "2025-01-05"
    assert days.usd.tolist() == [5.0, 24.0]
    assert held.today(0).usd == 24.0


def test_a_day_of_a_clock_change_has_23_hours() -> None:
    start = int(datetime(2025, 3, 29, 23, tzinfo=UTC).timestamp())
    held = history(zone="Europe/Berlin")
    run(held, 48, lambda hour: [1.0], start)
    days = held.daily(0)
    assert days is not None
    assert days.usd.tolist() == [23.0, 24.0]


def test_short_buckets_sum_up_exactly_enough() -> None:
    held = history(bucket_s=60)
    held.grow(["team"])
    for minute in range(1441):
        held.close(MONDAY + 60 * minute, np.array([0.1]), False)
    days = held.daily(0)
    assert days is not None
    assert days.usd[0] == pytest.approx(144.0, rel=1e-6)


def test_a_gap_is_not_a_drop() -> None:
    held = history()
    run(held, 72, lambda hour: [0.0 if 24 <= hour < 40 else 1.0], gap=lambda hour: 24 <= hour < 40)
    days, hours = held.daily(0), held.hourly(0)
    assert days is not None
    assert hours is not None
    assert days.shares.tolist() == pytest.approx([1.0, 8 / 24])
    assert np.isnan(days.whole[1])
    assert np.isnan(hours.usd[24:40]).all()
    assert not np.isnan(hours.usd[40:]).any()


def test_what_comes_after_a_gap_fills_it() -> None:
    held = history()
    run(held, 48, lambda hour: [0.0 if hour == 30 else 1.0], gap=lambda hour: hour == 30)
    held.late(np.array([0]), np.array([1.0]), np.array([MONDAY + 30 * HOUR]))
    held.close(MONDAY + 48 * HOUR, np.array([1.0]), False)
    days, hours = held.daily(0), held.hourly(0)
    assert days is not None
    assert hours is not None
    assert days.usd.tolist() == [24.0, 24.0]
    assert days.shares.tolist() == [1.0, 1.0]
    assert hours.usd[30] == 1.0


def test_late_and_restated_sums_correct_the_past() -> None:
    held = history()
    run(held, 50, lambda hour: [1.0, 1.0])
    index = np.array([0, 0, 1, 1])
    bucket = MONDAY + HOUR * np.array([3, 3, 49, -DAYS * 24 - 50])
    held.late(index, np.array([5.0, -2.0, 4.0, 9.0]), bucket)
    days = held.daily(0)
    assert days is not None
    assert days.usd.tolist() == [27.0, 24.0]
    assert held.today(1).usd == 6.0
    assert held.daily(1) is not None
    assert held.daily(1).usd.tolist() == [24.0, 24.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("gap", "share"), [(True, 0.0), (False, 1.0)])
def test_a_skipped_silence_is_unknown_or_free(gap: bool, share: float) -> None:
    held = history()
    run(held, 24, lambda hour: [1.0])
    held.skip(MONDAY + DAY, MONDAY + 3 * DAY, gap)
    run(held, 24, lambda hour: [1.0], MONDAY + 3 * DAY)
    run(held, 1, lambda hour: [1.0], MONDAY + 4 * DAY)
    days = held.daily(0)
    assert days is not None
    assert days.usd.tolist() == [24.0, 0.0, 0.0, 24.0]
    assert days.shares.tolist() == [1.0, share, share, 1.0]


def test_rings_forget_what_is_older() -> None:
    held = history(bucket_s=HOUR)
    held.grow(["team"])
    for day in range(DAYS + 20):
        held.close(MONDAY + day * DAY, np.array([day + 1.0]), False)
    days, hours = held.daily(0), held.hourly(0)
    assert days is not None
    assert hours is not None
    assert len(days.usd) == DAYS - 1
    assert days.usd[-1] == DAYS + 19
    assert len(hours.usd) == HOURS - 1
    assert np.nansum(hours.usd > 0) == HOURS // 24 - 1


def test_only_wanted_series_that_spend_have_a_history() -> None:
    held = history()
    held.grow(["team", "node", "key"])
    held.close(MONDAY, np.array([1.0, 1.0, 0.0]), False)
    assert held.held() == [0]
    assert held.daily(1) is None
    assert held.hourly(2) is None
    assert held.today(1).usd == 0.0
    assert held.wants("team")
    assert not held.wants("node")
    assert not SpendHistory(HistorySettings(max_series=0), "UTC", 60).wants("team")


def test_places_go_to_those_that_spend_most() -> None:
    held = history(max_series=2)
    run(held, 24, lambda hour: [1.0, 5.0, 0.0])
    assert held.held() == [0, 1]
    run(held, 72, lambda hour: [1.0, 5.0, 50.0], MONDAY + DAY)
    assert held.held() == [2, 1]
    days = held.daily(2)
    assert days is not None
    assert held.daily(0) is None
    assert days.usd[-1] == 1200.0
    assert held.usual_usd(2) > held.usual_usd(1)


def test_places_do_not_go_to_and_fro() -> None:
    held = history(max_series=1)
    run(held, 24 * 6, lambda hour: [1.0 + hour // 24 % 2 * 0.2, 1.0 + (hour // 24 + 1) % 2 * 0.2])
    assert held.held() == [0]


def test_memory_is_bounded() -> None:
    held = history(max_series=50)
    held.grow(["key"] * 5000)
    held.close(MONDAY, np.ones(5000), False)
    assert len(held.held()) == 50
    arrays = held.dump()
    assert sum(array.nbytes for array in arrays.values()) < 50 * 5100 + 5000 * 20 + 20_000


def test_a_snapshot_goes_on_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    usd = rng.gamma(0.5, 2, (100, 3))
    straight, first = history(max_series=2), history(max_series=2)
    run(straight, 100, lambda hour: usd[hour])
    run(first, 61, lambda hour: usd[hour])
    second = history(max_series=2)
    second.load(unpack(pack(first.dump())), ["team"] * 3)
    run(second, 39, lambda hour: usd[61 + hour], MONDAY + 61 * HOUR)
    left, right = state(straight), state(second)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_a_fresh_snapshot_loads() -> None:
    held = history()
    held.load(unpack(pack(history().dump())), [])
    run(held, 25, lambda hour: [1.0])
    assert held.daily(0) is not None
