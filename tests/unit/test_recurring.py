"""Bursts at the same time of day: known from the second earlier day on, unless they are far larger or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from curb.detector.heads.nightly_bursts import Recurring

STEP_MIN = 5
DAY_MIN = 1440
#: Midnight of some day, in minutes of the epoch.
T0 = 20_000 * DAY_MIN
#: (day, hour of it, hours, dollars).
Bursts = Sequence[tuple[int, float, float, float]]


def usual(bursts: Bursts, subject: Recurring | None = None) -> list[bool]:
    """Whether each burst is known at its end."""
    recurring = subject or Recurring(1)
    recurring.columns.grow(1)
    spans = [(T0 + round(DAY_MIN * day + 60 * hour), round(60 * hours), usd) for day, hour, hours, usd in bursts]
    known = []
    for minute in range(T0, spans[-1][0] + spans[-1][1], STEP_MIN):
        over = sum(usd * STEP_MIN / lasts for begin, lasts, usd in spans if begin <= minute < begin + lasts)
        recurring.follow(minute, np.array([over > 0]), np.array([over]))
        if any(minute + STEP_MIN == begin + lasts for begin, lasts, _ in spans):
            known.append(recurring.usual(0))
    return known


def test_what_came_on_two_earlier_days_is_known() -> None:
    assert usual([(day, 2 + 0.5 * (day % 3), 1, 40) for day in range(6)]) == [False, False, True, True, True, True]


def test_midnight_is_no_border() -> None:
    assert usual([(0, 23.5, 1, 40), (2, 0.25, 1, 40), (2, 23.75, 1, 40)])[-1]


@pytest.mark.parametrize(
    "last", [(3, 2, 1, 110), (3, 7, 1, 40), (12, 2, 1, 40)], ids=["far larger", "at another time", "weeks later"]
)
def test_what_is_not_the_same_is_not_known(last: tuple[int, float, float, float]) -> None:
    nights = [(day, 2.0, 1.0, 40.0) for day in range(3)]
    assert not usual([*nights, last])[-1]


def test_two_bursts_of_one_day_are_no_schedule() -> None:
    assert not usual([(0, 1, 0.5, 40), (0, 3, 0.5, 40), (1, 2, 0.5, 40)])[-1]


def test_a_day_long_trouble_teaches_nothing() -> None:
    assert not usual([(0, 2, 14, 400), (1, 2, 14, 400), (2, 2, 1, 40)])[-1]


def test_far_larger_is_said_once_it_is() -> None:
    recurring = Recurring(1)
    usual([(day, 2, 1, 40) for day in range(3)], recurring)
    # The last one goes on, at nearly the same pace.
    said = []
    for step in range(36):
        recurring.follow(T0 + 2 * DAY_MIN + 180 + STEP_MIN * step, np.array([True]), np.array([3.1]))
        said.append(recurring.usual(0))
    assert said.index(False) == 19  # $40 and 20 steps: the first over 2.5 times $40


def test_pauses_within_an_hour_belong_to_the_burst() -> None:
    twice = [(day, hour, 0.5, 20.0) for day in range(3) for hour in (2.0, 3.0)]
    subject = Recurring(1)
    assert usual(twice, subject)[-1]
    assert subject.columns["sums"][:, 0].tolist()[:3] == pytest.approx([40, 40, 0])


def test_a_gap_ends_a_burst() -> None:
    subject = Recurring(1)
    subject.columns.grow(1)
    for day in range(3):
        # The feed falls silent half an hour into each burst, for the rest of the day.
        for step in range(6):
            subject.follow(T0 + DAY_MIN * day + 120 + STEP_MIN * step, np.array([True]), np.array([5.0]))
    assert subject.usual(0)
