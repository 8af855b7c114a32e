"""More expensive requests: a notice while the dollars per request of a principal are far over its own past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.heads.held_minimum import Hold
from curb.detector.heads.peaks import Peaks
from curb.detector.heads.tail import Tail
from curb.detector.heads.window_score import SILENT
from curb.detector.state.columns import Bools, Column, Columns, Floats, Parts
from curb.detector.state.rule import TUNING_STREAMS, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.stream.time import DAY_S, HOUR_S


class Params(NamedTuple):
    #: Requests of the two fast averages. The short one from the prototype; the long one by hand.
    spans: tuple[float, ...] = (150.0, 1500.0)
    #: Share of a span that must be filled. Prototype, on simulated series.
    filled: float = 0.4
    #: Log ratio to the usual price below which nothing counts, by span. The first from the prototype; the second
    #: by hand.
    least_log_ratio: tuple[float, ...] = (0.18, 0.12)
    #: Days of requests in the usual price. Prototype.
    slow_days: float = 3.0
    #: Requests, least memory of the usual price. Prototype.
    slow_requests: float = 3000.0
    #: Minutes of requests after which the usual price is known. Prototype, on simulated series.
    known_min: float = 720.0
    #: Requests, at least that many. Prototype, on simulated series.
    known_least: float = 300.0
    #: Requests, at most that many. Prototype, on simulated series.
    known_most: float = 3000.0
    #: Days of time, too. Prototype, on simulated series.
    known_days: float = 0.5
    #: Multiple of the usual price up to which a step is learned. Prototype.
    clip: float = 2.5
    #: The same in the fast averages, so that one mad request is no price. By hand.
    fast_clip: float = 4.0
    #: Multiple of itself up to which a step counts in a rate, plus one of the next two. By hand.
    rate_clip: float = 5.0
    #: Requests a minute over that multiple. By hand.
    clip_requests: float = 2.0
    #: Dollars a minute over that multiple. By hand.
    clip_usd: float = 0.05
    #: Days of the rates. By hand.
    rate_days: float = 1.0
    #: Unit costs vary less than dollars: the scale of the tail is stretched so much. By hand.
    tail_scale: float = 0.25
    #: Share of a normal step that a frozen or suspicious one teaches. Prototype.
    doubt: float = 0.05
    #: Score, in powers of ten, from which on a step is suspicious. Prototype.
    doubt_score: float = 1.0
    #: Days of age before which everything is learned. Prototype.
    doubt_from_days: float = 3.0
    #: Minutes of a month of 30 days, over which chances are counted. By definition.
    month_min: float = 43200.0


P = Params()


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


class UnitCost(Parts):
    """Scores with what was known before the step, then learns from it. Pure: same steps, same scores.

    State: dollars over requests, fast and slow, and a tail.
    Update: by requests, not by minutes.
    Score: as the dollars head, of the log ratio of fast to slow.
    Source: our own, no paper.
    """

    moments = ("newest",)

    def __init__(self, step_s: int, hold_minutes: int, floor_usd_per_day: float, capacity: int = 64) -> None:
        """`floor_usd_per_day`: a rise that costs less a day never counts."""
        self._step_s, self._step_min, self._floor_usd = step_s, step_s / 60, floor_usd_per_day
        spans = (len(P.spans),)
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
        self._tail, self._peaks = Tail(len(P.spans), capacity), Peaks(len(P.spans), capacity)
        self._held = Hold(max(1, round(hold_minutes / self._step_min)), SILENT, capacity)
        self._newest: int | None = None
        self.parts = {
            "series": self._series,
            "tail": self._tail.columns,
            "peaks": self._peaks.columns,
            "held": self._held.columns,
        }

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self._series.n

    def grow(self, n: int) -> None:
        """Use `n` series."""
        for part in self.parts.values():
            part.grow(n)

    def step(self, start: int, cost: Floats, requests: Floats, frozen: Bools) -> UnitCostScores:
        """Score the bucket that starts at `start` (epoch seconds), then learn from it; arrays of shape (N,).

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
        doubted = frozen | ((best > P.doubt_score) & (self._series["age_min"] > 1440 * P.doubt_from_days))
        self._learn(cost, requests, expected, value, np.where(doubted, P.doubt, 1.0))
        self._peaks.learn(raw)
        return scores

    def forget(self, which: Bools) -> None:
        """Incidents of these series are over: the fast averages are normal again."""
        cost, requests = self._series["cost"], self._series["requests"]
        cost[:, which] = (self._expected() * requests)[:, which]

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
        known = self._series["slow_requests"] > P.known_least
        cost = np.where(known, np.minimum(cost, P.fast_clip * self._expected() * requests), cost)
        for span, fast_cost, fast_requests in zip(P.spans, self._series["cost"], self._series["requests"], strict=True):
            keep = np.exp(-requests / span)
            # A step of many requests weighs no more than the span it replaces.
            worth = np.where(requests > 0, span * (1 - keep) / np.maximum(requests, 1e-9), 0.0)
            fast_cost[...] = keep * fast_cost + worth * cost
            fast_requests[...] = keep * fast_requests + worth * requests

    def _channels(self) -> tuple[Floats, Floats, Floats]:
        """Log ratio, score before the penalty and dollars a day, each of shape (spans, series)."""
        series, spans = self._series, np.array(P.spans)[:, None]
        slow = series["slow_requests"]
        rate = series["requests_per_min"]
        known = (slow > np.clip(P.known_min * rate, P.known_least, P.known_most)) & (
            series["age_min"] > 1440 * P.known_days
        )
        filled = known & (series["requests"] > P.filled * spans) & (series["cost"] > 0) & (series["slow_cost"] > 0)
        unit = series["cost"] / np.where(filled, series["requests"], 1.0)
        value = np.log(np.where(filled, unit / np.where(filled, self._expected(), 1.0), 1.0))
        usd_per_day = (1 - np.exp(-value)) * series["usd_per_min"] * 1440
        valid = filled & (value > np.array(P.least_log_ratio)[:, None]) & (usd_per_day >= self._floor_usd)
        tests = np.log10(np.maximum(1.0, P.month_min * rate / spans))
        money = np.log10(np.maximum(usd_per_day, self._floor_usd) / self._floor_usd)
        score = self._tail.surprise(value / P.tail_scale) - tests + money
        return value, np.where(valid, score, SILENT), usd_per_day

    def _learn(self, cost: Floats, requests: Floats, expected: Floats, value: Floats, trust: Floats) -> None:
        series = self._series
        self._tail.learn(value / P.tail_scale, np.where(requests > 0, trust * self._step_s / DAY_S, 0.0))
        started = (series["slow_requests"] > 0) | (requests > 0)
        series["age_min"][started] += self._step_min
        share = trust * np.minimum(1.0, self._step_min / np.clip(series["age_min"], self._step_min, 1440 * P.rate_days))
        for name, amount, least in (
            ("usd_per_min", cost / self._step_min, P.clip_usd),
            ("requests_per_min", requests / self._step_min, P.clip_requests),
        ):
            held = series[name]
            held += share * (np.minimum(amount, P.rate_clip * held + least) - held)
        memory = np.maximum(P.slow_requests, 1440 * P.slow_days * series["requests_per_min"])
        keep = np.exp(-trust * requests / memory)
        known = series["slow_requests"] > P.known_least
        cost = np.where(known, np.minimum(cost, P.clip * expected * requests), cost)
        for name, amount in (("slow_cost", cost), ("slow_requests", requests)):
            held = series[name]
            held *= keep
            held += trust * amount


