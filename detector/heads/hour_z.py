"""The second opinion: how many standard deviations of an hour's dollars the last hour is over its expectation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats


class Params(NamedTuple):
    #: Hours of the variance: three weeks. By hand.
    memory_hours: int = 504
    #: Hours without a z: three days. By hand.
    min_hours: int = 72
    #: An hour counts up to this multiple of the variance, which is six standard deviations. By hand.
    clip_variances: float = 36.0
    #: Minutes of the window: an hour, of which the variance is known. By definition.
    window_min: float = 60.0
    #: Least standard deviation, as a share of the mean hour. By hand.
    min_sd_share: float = 0.05
    #: Least standard deviation of an hour, dollars. By hand.
    min_sd_usd: float = 0.10
    #: Greatest z: beyond it the number means nothing. By hand.
    z_max: float = 50.0


P = Params()


class Hourly:
    """z of the exponentially weighted last hour, in raw dollars.

    State: the last hour, actual and expected, and the variance of closed hours.
    Update: hours with an open alert are left out, others are clipped at six standard deviations.
    Score: excess over the standard deviation, 0 in the first three days.
    Source: an exponentially weighted variance.
    """

    def __init__(self, min_excess_usd: float, capacity: int) -> None:
        self._min_excess_usd = min_excess_usd
        self.columns = Columns(
            {"actual": Column(), "expected": Column(), "variance": Column(), "hours": Column()},
            capacity,
        )

    def add(self, usd_per_min: Floats, expected_usd_per_min: Floats, step_min: float) -> None:
        """One step into the last hour."""
        share = min(1.0, step_min / P.window_min)
        for name, value in (("actual", usd_per_min), ("expected", expected_usd_per_min)):
            held = self.columns[name]
            held += share * (value - held)

    def forget(self, index: NDArray[np.intp]) -> None:
        """An incident is over: what it burnt is taken out."""
        actual, expected = self.columns["actual"], self.columns["expected"]
        actual[index] = np.minimum(actual[index], expected[index])

    def decay(self, steps: int, step_min: float) -> None:
        """Steps of which nothing is known."""
        keep = (1 - min(1.0, step_min / P.window_min)) ** steps
        for name in ("actual", "expected"):
            held = self.columns[name]
            held *= keep

    def correct(self, index: NDArray[np.intp], usd_per_min: Floats, steps_ago: int, step_min: float) -> None:
        """Late dollars of a step that ended `steps_ago` steps before the newest one."""
        if steps_ago * step_min >= P.window_min:
            return
        share = min(1.0, step_min / P.window_min)
        np.add.at(self.columns["actual"], index, usd_per_min * share * (1 - share) ** steps_ago)

    def z(self, mean_usd_per_min: Floats) -> Floats:
        """z now; 0 in the first 72 hours and when the excess is below the floor."""
        excess = (self.columns["actual"] - self.columns["expected"]) * P.window_min
        least = np.maximum(P.min_sd_share * 60 * mean_usd_per_min, P.min_sd_usd)
        z = np.minimum(excess / np.maximum(np.sqrt(self.columns["variance"]), least), P.z_max)
        return np.where((self.columns["hours"] > P.min_hours) & (excess > self._min_excess_usd), z, 0.0)

    def learn_hour(self, usd: Floats, expected_usd: Floats, taught: Bools) -> None:
        """A closed hour of the series in `taught`."""
        variance, hours = self.columns["variance"], self.columns["hours"]
        hours += taught
        square = (usd - expected_usd) ** 2
        clipped = np.where(hours > P.min_hours, np.minimum(square, P.clip_variances * variance), square)
        variance += np.where(taught, (clipped - variance) / np.clip(hours, 1, P.memory_hours), 0.0)
