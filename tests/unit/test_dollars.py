"""The dollars head: finds the planted spike, stays quiet on ordinary spend, and is causal, exact and bounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from curb.detector.heads.past import DollarsHead, ScoreSettings, Step
from curb.detector.state.bucket import Scores

pytestmark = pytest.mark.long

Floats = NDArray[np.float64]

MONDAY = 1_741_564_800  # 10 March 2025, 00:00 UTC
DAY, HOUR = 86400, 3600
SETTINGS = ScoreSettings()


def new_head(series: int, step_s: int = 60, time_zone: str = "UTC", capacity: int = 64) -> DollarsHead:
    head = DollarsHead(SETTINGS, step_s, time_zone, capacity)
    head.grow(series, MONDAY)
    return head


def feed(
    head: DollarsHead,
    start: int,
    end: int,
    cost_at: Callable[[int], Floats],
    *,
    step_s: int = 60,
    gap: bool = False,
    frozen: bool = False,
) -> list[Scores]:
    """Steps from `start` to `end`; ten requests a dollar."""
    out = []
    for at in range(start, end, step_s):
        cost = cost_at(at)
        out.append(head.step(Step(at, cost, 10 * cost, gap, np.full(head.n, frozen))))
    return out


def flat(*dollars: float) -> Callable[[int], Floats]:
    return lambda _: np.array(dollars)


def noisy(seed: int, dollars: float, series: int) -> Callable[[int], Floats]:
    """Bursty traffic: the same moment always gives the same dollars."""
    return lambda at: np.random.default_rng([seed, at]).gamma(1.0, dollars, series)


def same(a: list[Scores], b: list[Scores]) -> bool:
    names = Scores.__dataclass_fields__
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, name), getattr(y, name)) for x, y in zip(a, b, strict=True) for name in names
    )


def test_spike_on_flat_traffic_is_a_notice_and_a_page_within_minutes() -> None:
    head = new_head(2)
    feed(head, MONDAY, MONDAY + 4 * DAY, noisy(1, 0.2, 2))
    start = MONDAY + 4 * DAY
    scores = feed(head, start, start + 40 * 60, lambda at: noisy(1, 0.2, 2)(at) * np.array([20.0, 1.0]))
    notice = [i for i, s in enumerate(scores) if s.notice[0] >= SETTINGS.notice_threshold]
    page = [i for i, s in enumerate(scores) if s.page[0] >= SETTINGS.page_threshold]
    assert notice
    assert notice[0] < 15
    assert page
    assert page[0] < 25
    assert all(s.notice[1] < SETTINGS.notice_threshold for s in scores)
    last = scores[-1]
    assert last.rate[0] == pytest.approx(240, rel=0.6)
    assert last.expected_rate[0] == pytest.approx(12, rel=0.4)
    assert last.excess[0] > 20


def test_burst_shorter_than_the_hold_is_no_notice() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, noisy(1, 0.2, 1))
    start = MONDAY + 4 * DAY
    burst = feed(head, start, start + 5 * 60, lambda at: 8 * noisy(1, 0.2, 1)(at))
    after = feed(head, start + 5 * 60, start + 2 * HOUR, noisy(1, 0.2, 1))
    assert max(s.notice[0] for s in burst + after) < SETTINGS.notice_threshold


@pytest.mark.parametrize("step_s", [10, 60, 300, 3600])
def test_constant_zero_and_tiny_spend_is_quiet_and_finite(step_s: int) -> None:
    head = new_head(4, step_s)
    days = 1 if step_s == 10 else 6
    for scores in feed(head, MONDAY, MONDAY + days * DAY, flat(0.0, 1.0, 1e-9, 500.0), step_s=step_s):
        assert np.all(scores.notice < SETTINGS.notice_threshold)
        assert np.all(scores.page < SETTINGS.page_threshold)
        for name in ("notice", "expected_rate", "rate", "expected_fast", "excess", "requests_rate"):
            assert np.all(np.isfinite(getattr(scores, name)))


def test_huge_spike_sparse_spend_and_refunds_stay_finite() -> None:
    head = new_head(3)

    def cost(at: int) -> Floats:
        minute = (at - MONDAY) // 60
        return np.array(
            [1e12 if minute == 9000 else 1.0, 3.0 if minute % 997 == 0 else 0.0, -5.0 if minute % 50 else 1.0]
        )

    for scores in feed(head, MONDAY, MONDAY + 7 * DAY, cost):
        for name in ("notice", "expected_rate", "rate", "expected_fast", "excess", "requests_rate"):
            assert np.all(np.isfinite(getattr(scores, name)))
        assert not np.any(np.isnan(scores.page))
        assert np.all(scores.expected_rate >= 0)


def test_daily_season_in_the_business_time_zone_is_quiet_across_a_clock_change() -> None:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("Europe/Berlin")
    head = new_head(1, 300, "Europe/Berlin")

    def office(at: int) -> Floats:
        busy = 8 <= datetime.fromtimestamp(at, zone).hour < 18
        return np.random.default_rng([7, at]).gamma(4.0, 2.5 if busy else 0.05, 1)

    # The clock goes forward on 30 March 2025.
    scores = feed(head, MONDAY, MONDAY + 24 * DAY, office, step_s=300)
    settled = scores[4 * 288 :]
    assert max(s.notice[0] for s in settled) < SETTINGS.notice_threshold
    at_ten = [s.expected_rate[0] for i, s in enumerate(settled) if (i * 300) % DAY == 10 * HOUR]
    assert at_ten[-1] == pytest.approx(120, rel=0.3)


def test_sustained_rise_becomes_normal_and_frozen_does_not() -> None:
    free, held = new_head(1, 300), new_head(1, 300)
    for head, frozen in ((free, False), (held, True)):
        feed(head, MONDAY, MONDAY + 7 * DAY, flat(1.0), step_s=300)
        feed(head, MONDAY + 7 * DAY, MONDAY + 9 * DAY, flat(2.5), step_s=300, frozen=frozen)
    assert free.baseline(0).expected_usd_per_hour > 20
    assert held.baseline(0).expected_usd_per_hour < 17


def test_a_series_born_into_a_known_stream_has_spent_nothing_before() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, flat(1.0))
    head.grow(2, MONDAY + 4 * DAY)
    scores = feed(head, MONDAY + 4 * DAY, MONDAY + 4 * DAY + HOUR // 2, flat(1.0, 20.0))
    assert any(s.notice[1] >= SETTINGS.notice_threshold for s in scores)
    assert all(s.page[1] == -np.inf for s in scores)


def test_statistics_do_not_page_in_the_warm_up() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 2 * DAY, noisy(1, 0.2, 1))
    scores = feed(head, MONDAY + 2 * DAY, MONDAY + 2 * DAY + HOUR, flat(50.0))
    assert scores[-1].notice[0] >= SETTINGS.notice_threshold
    assert all(s.page[0] == -np.inf for s in scores)


def test_outputs_do_not_depend_on_the_future_nor_on_the_neighbours() -> None:
    a, b, alone = new_head(3, 300), new_head(3, 300, capacity=2), new_head(1, 300)
    end = MONDAY + 4 * DAY
    first = feed(a, MONDAY, end, noisy(1, 1.0, 3), step_s=300)
    again = feed(b, MONDAY, end, noisy(1, 1.0, 3), step_s=300)
    feed(b, end, end + DAY, flat(900.0, 0.0, 1.0), step_s=300)
    assert same(first, again)
    single = feed(alone, MONDAY, end, lambda at: noisy(1, 1.0, 3)(at)[:1], step_s=300)
    assert all(x.notice[0] == y.notice[0] and x.excess[0] == y.excess[0] for x, y in zip(first, single, strict=True))


def test_dump_and_load_continue_bit_for_bit() -> None:
    head, other = new_head(3), new_head(0)
    stop = MONDAY + 2 * DAY + 777 * 60
    feed(head, MONDAY, stop, noisy(1, 1.0, 3))
    saved = {name: array.copy() for name, array in head.dump().items()}
    ahead = feed(head, stop, stop + 6 * HOUR, noisy(2, 3.0, 3))
    other.load(saved)
    assert other.n == 3
    assert same(ahead, feed(other, stop, stop + 6 * HOUR, noisy(2, 3.0, 3)))
    ours, theirs = head.dump(), other.dump()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_state_of_another_step_length_keeps_what_is_not_about_single_steps() -> None:
    minutes, longer = new_head(1, 60), new_head(1, 300)
    end = MONDAY + 2 * DAY
    feed(minutes, MONDAY, end, flat(0.2))
    longer.load(minutes.dump())
    assert longer.baseline(0).expected_usd_per_hour == pytest.approx(minutes.baseline(0).expected_usd_per_hour)
    assert longer.baseline(0).known_days == pytest.approx(minutes.baseline(0).known_days, abs=1 / 144)
    scores = feed(longer, end, end + 2 * HOUR, flat(1.0), step_s=300)
    assert all(each.notice[0] < SETTINGS.notice_threshold for each in scores), "the same spend by the hour"


def test_load_refuses_a_state_of_another_shape() -> None:
    saved = new_head(1).dump()
    wrong = {name: array[:-1] if array.ndim > 1 and "of_day" in name else array for name, array in saved.items()}
    with pytest.raises(ValueError, match="shape"):
        new_head(1).load(wrong)


def test_growing_leaves_the_old_series_as_they_were() -> None:
    grown, fixed = new_head(2, capacity=2), new_head(2, capacity=64)
    end = MONDAY + DAY
    feed(grown, MONDAY, end, noisy(1, 1.0, 2))
    feed(fixed, MONDAY, end, noisy(1, 1.0, 2))
    grown.grow(70, end)
    wide = feed(grown, end, end + HOUR, lambda at: np.concatenate([noisy(1, 1.0, 2)(at), np.zeros(68)]))
    narrow = feed(fixed, end, end + HOUR, noisy(1, 1.0, 2))
    assert all(np.array_equal(x.notice[:2], y.notice) for x, y in zip(wide, narrow, strict=True))
    assert grown.baseline(69).known_days == pytest.approx(HOUR / DAY)
    assert grown.baseline(0).known_days == pytest.approx(1 + HOUR / DAY)


def test_a_gap_is_neither_learned_nor_an_excess_afterwards() -> None:
    head = new_head(1, 300)
    end = MONDAY + 6 * DAY
    feed(head, MONDAY, end, flat(2.0), step_s=300)
    before = head.baseline(0).expected_usd_per_hour
    feed(head, end, end + 12 * HOUR, flat(0.0), step_s=300, gap=True)
    assert head.baseline(0).expected_usd_per_hour == pytest.approx(before)
    after = feed(head, end + 12 * HOUR, end + DAY, flat(2.0), step_s=300)
    assert max(s.notice[0] for s in after) < 0
    assert after[-1].rate[0] == pytest.approx(24)


def test_skip_is_many_gap_steps_at_once() -> None:
    stepped, skipped = new_head(2, 300), new_head(2, 300)
    end = MONDAY + 4 * DAY
    for head in (stepped, skipped):
        feed(head, MONDAY, end, noisy(3, 1.0, 2), step_s=300)
    feed(stepped, end, end + 9 * HOUR, flat(0.0, 0.0), step_s=300, gap=True)
    skipped.skip(9 * 12, end)
    a, b = stepped.dump(), skipped.dump()
    for name in ("windows.actual", "windows.expected", "hourly.actual", "series.requests_fast"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-12)
    later = [
        feed(head, end + 9 * HOUR, end + 12 * HOUR, noisy(3, 1.0, 2), step_s=300)[-1] for head in (stepped, skipped)
    ]
    np.testing.assert_allclose(later[0].expected_rate, later[1].expected_rate, rtol=1e-6)
    np.testing.assert_allclose(later[0].rate, later[1].rate, rtol=1e-6)


def test_the_rate_falls_back_within_minutes_of_a_spike() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, flat(1.0))
    start = MONDAY + 4 * DAY
    spike = feed(head, start, start + 60, flat(500.0))
    assert spike[0].rate[0] > 5000
    after = feed(head, start + 60, start + 2 * HOUR, flat(1.0))
    back = next(i for i, s in enumerate(after) if s.rate[0] < 1.2 * s.expected_fast[0])
    assert back < 40
    assert all(s.rate[0] < 1.2 * s.expected_fast[0] for s in after[back:])


def test_silence_of_the_whole_fleet_lets_the_rate_fall_below_the_expected() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 4 * DAY, flat(1.0))
    start = MONDAY + 4 * DAY
    feed(head, start, start + 20 * 60, flat(50.0))
    silent = feed(head, start + 20 * 60, start + 60 * 60, flat(0.0), gap=True)
    assert silent[-1].rate[0] < silent[-1].expected_fast[0]


def test_late_dollars_count_as_if_they_had_come_in_time() -> None:
    late, timely = new_head(2, 300), new_head(2, 300)
    end = MONDAY + 4 * DAY
    base = flat(1.0, 1.0)
    for head in (late, timely):
        feed(head, MONDAY, end, base, step_s=300)
    feed(timely, end, end + 300, flat(1.0, 31.0), step_s=300)
    feed(timely, end + 300, end + HOUR, base, step_s=300)
    feed(late, end, end + HOUR, base, step_s=300)
    late.late(np.array([1, 1]), np.array([10.0, 20.0]), end)
    a, b = late.dump(), timely.dump()
    # Five and thirty minutes are over; the others hold what a timely row would have left there.
    np.testing.assert_allclose(a["windows.actual"][2:], b["windows.actual"][2:])
    np.testing.assert_allclose(a["windows.actual"][:2], 0.2)
    np.testing.assert_allclose(a["series.hour_usd"], b["series.hour_usd"])


def test_late_dollars_of_last_week_change_no_window() -> None:
    head = new_head(1, 300)
    feed(head, MONDAY, MONDAY + 3 * DAY, flat(1.0), step_s=300)
    before = head.dump()["windows.actual"].copy()
    head.late(np.array([0]), np.array([1000.0]), MONDAY)
    np.testing.assert_array_equal(head.dump()["windows.actual"], before)
    with pytest.raises(ValueError, match="not closed"):
        head.late(np.array([0]), np.array([1.0]), MONDAY + 3 * DAY)


def test_baseline_is_the_ordinary_day_not_the_incident() -> None:
    head = new_head(2, 60)
    rate = np.random.default_rng(5).lognormal(3.0, 0.7, 6 * 1440)

    def step(at: int, requests: float, frozen: bool) -> None:
        cost = np.array([requests / 100, 0.0])
        head.step(Step(at, cost, np.array([requests, 0.0]), False, np.full(2, frozen)))

    for i, requests in enumerate(rate):
        step(MONDAY + 60 * i, requests if i % 3 == 0 else 0.0, False)
    for i in range(600):
        step(MONDAY + 6 * DAY + 60 * i, 5000.0, True)
    baseline = head.baseline(0)
    active = rate[::3]
    assert baseline.requests_per_minute_p95 == pytest.approx(np.percentile(active, 95), rel=0.25)
    assert baseline.requests_per_minute_mean is not None
    assert baseline.requests_per_minute_mean < 5 * active.mean()
    assert baseline.known_days == pytest.approx(6 + 600 / 1440)
    assert head.baseline(1).requests_per_minute_p95 is None
    assert head.baseline(1).requests_per_minute_mean is None


@pytest.mark.parametrize("step_s", [10, 60, 300])
def test_baseline_is_per_minute_at_any_step_length(step_s: int) -> None:
    head = new_head(1, step_s)
    for at in range(MONDAY, MONDAY + 2 * HOUR, step_s):
        head.step(Step(at, np.array([0.01]), np.array([120 * step_s / 60]), False, np.array([False])))
    baseline = head.baseline(0)
    assert baseline.requests_per_minute_p95 == pytest.approx(120, rel=0.08)
    assert baseline.requests_per_minute_mean == pytest.approx(120)


def test_steps_must_come_in_order_and_divide_an_hour() -> None:
    head = new_head(1)
    feed(head, MONDAY, MONDAY + 60, flat(1.0))
    with pytest.raises(ValueError, match="not after"):
        feed(head, MONDAY, MONDAY + 60, flat(1.0))
    for step_s in (5, 7, 7200):
        with pytest.raises(ValueError, match="step_s"):
            DollarsHead(SETTINGS, step_s, "UTC")


@pytest.mark.parametrize("step_s", [10, 60, 300])
def test_a_series_takes_at_most_five_kilobytes(step_s: int) -> None:
    assert new_head(64, step_s).bytes_per_series <= 5000


def test_the_profile_survives_an_idle_week() -> None:
    head = new_head(1, 300)
    busy = noisy(9, 2.0, 1)
    feed(head, MONDAY, MONDAY + 21 * DAY, busy, step_s=300)
    feed(head, MONDAY + 21 * DAY, MONDAY + 28 * DAY, flat(0.0), step_s=300)
    feed(head, MONDAY + 28 * DAY, MONDAY + 35 * DAY, busy, step_s=300)
    scores = feed(head, MONDAY + 35 * DAY, MONDAY + 36 * DAY, busy, step_s=300)
    expected = np.array([s.expected_rate[0] for s in scores])
    assert np.all(expected > 5)
    assert np.all(expected < 50)


def test_an_incident_is_not_learned_through_a_silence_that_follows_it() -> None:
    free, held = new_head(1, 300), new_head(1, 300)
    incident = MONDAY + 7 * DAY + 10 * HOUR
    for head, frozen in ((free, False), (held, True)):
        feed(head, MONDAY, incident, flat(1.0), step_s=300)
        feed(head, incident, incident + HOUR, flat(30.0), step_s=300, frozen=frozen)
        head.skip(23 * 12, incident + HOUR)
        feed(head, incident + DAY, incident + DAY + HOUR // 2, flat(1.0), step_s=300)
    assert held.baseline(0).expected_usd_per_hour == pytest.approx(12, rel=0.1)
    assert free.baseline(0).expected_usd_per_hour > 13


def test_a_shard_without_series_can_step() -> None:
    head = new_head(0)
    for scores in feed(head, MONDAY, MONDAY + DAY + HOUR, lambda _: np.zeros(0), step_s=60):
        assert scores.notice.shape == scores.page.shape == scores.channel.shape == (0,)
    other = new_head(0)
    other.load(head.dump())
    other.grow(1, MONDAY + DAY + HOUR)
    assert np.isfinite(feed(other, MONDAY + DAY + HOUR, MONDAY + DAY + 2 * HOUR, flat(1.0))[-1].notice).all()
