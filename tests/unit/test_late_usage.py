"""When late usage counts: by its reading for an hour, by its own time after that, and never before it began."""

from __future__ import annotations

import pytest

from curb.connectors.tokens.late_usage import counts_at, is_pause

READ = 1_750_000_000.0


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (READ - 420, READ - 360, READ),
        (READ - 30, READ + 30, READ),  # a minute that is not over
        (READ - 3659, READ - 3599, READ),
        (READ - 3660, READ - 3600, READ - 3660),
        (READ - 86_400, READ - 86_340, READ - 86_400),
        (READ - 7000, READ - 3400, READ),  # an hour, the end of which is news
        (READ + 5, READ + 65, READ + 5),  # a clock that is ahead is judged at the door
    ],
)
def test_where_it_counts(start: float, end: float, expected: float) -> None:
    assert counts_at(start, end, READ) == expected


@pytest.mark.parametrize(
    ("seconds", "poll_interval_s", "pause"),
    [(60, 60, False), (600, 60, False), (601, 60, True), (1800, 900, False), (1801, 900, True)],
)
def test_a_pause_is_ten_minutes_or_two_polls(seconds: float, poll_interval_s: float, pause: bool) -> None:
    assert is_pause(seconds, poll_interval_s) is pause