class Config(RuleConfig):
    """Requests that became more expensive, against their own past."""

    enabled: bool = Field(default=False, description="Whether dollars per request are looked at.")
    threshold: float = Field(
        default=4.0,
        description="Score of a notice, on the scale of the dollars head: each point more is ten times rarer.",
    )
    min_usd_per_day: float = Field(default=25.0, gt=0, description="Dollars per day that the rise costs.")
    hold_minutes: int = Field(default=10, ge=1, le=60, description="How long a score must hold before it counts.")


UNIT_COST = Family(
    "unit_cost",
    Confidence(((4, 0.5), (9, 0.65), (100, 0.8)), TUNING_STREAMS),
    Docs(
        "unit cost (off by default)",
        "requests that became more expensive",
        "dollars per request far over the key's own past, counted in requests instead of minutes",
        "notice",
    ),
    by_past=True,
)


class UnitCostRule(Rule):
    """Prices, models and prompts that make each request more expensive; more requests are none of its business.

    State: see UnitCost.
    Update: see UnitCost.
    Score: see UnitCost.
    Source: see UnitCost.
    """

    name = "unit_cost"
    part = "unit cost"
    families = (UNIT_COST,)
    config = Config
    settings_at = "principals.unit_cost"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._head = UnitCost(context.step_s, config.hold_minutes, config.min_usd_per_day)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind unit_cost."""
        subjects = view.principals
        self._head.grow(len(subjects.index))
        if view.bucket.gap:
            return []
        amounts = subjects.amounts
        scores = self._head.step(view.start, amounts.cost, amounts.requests, subjects.frozen)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=UNIT_COST,
                kind="unit_cost",
                tier="notice",
                score=float(scores.notice[row]),
                words=f"a request costs {scores.ratio[row]:.1f} times the usual ${scores.expected[row]:.2g}, which is "
                f"${scores.usd_per_day[row]:,.2f} a day at the usual number of requests",
                shared_by="usd",
            )
            for row in np.flatnonzero(scores.notice >= self._settings.threshold).tolist()
        ]

    def forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Incidents of these series (shape (all series,)) are over."""
        self._head.forget(over[view.principals.index])

    def dump(self) -> dict[str, NDArray[Any]]:
        """The state of the head."""
        return self._head.dump()

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        self._head.load(arrays)
