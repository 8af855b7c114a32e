"""How far a worker is behind, from the ends of the log that it has passed."""

from __future__ import annotations

import pytest

from curb.stream.log.protocol import TopicPartition
from curb.stream.work.lag import ReadUntil

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def test_who_keeps_up_is_not_behind() -> None:
    lag = ReadUntil()
    assert lag.lag_s(5.0) == 0.0
    lag.note(10.0, {}, {})
    assert lag.lag_s(10.5) == 0.5


def test_a_steady_stream_that_is_never_read_to_its_end_is_behind_by_its_wait() -> None:
    """A hundred messages a second, each processed two seconds after it came."""
    lag = ReadUntil()
    for second in range(1000):
        lag.note(float(second), {A: 100 * second}, {A: 100 * (second - 2)})
    assert lag.lag_s(999.0) == pytest.approx(2.0, abs=1.0)


def test_who_stands_still_is_further_and_further_behind_and_is_level_when_all_is_read() -> None:
    lag = ReadUntil()
    lag.note(0.0, {}, {})
    for second in range(1, 2000):
        lag.note(float(second), {A: 100 * second, B: 7}, {A: 0, B: 7})
    assert lag.lag_s(1999.0) == pytest.approx(1999.0, abs=1.0)
    lag.note(2000.0, {A: 200_000}, {A: 100_000})
    assert lag.lag_s(2000.0) == pytest.approx(1000.0, rel=0.02)
    lag.note(2001.0, {}, {})
    assert lag.lag_s(2001.0) == 0.0


def test_what_waited_at_the_start_counts_from_then() -> None:
    lag = ReadUntil()
    lag.note(100.0, {A: 1_000_000}, {A: 0})
    lag.note(130.0, {A: 1_000_100}, {A: 500_000})
    assert lag.lag_s(130.0) == 30.0
    lag.note(140.0, {A: 1_000_200}, {A: 1_000_000})
    assert lag.lag_s(140.0) == 40.0
    lag.note(150.0, {A: 1_000_300}, {A: 1_000_200})
    assert lag.lag_s(150.0) == 10.0


def test_the_slowest_partition_counts() -> None:
    lag = ReadUntil()
    lag.note(0.0, {}, {})
    lag.note(10.0, {A: 5, B: 5}, {A: 5, B: 1})
    lag.note(20.0, {A: 9, B: 9}, {A: 9, B: 4})
    assert lag.lag_s(20.0) == 20.0
