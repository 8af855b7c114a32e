"""The parts of the dollars head, one by one, against what their formulae say."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from curb.detector.heads.held_minimum import Hold
from curb.detector.heads.hour_z import Hourly
from curb.detector.heads.hour_z import P as HOUR_Z
from curb.detector.heads.peaks import Peaks
from curb.detector.heads.profile import Profile
from curb.detector.heads.tail import Tail
from curb.detector.state.local_time import local_hour


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def test_hour_of_the_week_counts_from_monday_midnight_local() -> None:
    hour = local_hour(at("2025-03-10T00:30", "Asia/Kolkata"), ZoneInfo("Asia/Kolkata"))
    assert (hour.of_week, hour.of_day, hour.fraction) == (0, 0, 0.5)
    assert local_hour(at("2025-03-16T23:59", "Asia/Kolkata"), ZoneInfo("Asia/Kolkata")).of_week == 167


def test_both_two_o_clocks_of_the_autumn_night_are_hours_of_their_own() -> None:
    zone = ZoneInfo("Europe/Berlin")
    midnight = int(datetime(2025, 10, 25, 22, tzinfo=UTC).timestamp())
    hours = [local_hour(midnight + 3600 * i, zone) for i in range(25)]
    assert len({hour.start for hour in hours}) == 25
    assert [hour.of_day for hour in hours[:5]] == [0, 1, 2, 2, 3]
    assert {hour.day for hour in hours} == {hours[0].day}


def test_the_prior_tail_is_exponential() -> None:
    tail = Tail(1, 4)
    tail.columns.grow(1)
    tail.refresh(1)
    assert tail.columns["high"][0, 0] == pytest.approx(0.7, abs=0.02)
    assert tail.columns["low"][0, 0] == pytest.approx(0.35, abs=0.02)
    assert tail.surprise(np.array([[0.69]]))[0, 0] == 0
    assert tail.surprise(np.array([[0.71]]))[0, 0] == pytest.approx(-math.log10(0.01), abs=0.1)


def test_the_tail_learns_the_percentiles_of_its_series() -> None:
    tail = Tail(2, 4)
    tail.columns.grow(2)
    values = np.random.default_rng(1).exponential(0.5, (5000, 2, 2))
    days = np.array([14 / 5000, 0.0])
    for value in values:
        tail.learn(value, days)
    tail.refresh(0)
    assert tail.columns["high"][0, 0] == pytest.approx(0.5 * math.log(100), rel=0.08)
    assert tail.columns["low"][1, 0] == pytest.approx(0.5 * math.log(10), rel=0.08)
    assert tail.columns["high"][0, 1] == pytest.approx(0.7, abs=0.02)
    surprise = tail.surprise(np.array([[1.0, 4.0], [9.0, 90.0]]))
    assert surprise[0, 0] == 0
    assert np.all(np.isfinite(surprise))
    assert np.all(surprise >= 0)


def test_hold_is_the_minimum_of_the_last_steps() -> None:
    hold = Hold(3, -9.0, 1)
    hold.columns.grow(1)
    got = [hold.push(np.array([value]), count)[0] for count, value in enumerate([5.0, 4.0, 6.0, 7.0, 8.0, 1.0, 9.0])]
    assert got == [-9, -9, 4, 4, 6, 1, 1]


def test_a_peak_holds_fades_and_leaves_out_incidents() -> None:
    peaks = Peaks(1, 3)
    peaks.columns.grow(3)
    old = np.array([6.0, 6.0, 4.0])
    peaks.learn(np.array([[4.0, 40.0, 4.0]]))
    peaks.discard(np.array([False, True, False]))
    peaks.close_day(old)
    assert peaks.penalty.tolist() == [[4.0, 0.0, 0.0]]
    for _ in range(28):
        peaks.close_day(old)
    assert peaks.penalty[0, 0] == pytest.approx(2.0)
    peaks.learn(np.array([[50.0, -9.0, -9.0]]))
    peaks.close_day(old)
    assert peaks.penalty[0, 0] == pytest.approx(12.0)


def test_hourly_z_needs_three_days_and_counts_deviations() -> None:
    hourly = Hourly(3.0, 1)
    hourly.columns.grow(1)
    mean, taught = np.array([1.0]), np.array([True])
    for hour in range(HOUR_Z.min_hours + 30):
        hourly.learn_hour(np.array([60.0 + (10 if hour % 2 else -10)]), np.array([60.0]), taught)
        hourly.add(np.array([2.0]), np.array([1.0]), 60.0)
        z = hourly.z(mean)[0]
        assert z == 0 if hour < HOUR_Z.min_hours else z == pytest.approx(6.0)


def test_hourly_z_of_a_series_without_variance_is_bounded() -> None:
    hourly = Hourly(3.0, 1)
    hourly.columns.grow(1)
    for _ in range(100):
        hourly.learn_hour(np.array([60.0]), np.array([60.0]), np.array([True]))
    hourly.add(np.array([1e9]), np.array([1.0]), 60.0)
    assert hourly.z(np.array([1.0]))[0] == 50


def test_the_profile_learns_the_day_and_then_the_week() -> None:
    zone, profile = ZoneInfo("UTC"), Profile(1)
    profile.columns.grow(1)
    start = at("2025-03-10T00:00", "UTC")
    no, yes = np.array([False]), np.array([True])

    def usd(hour: int) -> float:
        weekend = (hour // 24) % 7 >= 5
        return 2.0 if weekend else 10.0 + 10.0 * (hour % 24 == 12)

    for hour in range(24 * 7 * 6):
        now = local_hour(start + 3600 * hour, zone)
        expected = 60 * profile.expected(local_hour(start + 3600 * hour + 1800, zone), now)
        profile.learn_mean(np.array([usd(hour) / 60]), np.array([60.0 * hour]), 60.0, no, no)
        profile.learn_hour(now, np.array([usd(hour)]), expected, yes, no)
    noon = start + 3600 * (24 * 7 * 6 + 12) + 1800
    for ahead, dollars in ((0, 20.0), (3600, 10.0), (5 * 86400, 2.0)):
        now = local_hour(noon + ahead, zone)
        assert 60 * profile.expected(now, now)[0] == pytest.approx(dollars, rel=0.25)
    # Between the middles of two hours the expectation is half way.
    now, beside = local_hour(noon + 1800 - 1, zone), local_hour(noon + 3600, zone)
    assert 60 * profile.expected(now, beside)[0] == pytest.approx(15.0, rel=0.25)


def test_one_wild_hour_and_an_open_alert_hardly_move_the_profile() -> None:
    zone = ZoneInfo("UTC")
    noon = at("2025-03-10T12:00", "UTC")
    yes = np.array([True])
    results = []
    for frozen in (False, True):
        profile = Profile(1)
        profile.columns.grow(1)
        for day in range(10):
            hour = local_hour(noon + 86400 * day, zone)
            profile.learn_hour(hour, np.array([10.0]), np.array([10.0]), yes, ~yes)
        hour = local_hour(noon + 86400 * 10, zone)
        profile.learn_hour(hour, np.array([1e6]), np.array([10.0]), yes, np.array([frozen]))
        results.append(60 * profile.expected(hour, hour)[0])
    assert results[1] < results[0] < 20
    assert results[1] == pytest.approx(10, rel=0.1)
