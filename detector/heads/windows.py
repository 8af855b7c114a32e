"""Actual and expected dollars of every series over five windows, as exponentially weighted rates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns, Floats

#: Minutes: short windows for loops, long ones for leaks. By hand.
WINDOWS_MIN = (5, 30, 120, 480, 1440)
WINDOW_NAMES = ("5-minute", "30-minute", "2-hour", "8-hour", "24-hour")


def window_name(window: int, step_s: int) -> str:
    """What a window is called; none is shorter than a bucket of `step_s` seconds."""
    if step_s <= WINDOWS_MIN[window] * 60:
        return WINDOW_NAMES[window]
    return f"{step_s / 3600:g}-hour" if step_s >= 3600 else f"{step_s / 60:g}-minute"


class Windows:
    """Dollars per minute, shape (windows, series). A window shorter than the step is the step itself.

    State: actual and expected dollars a minute, for each window.
    Update: an exponential average with the length of the window.
    Score: the two rates.
    Source: exponentially weighted moving averages.
    """

    def __init__(self, step_min: float, capacity: int) -> None:
        self.columns = Columns(
            {"actual": Column((len(WINDOWS_MIN),)), "expected": Column((len(WINDOWS_MIN),))},
            capacity,
        )
        self._step_min = step_min
        #: Effective lengths in minutes and the weight of one step, shape (windows, 1).
        self.minutes = np.maximum(np.array(WINDOWS_MIN, np.float64), step_min)[:, None]
        self._share = step_min / self.minutes

    @property
    def actual(self) -> Floats:
        """Dollars per minute spent. Refunds may make it negative."""
        return self.columns["actual"]

    @property
    def expected(self) -> Floats:
        """Dollars per minute expected."""
        return self.columns["expected"]

    def add(self, usd_per_min: Floats, expected_usd_per_min: Floats) -> None:
        """One step, shapes (series,)."""
        actual, expected = self.actual, self.expected
        actual += self._share * (usd_per_min - actual)
        expected += self._share * (expected_usd_per_min - expected)

    def forget(self, index: NDArray[np.intp]) -> None:
        """An incident is over: what it burnt is taken out, so that long windows do not echo it."""
        actual, expected = self.actual, self.expected
        actual[:, index] = np.minimum(actual[:, index], expected[:, index])

    def decay(self, steps: int) -> None:
        """Steps of which nothing is known: both sides fade alike, so that silence is neither a drop nor an excess."""
        actual, expected = self.actual, self.expected
        keep = (1 - self._share) ** steps
        actual *= keep
        expected *= keep

    def correct(self, index: NDArray[np.intp], usd_per_min: Floats, steps_ago: int) -> None:
        """Late dollars of the step `steps_ago` before the newest one, faded by age; none into windows that are over."""
        share = self._share[:, 0] * (1 - self._share[:, 0]) ** steps_ago
        share = np.where(steps_ago * self._step_min < self.minutes[:, 0], share, 0.0)
        np.add.at(self.actual.T, index, usd_per_min[:, None] * share)
