"""Lays the buckets of a detector on the rows that it gets.

Buckets of a minute cut rows about hours into sixty pieces that are judged in the hour after, when they are known; rows
that begin at 24 minutes past an hour would be cut between two buckets of an hour. So where all rows are about periods,
the buckets are these periods, and they are waited for as long as the rows usually come late, if that is less than an
hour or their length. A back-test and a replay look at the first rows of the recording, a daemon at the latest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from curb.detector.settings import DetectorSettings
from curb.detector.state.columns import Floats
from curb.stream.records.spend import SpendRecord
from curb.stream.time import HOUR_S, grid_of

#: Shortest step of rows, seconds; what repeats faster are calls, whose grid is chance. Chosen by hand.
_SHORTEST_STEP_S = 60
#: Share of rows that are late from which all are waited for: else it is corrections that come late. By hand.
_MOST_LATE = 0.5
#: Shares of rows that are waited for; the second where it takes at most `_LONGER` times as long. As
#: `detector.rollup.timing` decides for sources.
_WAIT, _WAIT_LONGER, _LONGER = 0.98, 0.995, 1.25
#: Periods of rows, and receipts, from which a daemon takes their grid. By hand: as many as the delay of a source needs.
_FEWEST_PERIODS = 3
#: Share of a period after which a row about it may come; clocks differ a little. As `detector.rollup.timing` has it.
_PERIOD_PASSED = 0.9
#: Share of the rows that make a grid, and with which a daemon stays on it; rows elsewhere that are too few to leave it,
#: whatever their share. By hand: a stray row, such as a single one of years ago, moves nothing.
_MOST_ON, _FEW_OFF = 0.95, 20
#: Steps of rows between which strays may lie, seconds: what divides an hour.
_STEPS = tuple(step for step in range(HOUR_S, _SHORTEST_STEP_S - 1, -1) if HOUR_S % step == 0)
#: A wait is rounded up to whole minutes, seconds; the beginning of buckets down.
_MINUTE_S = 60


class Grid(NamedTuple):
    """Where the rows of a stream begin, and when they come, seconds."""

    #: Length of a row.
    step_s: int
    #: From a multiple of the step to the starts of the rows.
    phase_s: int = 0
    #: From the end of a row to its receipt; 0 where most come at once. More than a step and an hour is not usual.
    late_s: float = 0.0

    def settings(self, settings: DetectorSettings, bucket_s: int = 0) -> DetectorSettings:
        """The settings with buckets that begin where the rows do, and the grace that the rows need.

        A bucket is as long as a row, or as the settings say if that is longer; `bucket_s` is another length.
        """
        bucket_s = bucket_s or max(self.step_s, settings.bucket_s)
        grace_s = settings.grace_s
        if bucket_s >= self.step_s and self.late_s >= grace_s:  # more, as what comes when a bucket closes is late
            grace_s = (self.late_s // _MINUTE_S + 1) * _MINUTE_S
        # On whole minutes, as sums by the minute begin; the seconds are waited for.
        phase_s = self.phase_s % bucket_s
        seconds = phase_s % _MINUTE_S
        buckets = {"bucket_s": bucket_s, "phase_s": phase_s - seconds, "grace_s": grace_s + seconds}
        return settings.model_validate({**settings.model_dump(), **buckets})


def grid(records: Iterable[SpendRecord]) -> Grid:
    """The grid of some records."""
    times = [(record.charge_period_start, record.received_at) for record in records]
    return grid_of_times(np.array(times).T if times else np.empty((2, 0)))


def grid_of_times(times: Floats) -> Grid:
    """The grid of rows by their starts and receipts. A receipt before the end of a row says nothing of its delay."""
    starts, received = times
    on = grid_of(np.unique(starts).tolist())
    step = max(10, math.gcd(HOUR_S, on)) if on else 60
    if on and step >= _SHORTEST_STEP_S:
        return Grid(step, int(starts[0]) % step, _usual_wait(received - starts - step, step))
    return _grid_of_most(times) or Grid(step)


def _grid_of_most(times: Floats) -> Grid | None:
    """The widest grid of rows about periods, a few of which lie elsewhere."""
    starts, received = times
    for step in _STEPS if len(starts) else ():
        phases, rows = np.unique(starts % step, return_counts=True)
        found = Grid(step, int(phases[rows.argmax()]))
        if phases[rows.argmax()] % 1 == 0 and rows.max() >= _MOST_ON * len(starts) and about_periods(times, found):
            on = starts % step == found.phase_s
            return found._replace(late_s=_usual_wait((received - starts)[on] - step, step))
    return None


def about_periods(times: Floats, grid: Grid) -> bool:
    """Whether these are rows about the periods of a grid: they come when their period is over, which calls do not."""
    starts, received = times
    if len(np.unique(starts)) < _FEWEST_PERIODS or len(np.unique(received // grid.step_s)) < _FEWEST_PERIODS:
        return False
    return bool(np.quantile(received - starts, 0.05, method="lower") >= _PERIOD_PASSED * grid.step_s)


def lie_on(times: Floats, grid: Grid) -> bool:
    """Whether all but a few rows begin on a grid."""
    off = int(np.count_nonzero((times[0] - grid.phase_s) % grid.step_s))
    return off < _FEW_OFF or off <= (1 - _MOST_ON) * times.shape[1]


def _usual_wait(late: Floats, step: int) -> float:
    """Seconds in which the rows that come late as usual have come; 0 unless most rows are late."""
    usual = late[late < max(step, HOUR_S)]
    if np.count_nonzero(late > 0) < _MOST_LATE * len(late) or not len(usual):
        return 0.0
    wait, longer = map(float, np.quantile(usual, (_WAIT, _WAIT_LONGER), method="higher"))
    return longer if longer <= _LONGER * wait else wait
