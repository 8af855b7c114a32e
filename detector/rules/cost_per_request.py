"""The unit-cost head: dollars per request of every series against its own past, counted in requests, not minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.heads.held_minimum import Hold
from curb.detector.heads.peaks import Peaks
from curb.detector.heads.tail import Tail
from curb.detector.state.columns import Column, Columns
from curb.stream.time import DAY_S, HOUR_S

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Memory of the fast averages, in requests; the share of it that must be filled; the least log ratio that counts.
SPANS = (150.0, 1500.0)
_FILLED, _LEAST_LOG_RATIO = 0.4, (0.18, 0.12)
#: Memory of what is normal: three days of requests, and this many at least.
_SLOW_DAYS, _SLOW_REQUESTS = 3.0, 3000.0
#: Normal is known after half a day of requests, within these limits, and half a day of time.
_KNOWN_MIN, _KNOWN_LEAST, _KNOWN_MOST, _KNOWN_DAYS = 720.0, 300.0, 3000.0, 0.5
#: A step counts up to this multiple of the normal, so that one mad request is no price; in the fast averages up to the
#: other, and in the rates up to five times themselves and some.
_CLIP, _FAST_CLIP, _RATE_CLIP, _CLIP_REQUESTS, _CLIP_USD = 2.5, 4.0, 5.0, 2.0, 0.05
_RATE_DAYS = 1.0
#: Ratios of unit costs vary less than ratios of dollars: the tail's scale is stretched so much.
_TAIL_SCALE = 0.25
_DOUBT, _DOUBT_SCORE, _DOUBT_FROM_DAYS = 0.05, 1.0, 3.0
_MONTH_MIN = 43200.0
SILENT = -9.0


@dataclass(frozen=True)
class UnitCostScores:
    """What one step says about every series; arrays of shape (N,)."""

    #: Score that held for the last ten minutes, on the scale of the dollars head; SILENT where nothing counts.
    notice: Floats
    #: Dollars per request now, of the span that says most, as a multiple of the normal; 1 where nothing is known.
    ratio: Floats
    #: Dollars per request that are normal; 0 where nothing is known.
    expected: Floats
    #: Dollars a day that the ratio costs at the rate of the last day.
    usd_per_day: Floats


class UnitCost:
    """Scores with what was known before the step, then learns from it. Pure: same steps, same scores."""

    def __init__(self, step_s: int, hold_minutes: int, floor_usd_per_day: float, capacity: int = 64) -> None:
        """`floor_usd_per_day`: a rise that costs less a day never counts."""
        self._step_s, self._step_min, self._floor_usd = step_s, step_s / 60, floor_usd_per_day
        spans = (len(SPANS),)
        self._series = Columns(
            {
                "cost": Column(spans),
                "requests": Column(spans),
                "slow_cost": Column(),
                "slow_requests": Column(),
                "usd_per_min": Column(),
                "requests_per_min": Column(),
                "age_min": Column(),
            },
            capacity,
        )
        self._tail, self._peaks = Tail(len(SPANS), capacity), Peaks(len(SPANS), capacity)
        self._held = Hold(max(1, round(hold_minutes / self._step_min)), SILENT, capacity)
        self._newest: int | None = None
        self._parts = {
            "series": self._series,
            "tail": self._tail.columns,
            "peaks": self._peaks.columns,
            "held": self._held.columns,
        }

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self._series.n

    @property
    def bytes_per_series(self) -> float:
        """Memory of one series."""
        return sum(part.bytes_per_series for part in self._parts.values())

    def grow(self, n: int) -> None:
        """Use `n` series."""
        for part in self._parts.values():
            part.grow(n)

    def step(self, start: int, cost: Floats, requests: Floats, frozen: Bools) -> UnitCostScores:
        """Score the bucket that begins at `start` (epoch seconds), then learn from it; arrays of shape (N,).

        Cost without requests, requests below zero and refunds say nothing about a request. Series in `frozen` have
        an open alert: they learn little. A gap in the feed is for the caller to leave out.
        """
        self._advance(start, frozen)
        active = (requests > 0) & (cost >= 0)
        cost, requests = np.where(active, cost, 0.0), np.where(active, requests, 0.0)
        self._add(cost, requests)
        value, raw, usd_per_day = self._channels()
        score = raw - self._peaks.penalty
        best, channel = np.maximum(score.max(axis=0), SILENT), score.argmax(axis=0)
        rows = np.arange(self.n)
        expected = self._expected()
        scores = UnitCostScores(
            notice=self._held.push(best, start // self._step_s),
            ratio=np.exp(value[channel, rows]),
            expected=expected,
            usd_per_day=usd_per_day[channel, rows],
        )
        doubted = frozen | ((best > _DOUBT_SCORE) & (self._series["age_min"] > 1440 * _DOUBT_FROM_DAYS))
        self._learn(cost, requests, expected, value, np.where(doubted, _DOUBT, 1.0))
        self._peaks.learn(raw)
        return scores

    def forget(self, which: Bools) -> None:
        """Incidents of these series are over: the fast averages are normal again."""
        cost, requests = self._series["cost"], self._series["requests"]
        cost[:, which] = (self._expected() * requests)[:, which]

    def dump(self) -> dict[str, NDArray[Any]]:
        """All state as flat arrays, for `load`: views that hold until the next change."""
        arrays = {"newest": np.array([-1 if self._newest is None else self._newest], np.int64)}
        for name, part in self._parts.items():
            arrays.update(part.dump(name))
        return arrays

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made. Raises ValueError for a state of other constants, KeyError for a foreign one."""
        for name, part in self._parts.items():
            part.load(name, arrays)
        newest = int(arrays["newest"][0])
        self._newest = None if newest < 0 else newest

    def _advance(self, start: int, frozen: Bools) -> None:
        """Close the hour and the day that ended before `start`. Both are UTC: nothing here follows the clock."""
        before, self._newest = self._newest, start
        self._peaks.discard(frozen)
        if before is None:
            return
        hours = start // HOUR_S - before // HOUR_S
        if hours > 0:
            self._tail.refresh(hours)
        if start // DAY_S > before // DAY_S:
            self._peaks.close_day(self._series["age_min"] / 1440)

    def _expected(self) -> Floats:
        requests = self._series["slow_requests"]
        return np.where(requests > 0, self._series["slow_cost"] / np.maximum(requests, 1e-9), 0.0)

    def _add(self, cost: Floats, requests: Floats) -> None:
        """The fast averages forget by requests: in a silence they stay as they are."""
        known = self._series["slow_requests"] > _KNOWN_LEAST
        cost = np.where(known, np.minimum(cost, _FAST_CLIP * self._expected() * requests), cost)
        for span, fast_cost, fast_requests in zip(SPANS, self._series["cost"], self._series["requests"], strict=True):
            keep = np.exp(-requests / span)
            # A step of many requests weighs no more than the span it replaces.
            worth = np.where(requests > 0, span * (1 - keep) / np.maximum(requests, 1e-9), 0.0)
            fast_cost[...] = keep * fast_cost + worth * cost
            fast_requests[...] = keep * fast_requests + worth * requests

    def _channels(self) -> tuple[Floats, Floats, Floats]:
        """Log ratio, score before the penalty and dollars a day, each of shape (spans, series)."""
        series, spans = self._series, np.array(SPANS)[:, None]
        slow = series["slow_requests"]
        rate = series["requests_per_min"]
        known = (slow > np.clip(_KNOWN_MIN * rate, _KNOWN_LEAST, _KNOWN_MOST)) & (
            series["age_min"] > 1440 * _KNOWN_DAYS
        )
        filled = known & (series["requests"] > _FILLED * spans) & (series["cost"] > 0) & (series["slow_cost"] > 0)
        unit = series["cost"] / np.where(filled, series["requests"], 1.0)
        value = np.log(np.where(filled, unit / np.where(filled, self._expected(), 1.0), 1.0))
        usd_per_day = (1 - np.exp(-value)) * series["usd_per_min"] * 1440
        valid = filled & (value > np.array(_LEAST_LOG_RATIO)[:, None]) & (usd_per_day >= self._floor_usd)
        tests = np.log10(np.maximum(1.0, _MONTH_MIN * rate / spans))
        money = np.log10(np.maximum(usd_per_day, self._floor_usd) / self._floor_usd)
        score = self._tail.surprise(value / _TAIL_SCALE) - tests + money
        return value, np.where(valid, score, SILENT), usd_per_day

    def _learn(self, cost: Floats, requests: Floats, expected: Floats, value: Floats, trust: Floats) -> None:
        series = self._series
        self._tail.learn(value / _TAIL_SCALE, np.where(requests > 0, trust * self._step_s / DAY_S, 0.0))
        started = (series["slow_requests"] > 0) | (requests > 0)
        series["age_min"][started] += self._step_min
        share = trust * np.minimum(1.0, self._step_min / np.clip(series["age_min"], self._step_min, 1440 * _RATE_DAYS))
        for name, amount, least in (
            ("usd_per_min", cost / self._step_min, _CLIP_USD),
            ("requests_per_min", requests / self._step_min, _CLIP_REQUESTS),
        ):
            held = series[name]
            held += share * (np.minimum(amount, _RATE_CLIP * held + least) - held)
        memory = np.maximum(_SLOW_REQUESTS, 1440 * _SLOW_DAYS * series["requests_per_min"])
        keep = np.exp(-trust * requests / memory)
        known = series["slow_requests"] > _KNOWN_LEAST
        cost = np.where(known, np.minimum(cost, _CLIP * expected * requests), cost)
        for name, amount in (("slow_cost", cost), ("slow_requests", requests)):
            held = series[name]
            held *= keep
            held += trust * amount
