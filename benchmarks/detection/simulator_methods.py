"""The detectors that the simulator holds beside one another: the shipped head, parts of it, and classic rules."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.simulator_traffic import DAY_MIN, START, Day, Traffic
from curb.detector.heads.past import DollarsHead, ScoreSettings, Step
from curb.detector.incidents.incidents import AlertSettings
from curb.detector.rules.unit_cost import UnitCost
from curb.detector.state.bucket import Scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Scored = dict[str, NDArray[np.float32]]

CURB, HEAD, UNIT = "both heads", "dollars head", "unit-cost head"
#: Whichever head passes its own shipped threshold; 0 is at the threshold.
SHIPPED = "both heads, each over its threshold"
UNIT_COST_THRESHOLD, UNIT_COST_USD_PER_DAY = 4.0, 25.0
INSTANT, PAGE = "dollars head, no hold", "page lane"
Z_MINUTE, Z_SLOW, STATIC = "Gaussian z, 1 min", "Gaussian z, 5-min EW, dwell 10", "static ratio, dwell 10"
METHODS = (SHIPPED, CURB, HEAD, UNIT, INSTANT, PAGE, Z_SLOW, Z_MINUTE, STATIC)
_HOLD_MIN, _EW_MIN, _STATIC_USD, _STATIC_DAYS = 10, 5, 1.0, 7
_CALM_RATIO = 1.2


class Freeze:
    """Which series have an incident, as the detector opens and ends them at the shipped thresholds."""

    def __init__(self, columns: int) -> None:
        self._alerts = AlertSettings()
        self._firing = np.zeros(columns, np.bool_)
        self._opened_at, self._seen_at = np.full(columns, -np.inf), np.full(columns, -np.inf)
        self._quiet_s, self._calm_s = np.zeros(columns), np.zeros(columns)

    def frozen(self, at: float) -> Bools:
        """Series that do not learn at `at` (epoch seconds)."""
        return np.asarray(at - self._opened_at < self._alerts.freeze_s)

    def burning(self, scores: Scores) -> Bools:
        """Series that spend more than expected at this moment."""
        return np.asarray(scores.rate > _CALM_RATIO * scores.expected_fast + self._alerts.calm_usd_per_hour)

    def follow(self, found: Bools, calm: Bools, at: float) -> Bools:
        """Take in what a minute that closed at `at` found, of the first series; returns those whose incident ended."""
        n, alerts = len(found), self._alerts
        joins = self._firing[:n] | (at - self._seen_at[:n] <= alerts.join_s)
        self._opened_at[:n][found & ~joins] = at
        self._seen_at[:n][found] = at
        firing = self._firing[:n] | found
        self._quiet_s[:n] = np.where(firing & ~found, self._quiet_s[:n] + 60, 0.0)
        self._calm_s[:n] = np.where(firing & calm & ~found, self._calm_s[:n] + 60, 0.0)
        ends = firing & ((self._quiet_s[:n] >= alerts.quiet_s) | (self._calm_s[:n] >= alerts.calm_s))
        self._firing[:n] = firing & ~ends
        return np.asarray(ends)


class Head:
    """The shipped head over all columns at once, with its three readings."""

    def __init__(self, traffic: Traffic, settings: ScoreSettings) -> None:
        self._born = np.repeat(traffic.born, 2)
        self._head = DollarsHead(settings, 60, "UTC", len(self._born))
        self._freeze = Freeze(len(self._born))
        self._settings = settings
        self._unit = UnitCost(60, settings.hold_minutes, UNIT_COST_USD_PER_DAY, len(self._born))

    def day(self, day: Day) -> Scored:
        """Scores of every minute by method, shape (1440, columns)."""
        shape = day.cost.shape
        out = {name: np.full(shape, -np.inf, np.float32) for name in (SHIPPED, CURB, HEAD, UNIT, INSTANT, PAGE)}
        for minute in range(DAY_MIN):
            number = day.number * DAY_MIN + minute
            n = int(np.searchsorted(self._born, number, side="right"))
            if n > self._head.n:
                self._head.grow(n, START + 60 * number)
                self._unit.grow(n)
            scored = self._minute(START + 60 * number, day.cost[minute, :n], day.requests[minute, :n])
            for name, score in scored.items():
                out[name][minute, :n] = score
        return out

    def _minute(self, start: int, cost: Floats, requests: Floats) -> dict[str, Floats]:
        settings, n = self._settings, len(cost)
        frozen = self._freeze.frozen(start)[:n]
        scores = self._head.step(Step(start, cost, requests, False, frozen))
        unit = self._unit.step(start, cost, requests, frozen).notice
        burning = self._freeze.burning(scores)
        notice, page = (np.where(burning, each, -np.inf) for each in (scores.notice, scores.page))
        over = np.maximum(notice - settings.notice_threshold, page - settings.page_threshold)
        over = np.maximum(over, unit - UNIT_COST_THRESHOLD)
        ended = self._freeze.follow(over >= 0, ~burning, start + 60)
        self._head.forget(np.flatnonzero(ended))
        self._unit.forget(ended)
        now = self._head.dump()["held_score.last"][start // 60 % settings.hold_minutes]
        return {
            SHIPPED: over,
            CURB: np.maximum(notice, unit),
            HEAD: notice,
            UNIT: unit,
            INSTANT: np.where(burning, now, -np.inf),
            PAGE: page,
        }


class Rivals:
    """z of all history as River's GaussianScorer computes it, and a multiple of the last week."""

    def __init__(self, traffic: Traffic) -> None:
        columns = 2 * traffic.series
        self._born = np.repeat(traffic.born, 2)
        self._count, self._sum, self._square = np.zeros(columns), np.zeros(columns), np.zeros(columns)
        self._totals: deque[Floats] = deque(maxlen=_STATIC_DAYS)
        self._before: dict[str, Floats] = {}
        self._fast = np.zeros(columns)

    def day(self, day: Day) -> Scored:
        """Scores of every minute by method."""
        fast = self._smooth(day.cost)
        minute = day.number * DAY_MIN + np.arange(DAY_MIN)[:, None]
        alive = minute >= self._born
        mean, sd = self._history(day.cost, alive)
        known = alive & (sd > 0)
        safe = np.where(known, sd, 1.0)
        z = np.where(known, (day.cost - mean) / safe, -np.inf)
        slow = np.where(known, (fast - mean) / safe, -np.inf)
        static = self._static(day, fast, minute)
        held = {Z_MINUTE: z, Z_SLOW: self._hold(Z_SLOW, slow), STATIC: self._hold(STATIC, static)}
        return {name: score.astype(np.float32) for name, score in held.items()}

    def _smooth(self, cost: Floats) -> Floats:
        """The exponential 5-minute average, $/min."""
        out = np.empty_like(cost)
        for minute, usd in enumerate(cost):
            self._fast = self._fast + (usd - self._fast) / _EW_MIN
            out[minute] = self._fast
        return out

    def _history(self, cost: Floats, alive: Bools) -> tuple[Floats, Floats]:
        """Mean and standard deviation of everything before each minute."""
        count = self._count + np.cumsum(alive, axis=0)
        total = self._sum + np.cumsum(cost, axis=0)
        square = self._square + np.cumsum(cost**2, axis=0)
        before = np.maximum(count - alive, 1.0)
        mean = (total - cost) / before
        sd = np.sqrt(np.maximum((square - cost**2) / before - mean**2, 0.0))
        self._count, self._sum, self._square = count[-1], total[-1], square[-1]
        return mean, sd

    def _static(self, day: Day, fast: Floats, minute: NDArray[np.int64]) -> Floats:
        days = np.clip((day.number * DAY_MIN - self._born) / DAY_MIN, 0.0, _STATIC_DAYS)
        week = np.sum(self._totals, axis=0) if self._totals else np.zeros(len(self._born))
        self._totals.append(day.cost.sum(axis=0))
        mean = week / DAY_MIN / np.maximum(days, 1e-9)
        known = (mean > 0) & (5 * (fast - mean) >= _STATIC_USD) & (minute >= self._born)
        return np.where(known, fast / np.where(mean > 0, mean, 1.0), -np.inf)

    def _hold(self, name: str, score: Floats) -> Floats:
        """The least of the last ten minutes."""
        before = self._before.get(name)
        carried = np.full((_HOLD_MIN - 1, score.shape[1]), -np.inf) if before is None else before
        whole = np.concatenate([carried, score])
        self._before[name] = whole[-(_HOLD_MIN - 1) :]
        return np.asarray(np.min([whole[at : at + len(score)] for at in range(_HOLD_MIN)], axis=0))
