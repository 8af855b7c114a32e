"""Simulated spend, minute by minute: LLM traffic of many tags, each once without and once with an incident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A Monday, midnight UTC.
START = 1_740_960_000
WARMUP_DAYS, DAYS, DAY_MIN = 21, 49, 1440
FIRST_MIN, END_MIN = WARMUP_DAYS * DAY_MIN, DAYS * DAY_MIN
ARCHETYPES = ("high", "medium", "sparse", "batch", "new")
_SHARES = (0.25, 0.30, 0.20, 0.10, 0.15)
HIGH, MEDIUM, SPARSE, BATCH, NEW = range(5)
INCIDENTS = ("loop", "leak", "autoscale", "bloat", "price", "creep")
LOOP, LEAK, AUTOSCALE, BLOAT, PRICE, CREEP = range(6)
#: Requests per minute while active, and dollars per request: ranges, log-uniform.
_RATES = ((20.0, 200.0), (1.0, 20.0), (1.0, 8.0), (30.0, 300.0), (2.0, 50.0))
_UNITS = ((0.002, 0.02), (0.003, 0.03), (0.005, 0.05), (0.001, 0.01), (0.003, 0.03))
#: Per minute: shape of the gamma that mixes the Poisson; squared coefficient of variation of a request's dollars.
_MIX_SHAPE, _UNIT_CV2 = 4.0, 1.3**2
_UNIT_DRIFT_SD, _DAY_SD, _OU_SD, _OU_MIN, _GRID_MIN = 0.02, 0.15, 0.25, 240.0, 15
_BURSTS_PER_DAY, _LAUNCH_SHARE = 10 / 28, 0.6
_SESSIONS_PER_DAY, _SESSION_MIN = (3.0, 12.0), 25.0


@dataclass(frozen=True)
class Day:
    """One day; arrays of shape (1440, columns). Columns 2i and 2i + 1 are series i without and with its incident."""

    number: int
    cost: Floats
    requests: Floats
    #: Dollars that the incident added.
    excess: Floats


class Traffic:
    """`series` tags, the youngest last; the same seed gives the same traffic. Minutes count from START."""

    def __init__(self, series: int, seed: int) -> None:
        self._rng = rng = np.random.default_rng(seed)
        self.series = series
        kind = rng.choice(5, series, p=_SHARES)
        born = np.where(kind == NEW, 60 * rng.integers(24 * WARMUP_DAYS, 24 * (WARMUP_DAYS + 14), series), 0)
        order = np.argsort(born, kind="stable")
        #: Index into ARCHETYPES, and minute of birth, of each series.
        self.kind: Ints = kind[order]
        self.born: Ints = born[order]
        low, high = np.log(np.array(_RATES)[self.kind]).T
        self._rate = np.exp(rng.uniform(low, high))
        low, high = np.log(np.array(_UNITS)[self.kind]).T
        self._unit = np.exp(rng.uniform(low, high))
        self._amplitude, self._peak_h = rng.uniform(0.3, 0.9, series), rng.uniform(10, 18, series)
        self._weekend = rng.uniform(0.2, 1.0, series)
        self._sessions = rng.uniform(*_SESSIONS_PER_DAY, series)
        self._batch_h, self._batch_min = rng.uniform(0, 5, series), rng.uniform(60, 180, series)
        self._ou = _OU_SD * rng.standard_normal(series)
        self._drift = np.zeros(series)
        self._session_left = np.zeros(series, np.int64)
        self._launches()
        self._incidents()

    def _launches(self) -> None:
        """A launch is for good: a factor reached over some hours. -1: none."""
        rng, n = self._rng, self.series
        at = rng.integers(0, END_MIN, n)
        #: Minute at which the launch of each series begins.
        self.launch: Ints = np.where((rng.random(n) < _LAUNCH_SHARE) & (at > self.born + DAY_MIN), at, -1)
        self._launch_min, self._launch_factor = rng.uniform(60, 720, n), rng.uniform(1.3, 2.5, n)

    def _incidents(self) -> None:
        """One incident per series, in equal parts of the six types; clear of the launch's first three days."""
        rng, n = self._rng, self.series
        #: Index into INCIDENTS of each series.
        self.incident: Ints = rng.permutation(np.arange(n) % len(INCIDENTS))
        self._growth_min = rng.uniform(120, 480, n)
        minutes = np.stack(
            [
                rng.uniform(30, 360, n),
                rng.uniform(240, 1200, n),
                self._growth_min + 720,
                np.full(n, 3.0 * DAY_MIN),
                np.full(n, 5.0 * DAY_MIN),
                np.full(n, float(END_MIN)),
            ]
        )[self.incident, np.arange(n)].astype(np.int64)
        # A new tag has lived for a day at least; a leaked key is used first between 22 and 4 o'clock.
        earliest = np.maximum(FIRST_MIN, self.born + DAY_MIN)
        start = rng.integers(earliest, np.maximum(earliest + 1, END_MIN - minutes))
        night = start // DAY_MIN * DAY_MIN + rng.integers(22 * 60, 28 * 60, n)
        start = np.where(self.incident == LEAK, np.minimum(night, END_MIN - minutes), start)
        start = np.where(self.incident == CREEP, earliest, start)
        #: First minute of the incident, and the one after its last.
        self.start: Ints = start
        self.end: Ints = np.minimum(start + minutes, END_MIN)
        clash = (self.launch >= 0) & (self.launch < self.end) & (self.launch + 3 * DAY_MIN > start)
        # Rather than moving incidents about, such launches do not happen, in both columns.
        self.launch = np.where(clash & (self.incident != CREEP), -1, self.launch)
        self._size = np.stack(
            [
                np.exp(rng.uniform(np.log(5), np.log(50), n)),
                rng.uniform(1, 5, n),
                np.full(n, 10.0),
                np.full(n, 2.0),
                rng.uniform(1.3, 3.0, n),
                np.full(n, 1.03),
            ]
        )[self.incident, np.arange(n)]
        self._model_mix = rng.uniform(1, 4, n)

    def days(self) -> Iterator[Day]:
        """Every day once, in order."""
        for day in range(DAYS):
            rate = self._organic(day)
            mixed = rate * self._rng.gamma(_MIX_SHAPE, 1 / _MIX_SHAPE, rate.shape)
            alive = day * DAY_MIN + np.arange(DAY_MIN)[:, None] >= self.born
            requests = self._rng.poisson(np.where(alive, mixed, 0.0)).astype(np.float64)
            unit = self._units()
            cost = unit * self._dollars(requests)
            yield self._with_incident(day, rate, unit, requests, cost)

    def _dollars(self, requests: Floats) -> Floats:
        """Sum of the dollars of that many requests of mean 1."""
        return _UNIT_CV2 * self._rng.standard_gamma(requests / _UNIT_CV2)

    def _units(self) -> Floats:
        before = self._drift
        self._drift = before + _UNIT_DRIFT_SD * self._rng.standard_normal(self.series)
        at = np.arange(DAY_MIN)[:, None] / DAY_MIN
        return np.asarray(self._unit * np.exp(before + at * (self._drift - before)))

    def _organic(self, day: int) -> Floats:
        """Requests per minute that are nobody's fault, shape (1440, series)."""
        rng, n = self._rng, self.series
        minute = np.arange(DAY_MIN)[:, None]
        daily = 1 + self._amplitude * np.cos(2 * np.pi * (minute / 60 - self._peak_h) / 24)
        rate = self._rate * daily * np.where(day % 7 >= 5, self._weekend, 1.0)
        sparse, batch = self.kind == SPARSE, self.kind == BATCH
        rate[:, sparse] = (self._rate * self._in_session(daily / DAY_MIN))[:, sparse]
        begin = 60 * self._batch_h + 10 * rng.standard_normal(n)
        length = self._batch_min * np.exp(0.2 * rng.standard_normal(n))
        rate[:, batch] = (self._rate * ((minute >= begin) & (minute < begin + length)))[:, batch]
        rate *= np.exp(_DAY_SD * rng.standard_normal(n)) * np.exp(self._noise()) * self._bursts()
        since = day * DAY_MIN + minute - self.launch
        ramp = np.clip(since / self._launch_min, 0.0, 1.0)
        rate *= np.where(self.launch >= 0, 1 + (self._launch_factor - 1) * ramp, 1.0)
        return np.asarray(rate)

    def _in_session(self, daily: Floats) -> Floats:
        """1 where a session runs."""
        rng = self._rng
        begins = rng.random(daily.shape) < self._sessions * daily
        lengths = np.ceil(rng.exponential(_SESSION_MIN, daily.shape)).astype(np.int64)
        running = np.zeros(daily.shape)
        left = self._session_left
        for minute in range(DAY_MIN):
            left = np.maximum(left - 1, np.where(begins[minute], lengths[minute], 0))
            running[minute] = left > 0
        self._session_left = left
        return running

    def _noise(self) -> Floats:
        """Ornstein-Uhlenbeck noise of four hours, on a grid of 15 minutes."""
        keep = np.exp(-_GRID_MIN / _OU_MIN)
        steps = DAY_MIN // _GRID_MIN
        grid = np.empty((steps + 1, self.series))
        grid[0] = self._ou
        for step in range(steps):
            grid[step + 1] = keep * grid[step] + _OU_SD * np.sqrt(1 - keep**2) * self._rng.standard_normal(self.series)
        self._ou = grid[-1].copy()
        at, part = np.divmod(np.arange(DAY_MIN), _GRID_MIN)
        weight = (part / _GRID_MIN)[:, None]
        return np.asarray((1 - weight) * grid[at] + weight * grid[at + 1])

    def _bursts(self) -> Floats:
        """Factors of legitimate bursts."""
        factor = np.ones((DAY_MIN, self.series))
        for at in range(self.series):
            for _ in range(self._rng.poisson(_BURSTS_PER_DAY)):
                begin, length = self._rng.integers(0, DAY_MIN), self._rng.integers(2, 11)
                factor[begin : begin + length, at] *= self._rng.uniform(2, 5)
        return factor

    def _with_incident(self, day: int, rate: Floats, unit: Floats, requests: Floats, cost: Floats) -> Day:
        minute = (day * DAY_MIN + np.arange(DAY_MIN))[:, None]
        active = (minute >= self.start) & (minute < self.end)
        more = np.zeros_like(cost)
        extra = np.zeros_like(cost)
        for at in np.flatnonzero(active.any(axis=0)).tolist():
            on, kind, size = active[:, at], self.incident[at], self._size[at]
            if kind in (BLOAT, PRICE):
                more[on, at] = (size - 1) * cost[on, at]
                continue
            hours = (minute[on, 0] - self.start[at]) / 60
            added = self._added_rate(at, hours, rate[on, at], requests[:, at].mean())
            count = self._rng.poisson(added * self._rng.gamma(_MIX_SHAPE, 1 / _MIX_SHAPE, added.shape))
            mix = self._model_mix[at] if kind == LEAK else 1.0
            extra[on, at] = count
            more[on, at] = mix * unit[on, at] * self._dollars(count.astype(np.float64))
        pair = (DAY_MIN, 2 * self.series)
        return Day(
            day,
            np.stack([cost, cost + more], axis=2).reshape(pair),
            np.stack([requests, requests + extra], axis=2).reshape(pair),
            more,
        )

    def _added_rate(self, at: int, hours: Floats, rate: Floats, day_mean: float) -> Floats:
        """Requests per minute that the incident adds to series `at`."""
        kind, size = self.incident[at], self._size[at]
        if kind == LEAK:
            return np.full(hours.shape, size * max(day_mean, 0.01))
        if kind == CREEP:
            return np.asarray(rate * (size ** (hours / 24) - 1))
        # A loop or a scaler does not wait for people: where they rest it works from the mean of the day.
        base = np.maximum(rate, day_mean)
        if kind == AUTOSCALE:
            return np.asarray(base * (size ** np.minimum(1.0, 60 * hours / self._growth_min[at]) - 1))
        return np.asarray(base * (size - 1))
