"""Event recall, delay, dollars leaked and false alarms of any score on the simulated spend, at any threshold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.simulator_traffic import DAY_MIN, END_MIN, FIRST_MIN, INCIDENTS, Day, Traffic

Floats = NDArray[np.float64]

#: Alarms less than six hours apart are one. After a launch, alarms of three days are the launch's.
EPISODE_MIN, LAUNCH_MIN = 360, 3 * DAY_MIN
#: Clean time is kept as the maximum of blocks of ten minutes.
_BLOCK_MIN = 10
_BLOCKS, _EPISODE_BLOCKS = (END_MIN - FIRST_MIN) // _BLOCK_MIN, EPISODE_MIN // _BLOCK_MIN
#: Incidents that would cost less are not counted.
LEAST_USD = 25.0
#: The types of the macro average; creep has a rule of its own.
FAST = INCIDENTS[:5]
_MONTH_MIN = 28 * DAY_MIN


@dataclass(frozen=True)
class Result:
    """One method at one threshold."""

    threshold: float
    #: False alarms per series and month of 28 days, and share of launches with an alarm.
    false_alarms: float
    launches: float
    #: By type of incident: how many, share caught, median minutes, share of dollars leaked.
    count: dict[str, int]
    recall: dict[str, float]
    minutes: dict[str, float]
    leak: dict[str, float]

    @property
    def macro(self) -> tuple[float, float]:
        """Mean recall and leak over the five fast types."""
        return _mean([self.recall[kind] for kind in FAST]), _mean([self.leak[kind] for kind in FAST])


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


@dataclass
class Ledger:
    """Scores of one method, kept as far as they decide: clean series in blocks, incidents minute by minute."""

    traffic: Traffic
    _clean: NDArray[np.float32] = field(init=False)
    _during: list[list[NDArray[np.float32]]] = field(init=False)

    def __post_init__(self) -> None:
        self._clean = np.full((_BLOCKS, self.traffic.series), -np.inf, np.float32)
        self._during = [[] for _ in range(self.traffic.series)]

    def add(self, day: int, score: NDArray[np.float32]) -> None:
        """Scores of a day, shape (1440, columns); NaN never alarms."""
        first = day * DAY_MIN
        if first < FIRST_MIN:
            return
        score = np.where(np.isnan(score), np.float32(-np.inf), score)
        at = (first - FIRST_MIN) // _BLOCK_MIN
        blocks = score[:, 0::2].reshape(-1, _BLOCK_MIN, self.traffic.series).max(axis=1)
        self._clean[at : at + len(blocks)] = blocks
        minute = first + np.arange(DAY_MIN)
        for i, (start, end) in enumerate(zip(self.traffic.start.tolist(), self.traffic.end.tolist(), strict=True)):
            if start < first + DAY_MIN and end > first:
                self._during[i].append(score[(minute >= start) & (minute < end), 2 * i + 1])

    def result(self, threshold: float, excess: Excess) -> Result:
        """How the method does when it alarms at `threshold`."""
        count, recall, minutes, leak = {}, {}, {}, {}
        caught_at = np.array([_first(np.concatenate(scores), threshold) for scores in self._during])
        for kind, name in enumerate(INCIDENTS):
            chosen = (self.traffic.incident == kind) & (excess.total >= LEAST_USD)
            caught = chosen & (caught_at >= 0)
            count[name] = int(chosen.sum())
            recall[name] = float(caught[chosen].mean()) if chosen.any() else float("nan")
            minutes[name] = float(np.median(caught_at[caught] + 1)) if caught.any() else float("nan")
            lost = sum(excess.until(i, int(caught_at[i])) for i in np.flatnonzero(chosen).tolist())
            leak[name] = lost / float(excess.total[chosen].sum()) if chosen.any() else float("nan")
        alarms, launches = self._episodes(threshold)
        return Result(threshold, alarms, launches, count, recall, minutes, leak)

    def threshold(self, false_alarms: float) -> float:
        """The lowest threshold at which false alarms are at most so many per series and month."""
        hours = self._clean[: _BLOCKS // _EPISODE_BLOCKS * _EPISODE_BLOCKS]
        peaks = np.unique(hours.reshape(-1, _EPISODE_BLOCKS, self.traffic.series).max(axis=1))
        low, high = 0, len(peaks)
        while low < high:
            middle = (low + high) // 2
            if self._episodes(float(np.nextafter(peaks[middle], np.float32(np.inf))))[0] <= false_alarms:
                high = middle
            else:
                low = middle + 1
        return float(np.nextafter(peaks[min(low, len(peaks) - 1)], np.float32(np.inf)))

    def _episodes(self, threshold: float) -> tuple[float, float]:
        """False alarms per series and month, and the share of launches that alarmed."""
        traffic = self.traffic
        alarms = begins(self._clean >= np.float32(threshold))
        minute = FIRST_MIN + _BLOCK_MIN * np.arange(_BLOCKS)[:, None]
        launch = traffic.launch
        launched = (launch >= 0) & (minute >= launch) & (minute < launch + LAUNCH_MIN)
        alive = minute >= traffic.born
        months = _BLOCK_MIN * (alive & ~launched).sum() / _MONTH_MIN
        scored = launch >= FIRST_MIN
        flagged = np.asarray(((self._clean >= np.float32(threshold)) & launched).any(axis=0))
        return float((alarms & ~launched).sum() / months), float(flagged[scored].mean()) if scored.any() else 0.0


def begins(alarm: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an episode begins, shape (blocks, series): no alarm in the six hours before."""
    at = np.arange(1, len(alarm) + 1)[:, None]
    last = np.maximum.accumulate(np.where(alarm, at, -_EPISODE_BLOCKS), axis=0)
    before = np.vstack([np.full((1, alarm.shape[1]), -_EPISODE_BLOCKS), last[:-1]])
    return np.asarray(alarm & (at - before > _EPISODE_BLOCKS))


def _first(score: NDArray[np.float32], threshold: float) -> int:
    """Index of the first score of at least `threshold`, -1 without."""
    above = score >= np.float32(threshold)
    return int(above.argmax()) if above.any() else -1


class Excess:
    """Dollars that the incident of each series adds, minute by minute."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._during: list[list[Floats]] = [[] for _ in range(traffic.series)]
        self.total = np.zeros(traffic.series)

    def add(self, day: Day) -> None:
        """One day."""
        self.total += day.excess.sum(axis=0)
        minute = day.number * DAY_MIN + np.arange(DAY_MIN)
        for i, (start, end) in enumerate(zip(self._traffic.start.tolist(), self._traffic.end.tolist(), strict=True)):
            if start <= minute[-1] and end > minute[0]:
                self._during[i].append(day.excess[(minute >= start) & (minute < end), i])

    def until(self, i: int, minute: int) -> float:
        """Dollars of series `i` up to and with a minute of its incident; all of them for -1."""
        if minute < 0:
            return float(self.total[i])
        return float(np.concatenate(self._during[i])[: minute + 1].sum())
