"""The step on which the times of periodic records lie."""

from __future__ import annotations

import pytest

from curb.stream.time import grid_of


@pytest.mark.parametrize(
    ("starts", "step"),
    [
        ([], 0),
        ([100.0], 0),
        ([100.0, 100.0], 0),
        ([1440.0, 1740.0, 2340.0], 300),
        ([3600.0, 0.0, 10_800.0], 3600),
        ([0.5, 300.0, 600.0], 0),
    ],
)
def test_the_largest_step_on_which_all_lie(starts: list[float], step: int) -> None:
    assert grid_of(starts) == step
