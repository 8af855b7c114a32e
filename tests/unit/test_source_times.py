"""When sources report: the delay by which their records are scored later, and the time that a record covers."""

from __future__ import annotations

import numpy as np
import pytest

from curb.detector.rollup.timing import ON_TIME, SourceTimes, Timing

T0 = 1_760_000_400.0  # a full five minutes


def times(bucket_s: int = 60, grace_s: float = 30.0, max_delay_s: float = 2 * 86400.0) -> SourceTimes:
    return SourceTimes(bucket_s, grace_s, max_delay_s)


def report(subject: SourceTimes, start: list[float], received: list[float], source: str = "s") -> None:
    subject.observe(source, np.array(start), np.array(received))


def rows(subject: SourceTimes, count: int, *, period: float, phase: float = 0.0, late: float = 5.0) -> Timing:
    """`count` periods of three records each; received `late` seconds after the end of their period."""
    for number in range(count):
        start = T0 + phase + number * period
        received = start + period + late
        report(subject, [start] * 3, [received] * 3)
        subject.pass_edge(received)
    return subject.of("s")


def test_a_source_that_is_on_time_is_scored_by_its_own_time() -> None:
    subject = times()
    for minute in range(40):
        start = T0 + 60 * minute
        report(subject, [start + 0.5, start + 59.2], [start + 1.5, start + 60.4])
        subject.pass_edge(start + 90)
    assert subject.of("s") == ON_TIME
    assert subject.of("another") == ON_TIME


def test_rows_on_the_grid_of_the_buckets_are_not_moved() -> None:
    assert rows(times(bucket_s=300), 6, period=300) == (0.0, 300.0)


@pytest.mark.parametrize(("phase", "delay"), [(240.0, 60.0), (149.0, 151.0), (120.0, 180.0)])
def test_rows_beside_the_grid_are_moved_onto_it(phase: float, delay: float) -> None:
    assert rows(times(bucket_s=300), 6, period=300, phase=phase) == (delay, 300.0)


def test_rows_longer_than_a_bucket_are_scored_when_they_are_known() -> None:
    # Received at 305 s: the bucket of 240 s closes at 330 s.
    assert rows(times(), 6, period=300) == (240.0, 300.0)


def test_three_buckets_of_receipt_decide_and_two_do_not() -> None:
    assert rows(times(), 2, period=300) == ON_TIME
    assert rows(times(), 3, period=300) == (240.0, 300.0)


def test_the_usual_delay_is_followed_and_a_few_later_records_are_not() -> None:
    subject = times(bucket_s=300)
    for number in range(32):
        start = T0 + 300 * number
        received = start + 300 + 1200
        late = [received] * 99 + [received + 7200]
        report(subject, [start] * 99 + [start - 7200], late)
        subject.pass_edge(received)
    assert subject.of("s").delay_s == 1200.0


def test_one_late_record_in_a_hundred_moves_nothing() -> None:
    subject = times(bucket_s=300)
    for number in range(32):
        start = T0 + 300 * number
        report(subject, [start] * 99 + [start - 3600], [start + 301] * 100)
        subject.pass_edge(start + 330)
    assert subject.of("s").delay_s == 0.0


def test_a_backlog_that_is_worked_off_moves_nothing() -> None:
    subject = times()
    for minute in range(20):
        # An hour of the past in every minute, and the delay shrinks.
        start = [T0 + 3600.0 * minute + second for second in range(0, 3600, 300)]
        at = T0 + 20 * 3600 + 60 * minute
        report(subject, start, [at] * len(start))
        subject.pass_edge(at)
    assert subject.of("s").delay_s == 0.0


def test_a_back_fill_beside_live_records_does_not_delay_what_is_live() -> None:
    subject = times()
    for minute in range(32):
        at = T0 + 60 * minute
        live, past = [at + second for second in range(60)], [at - 86400.0 + second for second in range(20)]
        report(subject, past + live, [at + 60.0] * 80)
        subject.pass_edge(at + 90)
    assert subject.of("s").delay_s == 0.0


def test_a_delay_beyond_the_limit_is_not_followed() -> None:
    assert rows(times(max_delay_s=1000), 6, period=300, late=2000).delay_s == 0.0
    assert rows(times(max_delay_s=3000), 6, period=300, late=2000).delay_s == 2220.0


def test_a_delay_shrinks_by_a_tenth_of_the_time_that_passes() -> None:
    subject = times(bucket_s=300)
    rows(subject, 6, period=300, late=3600)
    assert subject.of("s").delay_s == 3600.0
    start = T0 + 300 * 50
    for number in range(40):
        report(subject, [start + 300 * number] * 3, [start + 300 * number + 301] * 3)
        subject.pass_edge(start + 300 * number + 330)
    after = subject.of("s").delay_s
    assert 3600.0 - 0.1 * 300 * 40 <= after < 3600.0
    for number in range(40, 400):
        report(subject, [start + 300 * number] * 3, [start + 300 * number + 301] * 3)
        subject.pass_edge(start + 300 * number + 330)
    assert subject.of("s").delay_s == 0.0


def test_records_at_odd_seconds_are_moments() -> None:
    subject = times()
    for number in range(6):
        start = T0 + 300 * number
        report(subject, [start + 0.25, start + 7.5], [start + 600.0, start + 601.0])
        subject.pass_edge(start + 630)
    assert subject.of("s").duration_s == 0.0


def test_records_that_come_before_their_period_is_over_are_moments() -> None:
    subject = times()
    for number in range(6):  # a job that calls every ten minutes
        report(subject, [T0 + 600 * number], [T0 + 600 * number + 2])
        subject.pass_edge(T0 + 600 * number + 90)
    assert subject.of("s") == ON_TIME


def test_portions_do_not_matter() -> None:
    whole, cut = times(), times()
    for number in range(5):
        start, received = [T0 + 300.0 * number + second for second in range(10)], [T0 + 300.0 * number + 400] * 10
        report(whole, start, received)
        for at in range(10):
            report(cut, start[at : at + 1], received[at : at + 1])
        whole.pass_edge(T0 + 300 * number + 430)
        cut.pass_edge(T0 + 300 * number + 430)
    assert whole.dump() == cut.dump()
    assert whole.of("s").delay_s > 0
