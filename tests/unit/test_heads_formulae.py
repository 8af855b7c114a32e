"""The parts of both heads at their limits: windows, scores, tails, peaks, hourly z, profile, percentiles, bursts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from curb.detector.heads.active_minutes import Activity
from curb.detector.heads.hour_z import Hourly
from curb.detector.heads.nightly_bursts import Recurring
from curb.detector.heads.past import Recent
from curb.detector.heads.peaks import Peaks
from curb.detector.heads.profile import Profile
from curb.detector.heads.tail import Tail
from curb.detector.heads.window_score import SILENT, Floors, score_windows, trust
from curb.detector.heads.windows import Windows
from curb.detector.state.local_time import LocalHour

Floats = NDArray[np.float64]
NO, YES = np.array([False]), np.array([True])
FIRST = np.array([0])


def one(value: float) -> Floats:
    return np.array([value])


# --- windows ----------------------------------------------------------------------------------------------------------


def windows(step_min: float = 5.0, series: int = 1) -> Windows:
    made = Windows(step_min, 1)
    made.columns.grow(series)
    return made


def test_each_window_forgets_in_its_own_minutes() -> None:
    made = windows()
    made.add(one(12.0), one(6.0))
    # A window as long as the step is the step; the day's has one 288th of it.
    assert made.actual[:, 0] == pytest.approx([12, 12 / 6, 12 / 24, 12 / 96, 12 / 288])
    assert made.expected[:, 0] == pytest.approx([6, 6 / 6, 6 / 24, 6 / 96, 6 / 288])
    made.add(one(0.0), one(0.0))
    assert made.actual[1, 0] == pytest.approx(2 * 5 / 6)


def test_a_window_shorter_than_the_step_is_the_step() -> None:
    made = windows(60.0)
    made.add(one(7.0), one(1.0))
    assert made.actual[:, 0] == pytest.approx([7, 7, 3.5, 7 / 8, 7 / 24])
    assert made.minutes[:, 0].tolist() == [60, 60, 120, 480, 1440]


def test_silence_fades_both_sides_alike() -> None:
    one_by_one, at_once = windows(), windows()
    for each in (one_by_one, at_once):
        each.add(one(12.0), one(6.0))
    for _ in range(3):
        one_by_one.decay(1)
    at_once.decay(3)
    assert at_once.actual[:, 0] == pytest.approx(one_by_one.actual[:, 0])
    assert at_once.actual[1:, 0] / at_once.expected[1:, 0] == pytest.approx([2] * 4)
    assert at_once.actual[1, 0] == pytest.approx(2 * (5 / 6) ** 3)


def test_what_an_incident_burnt_is_taken_out_of_its_series_only() -> None:
    made = windows(series=2)
    made.add(np.array([12.0, 12.0]), np.array([6.0, 6.0]))
    made.forget(FIRST)
    assert made.actual[1].tolist() == [1.0, 2.0]
    made.add(np.array([0.0, 0.0]), np.array([6.0, 6.0]))
    made.forget(FIRST)
    assert made.actual[0, 0] == 0.0  # what is under the expectation stays


def test_late_dollars_count_as_if_they_had_come_in_time() -> None:
    late, in_time = windows(), windows()
    in_time.add(one(12.0), one(6.0))
    late.add(one(2.0), one(6.0))
    for each in (late, in_time):
        for _ in range(5):
            each.add(one(1.0), one(1.0))
    late.correct(FIRST, one(10.0), 5)
    # Of the 5-minute window nothing is left after 25 minutes.
    assert late.actual[:, 0] == pytest.approx(in_time.actual[:, 0])
    late.correct(FIRST, one(10.0), 6)
    assert late.actual[1, 0] == pytest.approx(in_time.actual[1, 0])
    assert late.actual[2, 0] > in_time.actual[2, 0]


# --- scores -----------------------------------------------------------------------------------------------------------

FLOORS = Floors((1.0, 3.0, 6.0, 12.0, 25.0), (2.0, 1.7, 1.6, 1.5, 1.4))


def scored(actual: float, expected: float, *, last: tuple[float, float] | None = None, mean: float = 0.0) -> Floats:
    """Scores of the five windows after a day of `actual` and `expected` dollars a minute, and `last` in the newest."""
    made, tail = windows(), Tail(5, 1)
    tail.columns.grow(1)
    for _ in range(5000):
        made.add(one(actual), one(expected))
    if last is not None:
        made.add(one(last[0]), one(last[1]))
    return score_windows(made, tail, FLOORS, FLOORS.usd, one(mean))[2][:, 0]


def test_the_score_is_surprise_less_the_chances_plus_the_dollars() -> None:
    made, tail = windows(), Tail(5, 1)
    tail.columns.grow(1)
    for _ in range(5000):
        made.add(one(1.0), one(0.2))
    ratio, excess, score = (each[:, 0] for each in score_windows(made, tail, FLOORS, FLOORS.usd, one(0.0)))
    value = np.log(ratio)
    assert excess == pytest.approx([0.8 * minutes for minutes in (5, 30, 120, 480, 1440)])
    # The pad is a quarter of the dollar floor: $0.25 in five minutes.
    assert value[0] == pytest.approx(math.log(1.05 / 0.25))
    high, low = 0.152 * math.log(100), 0.152 * math.log(10)
    z = 2.326 + 1.045 * (value[0] - high) / (high - low)
    surprise = -math.log10(math.exp(-z * z / 2) / (z * math.sqrt(2 * math.pi)))
    # Five windows of five minutes are 43,200 chances a month; four dollars are four times the floor.
    assert score[0] == pytest.approx(surprise - math.log10(43200) + math.log10(4), abs=0.02)


def test_the_pad_grows_with_the_mean_of_large_series() -> None:
    made, tail = windows(), Tail(5, 1)
    tail.columns.grow(1)
    made.add(one(10.0), one(2.0))
    ratio = score_windows(made, tail, FLOORS, FLOORS.usd, one(20.0)).ratio
    assert ratio[0, 0] == pytest.approx(11 / 3)


@pytest.mark.parametrize(
    ("actual", "expected", "counts"),
    [
        (0.24, 0.0, [True, True, True, True, True]),  # $1.20 in five minutes
        (0.19, 0.0, [False, True, True, True, True]),  # $0.95
        (0.41, 0.2, [True, True, True, True, True]),  # $1.05
        (0.39, 0.2, [False, True, True, True, True]),  # $0.95, and 1.95 times
        (1.66, 1.0, [False, False, True, True, True]),
        (1.45, 1.0, [False, False, False, False, True]),
        (1.39, 1.0, [False] * 5),
        (0.02, 0.0, [False, False, False, False, True]),  # $28.80 a day, $9.60 in eight hours
    ],
)
def test_dollars_and_ratio_must_both_reach_the_floors_of_a_window(
    actual: float, expected: float, counts: list[bool]
) -> None:
    assert (scored(actual, expected) > SILENT).tolist() == counts


@pytest.mark.parametrize(
    ("newest", "counts"),
    [
        # The newest five minutes must be 1.28 times the expected for the half hour, 1.24 times for two hours.
        (1.29, [False, True, True, True, True]),
        (1.26, [False, False, True, True, True]),
        (1.23, [False, False, False, True, True]),
    ],
)
def test_a_longer_window_counts_while_the_shorter_one_still_burns(newest: float, counts: list[bool]) -> None:
    assert (scored(3.0, 1.0, last=(newest, 1.0)) > SILENT).tolist() == counts


def test_what_is_suspicious_or_has_an_open_alert_teaches_a_twentieth() -> None:
    score = np.array([[1.1, 0.9, 1.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    taught = trust(score, np.array([False, False, False, True]), np.array([4.0, 4.0, 2.9, 4.0]))
    assert taught.tolist() == [0.05, 1.0, 1.0, 0.05]


# --- tails ------------------------------------------------------------------------------------------------------------


def test_surprise_is_a_normal_tail_through_two_percentiles() -> None:
    tail = Tail(1, 1)
    tail.columns.grow(3)
    tail.columns["high"][...] = [[1.0, 1.0, 1.0]]
    tail.columns["low"][...] = [[0.8, 0.99, -3.0]]
    surprise = tail.surprise(np.array([[1.2, 1.2, 1.5]]))[0]
    # Two percentiles are never closer than 0.08 nor farther apart than 0.5.
    for got, z in zip(surprise, (2.326 + 1.045, 2.326 + 1.045 * 2.5, 2.326 + 1.045), strict=True):
        assert got == pytest.approx(-math.log10(math.exp(-z * z / 2) / (z * math.sqrt(2 * math.pi))), abs=0.001)
    assert tail.surprise(np.array([[1e9, 1.0, 0.99]]))[0] == pytest.approx([197.3, 0.0, 0.0], abs=0.1)


def test_entries_fade_in_two_weeks_against_a_prior_that_stays() -> None:
    tail = Tail(1, 1)
    tail.columns.grow(1)
    tail.learn(np.array([[3.0]]), one(30.0))
    tail.refresh(0)
    assert tail.columns["high"][0, 0] == pytest.approx(3.49, abs=0.02)  # of the bin from 3 to 3.5
    assert tail.columns["weight"].sum() == pytest.approx(30.0)
    tail.refresh(14 * 24)
    assert tail.columns["weight"].sum() == pytest.approx(30 / math.e)
    for _ in range(12):
        tail.refresh(14 * 24)
    assert tail.columns["high"][0, 0] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(
    ("value", "placed"), [(-2.0, 0), (0.05, 0), (0.15, 1), (1.95, 19), (2.25, 20), (2.75, 21), (99.0, 27)]
)
def test_bins_are_a_tenth_wide_and_half_beyond_two(value: float, placed: int) -> None:
    tail = Tail(2, 1)
    tail.columns.grow(2)
    tail.learn(np.array([[value, 0.0], [0.0, value]]), np.array([1.0, 0.0]))
    weight = tail.columns["weight"]
    assert np.flatnonzero(weight[0, :, 0]).tolist() == [placed]
    assert weight[:, :, 1].sum() == 0


# --- peaks and the hourly z -------------------------------------------------------------------------------------------


def test_a_penalty_rises_ten_points_a_day_and_only_of_series_five_days_old() -> None:
    peaks = Peaks(1, 1)
    peaks.columns.grow(2)
    for penalty in (10.0, 20.0, 25.0):
        peaks.learn(np.array([[25.0, 25.0]]))
        peaks.learn(np.array([[3.0, 3.0]]))
        peaks.close_day(np.array([5.1, 5.0]))
        assert peaks.penalty.tolist() == [[penalty, 0.0]]
    peaks.close_day(np.array([9.0, 9.0]))  # a day without any score
    assert peaks.penalty[0, 0] == pytest.approx(25 * 0.5 ** (1 / 28))


def hourly(hours: int = 80, deviation: float = 10.0, mean: float = 60.0) -> Hourly:
    made = Hourly(3.0, 1)
    made.columns.grow(1)
    for hour in range(hours):
        made.learn_hour(one(mean + (deviation if hour % 2 else -deviation)), one(mean), YES)
    return made


def test_z_counts_the_last_hour_in_deviations() -> None:
    made = hourly()
    made.add(one(3.0), one(1.0), 5.0)
    # One step of five minutes is a twelfth of the hour: 2 * 60 / 12 = $10.
    assert made.z(one(1.0))[0] == pytest.approx(1.0)
    made.decay(2, 5.0)
    assert made.z(one(1.0))[0] == pytest.approx((11 / 12) ** 2)
    late = hourly()
    late.add(one(1.0), one(1.0), 5.0)
    late.add(one(1.0), one(1.0), 5.0)
    before = late.columns["actual"][0]
    late.correct(FIRST, one(2.0), 1, 5.0)
    assert late.columns["actual"][0] - before == pytest.approx(2 / 12 * 11 / 12)
    late.correct(FIRST, one(2.0), 12, 5.0)  # an hour ago
    assert late.columns["actual"][0] - before == pytest.approx(2 / 12 * 11 / 12)
    late.forget(FIRST)
    assert late.columns["actual"][0] == late.columns["expected"][0]


@pytest.mark.parametrize(("usd", "z"), [(3.01, 30.1), (2.99, 0.0)])
def test_z_needs_three_dollars_over(usd: float, z: float) -> None:
    made = hourly(deviation=0.0, mean=1.0)
    made.add(one(1.0 + usd / 60), one(1.0), 60.0)
    # No hour is steadier than ten cents, nor than a twentieth of the mean.
    assert made.z(one(0.0))[0] == pytest.approx(z)
    assert made.z(one(0.1))[0] == pytest.approx(z / 3)


def test_z_is_unknown_for_three_days() -> None:
    for hours, known in ((72, False), (73, True)):
        made = hourly(hours)
        made.add(one(2.0), one(1.0), 60.0)
        assert bool(made.z(one(1.0))[0]) is known


def test_one_wild_hour_counts_as_six_deviations() -> None:
    made = hourly(100)
    made.learn_hour(one(1e6), one(60.0), YES)
    assert made.columns["variance"][0] == pytest.approx(100 + (3600 - 100) / 101)
    made.learn_hour(one(1e6), one(60.0), NO)
    assert made.columns["hours"][0] == 101
    assert made.columns["variance"][0] == pytest.approx(100 + (3600 - 100) / 101)
    old = hourly(600)
    old.learn_hour(one(120.0), one(60.0), YES)
    assert old.columns["variance"][0] == pytest.approx(100 + (3600 - 100) / 504)


# --- the profile ------------------------------------------------------------------------------------------------------


def local(of_week: int, fraction: float = 0.5) -> LocalHour:
    return LocalHour(0, of_week, 0, fraction)


def profile() -> Profile:
    made = Profile(1)
    made.columns.grow(1)
    return made


def test_an_hour_that_was_never_seen_is_the_mean_of_a_day() -> None:
    made = profile()
    made.learn_mean(one(2.0), one(5.0), 5.0, NO, YES)
    assert made.expected(local(3), local(4))[0] == 2.0
    made.learn_mean(one(4.0), one(10.0), 5.0, NO, NO)  # half its age, and cut off at nothing
    assert made.mean[0] == 3.0
    made.learn_mean(one(100.0), one(20.0), 5.0, NO, NO)  # five times the mean and five cents
    assert made.mean[0] == pytest.approx(3 + (15.05 - 3) / 4)
    made.learn_mean(one(-9.0), one(20.0), 5.0, NO, NO)
    assert made.mean[0] == pytest.approx((3 + (15.05 - 3) / 4) * 0.75)
    before = made.mean[0]
    made.learn_mean(one(0.0), one(9999.0), 5.0, YES, NO)
    assert made.mean[0] == pytest.approx(before * (1 - 0.05 * 5 / 1440))


def test_the_hour_of_the_week_weighs_as_many_times_as_it_was_seen() -> None:
    made = profile()
    for of_week, usd in ((10, 60.0), (34, 120.0), (10, 60.0)):
        made.learn_hour(local(of_week), one(usd), one(usd), YES, NO)
    # The hour of day: 60, then the mean with 120, then a third of the way back; on Monday seen twice.
    of_day = 90 + (60 - 90) / 3
    assert 60 * made.expected(local(10), local(11))[0] == pytest.approx((2 * 60 + of_day) / 3, rel=0.002)
    assert 60 * made.expected(local(34), local(35))[0] == pytest.approx((120 + of_day) / 2, rel=0.002)
    assert 60 * made.expected(local(58), local(59))[0] == pytest.approx(of_day)


def test_between_the_middles_of_hours_it_is_linear() -> None:
    made = profile()
    for of_week, usd in ((10, 60.0), (11, 120.0)):
        made.learn_hour(local(of_week), one(usd), one(usd), YES, NO)
    for fraction, usd in ((0.5, 60.0), (0.75, 75.0), (1.0, 90.0)):
        assert 60 * made.expected(local(10, fraction), local(11))[0] == pytest.approx(usd, rel=0.002)
    # Beside an hour that nobody has seen it is level.
    assert 60 * made.expected(local(10, 0.0), local(9))[0] == pytest.approx(60.0, rel=0.002)


def test_an_hour_is_cut_off_from_its_fourth_visit_on() -> None:
    made = profile()
    for _ in range(3):
        made.learn_hour(local(10), one(10.0), one(10.0), YES, NO)
    made.learn_hour(local(34), one(1000.0), one(10.0), YES, NO)
    # Three times the expected and $1.50; the fourth visit counts a quarter.
    level = math.exp(made.columns["level"][0])
    assert made.columns["of_day"][10, 0] == pytest.approx(10 + (31.5 - 10) / 4, rel=0.002)
    assert level > 1
    early = profile()
    early.learn_hour(local(10), one(1000.0), one(10.0), YES, NO)
    assert early.columns["of_day"][10, 0] == pytest.approx(1000.0)
    frozen = profile()
    frozen.learn_hour(local(10), one(1000.0), one(10.0), YES, YES)
    assert frozen.columns["of_day"][10, 0] == pytest.approx(12.0)
    half = profile()
    half.learn_hour(local(10), one(1000.0), one(10.0), NO, NO)
    assert half.columns["of_day_visits"][10, 0] == 0
    assert half.columns["of_day"][10, 0] == 0


def test_the_level_follows_slowly_and_faster_when_half_a_day_points_one_way() -> None:
    made = profile()
    made.learn_hour(local(10), one(10.0), one(10.0), YES, NO)
    assert made.columns["level"][0] == 0.0
    levels = [0.0]
    for _ in range(40):
        made.learn_hour(local(10), one(20.0), one(10.0), YES, NO)
        levels.append(float(made.columns["level"][0]))
    moves = np.diff(levels)
    assert moves[0] == pytest.approx(0.02 * math.log(2), rel=0.001)
    drift = 1 - (11 / 12) ** 40
    assert moves[-1] + 0.0005 * levels[-2] == pytest.approx((0.02 + 0.1 * (drift - 0.6) / 0.4) * math.log(2), rel=0.01)
    for _ in range(100):
        made.learn_hour(local(10), one(1e5), one(10.0), YES, NO)
    assert made.columns["level"][0] == 2.0
    made.settle(one(-0.5))
    assert made.columns["level"][0] == 1.5
    assert made.columns["drift"][0] == 0.0
    made.settle(one(math.nan))
    made.settle(one(-9.0))
    assert made.columns["level"][0] == -2.0


# --- percentiles of requests, the newest minutes, bursts --------------------------------------------------------------


@pytest.mark.parametrize("step_s", [10, 60, 300])
def test_requests_are_counted_by_the_active_minute(step_s: int) -> None:
    made = Activity(step_s, 1)
    made.columns.grow(1)
    for start in range(0, 6000, step_s):
        rate = 100.0 if start < 5400 else 1000.0
        made.add(one(rate * step_s / 60), start, one(1.0))
    made.add(one(0.0), 6000, one(1.0))
    assert made.mean(0) == pytest.approx(190.0)
    # The middle of the bin of a sixteenth of a decade.
    assert made.percentile(0, 0.5) == pytest.approx(0.1 * 10 ** (48.5 / 16))
    assert made.percentile(0, 0.95) == pytest.approx(0.1 * 10 ** (64.5 / 16))
    assert made.columns["minutes"][0] == pytest.approx(100.0)
    made.fade(14 * 24)
    assert made.columns["minutes"][0] == pytest.approx(100 / math.e)
    assert made.mean(0) == pytest.approx(190.0)


def test_minutes_without_requests_or_trust_teach_nothing() -> None:
    made = Activity(60, 1)
    made.columns.grow(1)
    made.add(one(50.0), 0, one(0.0))
    assert (made.mean(0), made.percentile(0, 0.5)) == (None, None)
    made.add(one(50.0), 60, one(0.05))
    assert made.columns["minutes"][0] == pytest.approx(0.05)
    for requests, place in ((1e-9, 0), (1e12, 99)):
        made = Activity(60, 1)
        made.columns.grow(1)
        made.add(one(requests), 0, one(1.0))
        assert made.percentile(0, 0.5) == pytest.approx(0.1 * 10 ** ((place + 0.5) / 16))


@pytest.mark.parametrize(("step_min", "steps"), [(1.0, 5), (5.0, 1), (15.0, 1), (2.0, 2)])
def test_the_newest_minutes_are_a_plain_mean(step_min: float, steps: int) -> None:
    recent = Recent(5, step_min, 1)
    recent.columns.grow(1)
    for count in range(11):
        recent.push(one(float(count)), count)
    assert recent.mean()[0] == pytest.approx(np.mean([10 - each for each in range(steps)]))
    recent.correct(FIRST, one(1.0), steps, 10)  # as old as the window
    assert recent.mean()[0] == pytest.approx(np.mean([10 - each for each in range(steps)]))
    recent.correct(FIRST, one(1.0), steps - 1, 10)
    assert recent.mean()[0] == pytest.approx(np.mean([10 - each for each in range(steps)]) + 1 / steps)


DAY = 1440
NOON = 20_000 * DAY + 720


def burst(recurring: Recurring, minute: int, usd: float, *, minutes: int = 30) -> None:
    """A burst in steps of five minutes, and the quiet hours after that end it."""
    for start in range(minute, minute + minutes, 5):
        recurring.follow(start, YES, one(usd * 5 / minutes))
    for start in range(minute + minutes, minute + minutes + 120, 5):
        recurring.follow(start, NO, one(-3.0))


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, True),
        ({"minute": 115}, True),
        ({"minute": 125}, False),
        ({"minute": -115}, True),
        ({"minute": -125}, False),
        ({"days": 9}, True),
        ({"days": 10}, False),
        ({"usd": 2.6 * 40}, False),
        ({"usd": 2.4 * 40}, True),
        ({"before_usd": 1.9, "usd": 1.0}, False),
        ({"before_usd": 2.1, "usd": 1.0}, True),
        ({"lasted": 725}, True),
        ({"lasted": 735}, False),
    ],
)
def test_a_burst_is_known_from_two_like_it(changed: dict[str, float], known: bool) -> None:
    recurring = Recurring(1)
    recurring.columns.grow(1)
    first = NOON
    for day in (0, 1):
        burst(recurring, first + day * DAY, changed.get("before_usd", 40.0), minutes=int(changed.get("lasted", 30)))
    now = int(first + (changed.get("days", 2.0)) * DAY + changed.get("minute", 0.0))
    recurring.follow(now, YES, one(changed.get("usd", 40.0)))
    assert recurring.usual(0) is known


def test_seven_bursts_are_remembered() -> None:
    recurring = Recurring(1)
    recurring.columns.grow(1)
    for hour in range(9):
        burst(recurring, NOON + 180 * hour, 10.0 + hour)
    assert recurring.columns["sums"][:, 0].tolist() == pytest.approx([18, 17, 16, 15, 14, 13, 12])
    assert recurring.columns["starts"][0, 0] == NOON + 180 * 8
    assert not recurring.usual(0)


def test_scores_of_the_few_windows_that_count_are_those_of_the_whole_formula() -> None:
    rng, count = np.random.default_rng(5), 400
    made, tail = Windows(1.0, count), Tail(5, count)
    for columns in (made.columns, tail.columns):
        columns.grow(count)
    tail.columns["high"][...] = rng.uniform(0.1, 1.5, (5, count))
    tail.columns["low"][...] = tail.columns["high"] * rng.uniform(0.2, 1.0, (5, count))
    for _ in range(40):
        made.add(rng.lognormal(-2, 2, count), rng.lognormal(-1.5, 1, count))
    mean = rng.lognormal(-3, 1, count)
    found = score_windows(made, tail, FLOORS, FLOORS.usd, mean)
    partner = [0, 0, 0, 1, 2]
    tests = np.log10(5 * 43200 / np.array([5, 30, 120, 480, 1440]))[:, None]
    valid = (found.excess >= FLOORS.usd) & (made.actual >= FLOORS.ratios * made.expected)
    valid &= made.actual[partner] >= (1 + 0.4 * (FLOORS.ratios - 1)) * made.expected[partner]
    valid &= found.excess[partner] >= 0.3 * FLOORS.usd[partner]
    dollars = np.log10(np.maximum(found.excess, FLOORS.usd) / FLOORS.usd)
    whole = np.where(valid, tail.surprise(np.log(found.ratio)) - tests + dollars, -9.0)
    assert 20 < np.count_nonzero(valid) < valid.size - 20, np.count_nonzero(valid)
    assert np.array_equal(found.score, whole)
