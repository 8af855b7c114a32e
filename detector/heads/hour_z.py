"""The second opinion: how many standard deviations of an hour's dollars the last hour is over its expectation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MEMORY_HOURS, MIN_HOURS, CLIP_VARIANCES = 504, 72, 36.0
WINDOW_MIN = 60.0
#: No hour is known better than this, whatever its past: a share of the mean and some cents.
MIN_SD_SHARE, MIN_SD_USD = 0.05, 0.10
Z_MAX = 50.0


class Hourly:
    """z of the exponentially weighted last hour, in raw dollars."""

    def __init__(self, min_excess_usd: float, capacity: int) -> None:
        self._min_excess_usd = min_excess_usd
        self.columns = Columns(
            {"actual": Column(), "expected": Column(), "variance": Column(), "hours": Column()},
            capacity,
        )

    def add(self, usd_per_min: Floats, expected_usd_per_min: Floats, step_min: float) -> None:
        """One step into the last hour."""
        share = min(1.0, step_min / WINDOW_MIN)
        for name, value in (("actual", usd_per_min), ("expected", expected_usd_per_min)):
            held = self.columns[name]
            held += share * (value - held)

    def forget(self, index: NDArray[np.intp]) -> None:
        """An incident is over: what it burnt is taken out."""
        actual, expected = self.columns["actual"], self.columns["expected"]
        actual[index] = np.minimum(actual[index], expected[index])

    def decay(self, steps: int, step_min: float) -> None:
        """Steps of which nothing is known."""
        keep = (1 - min(1.0, step_min / WINDOW_MIN)) ** steps
        for name in ("actual", "expected"):
            held = self.columns[name]
            held *= keep

    def correct(self, index: NDArray[np.intp], usd_per_min: Floats, steps_ago: int, step_min: float) -> None:
        """Late dollars of a step that ended `steps_ago` steps before the newest one."""
        if steps_ago * step_min >= WINDOW_MIN:
            return
        share = min(1.0, step_min / WINDOW_MIN)
        np.add.at(self.columns["actual"], index, usd_per_min * share * (1 - share) ** steps_ago)

    def z(self, mean_usd_per_min: Floats) -> Floats:
        """z now; 0 in the first 72 hours and when the excess is below the floor."""
        excess = (self.columns["actual"] - self.columns["expected"]) * WINDOW_MIN
        least = np.maximum(MIN_SD_SHARE * 60 * mean_usd_per_min, MIN_SD_USD)
        z = np.minimum(excess / np.maximum(np.sqrt(self.columns["variance"]), least), Z_MAX)
        return np.where((self.columns["hours"] > MIN_HOURS) & (excess > self._min_excess_usd), z, 0.0)

    def learn_hour(self, usd: Floats, expected_usd: Floats, taught: Bools) -> None:
        """A closed hour of the series in `taught`."""
        variance, hours = self.columns["variance"], self.columns["hours"]
        hours += taught
        square = (usd - expected_usd) ** 2
        clipped = np.where(hours > MIN_HOURS, np.minimum(square, CLIP_VARIANCES * variance), square)
        variance += np.where(taught, (clipped - variance) / np.clip(hours, 1, MEMORY_HOURS), 0.0)
