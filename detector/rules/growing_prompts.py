"""The rule for growing prompts: input tokens per request against their own envelope of a day ago."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.histogram import chunks, cumulated, find_share
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Subjects, View


class Params(NamedTuple):
    #: Bins of ln tokens per request. Reaches from e to e^13 tokens, beyond every context window. By hand.
    bins: int = 60
    #: Width of a bin: 22 %. By hand: twice the prototype, to save memory.
    width: float = 0.2
    #: ln tokens per request in the lowest bin. By hand.
    lowest: float = 1.0
    #: Minutes over which prompts are looked at. Prototype.
    window_min: float = 120.0
    #: Minutes over which the dollars of the growth are averaged. Prototype.
    day_window_min: float = 720.0
    #: Minutes of the newest prompts, which must be large as well: a burst that is over fills the window for hours.
    #: By hand.
    recent_min: float = 10.0
    #: Share of the way to the limit that the newest prompts must reach. By hand.
    recent_share: float = 0.4
    #: Days in which an hour of the envelope fades to 1/e. Prototype.
    memory_days: float = 10.0
    #: Hours before a prompt is learned, so that a ramp does not lift the envelope it must exceed. Measured with a
    #: prototype: 6 of 6 ramps caught with it, 3 of 6 without.
    lag_hours: int = 24
    #: Days of age in which prompts are learned at once, since there is nothing else. Prototype.
    at_once_days: float = 3.0
    #: Share of an hour that is learned while prompts are over their limit. Prototype.
    doubt: float = 0.03
    #: Requests in the window below which it says nothing. Prototype.
    least_requests: float = 20.0
    #: Hours in the envelope from which on it is used. Prototype.
    least_hours: float = 36.0
    #: Days in which the price of a token fades to 1/e. By hand.
    price_days: float = 3.0
    #: Input tokens that an output token is worth. Prototype.
    output_weight: float = 4.0


P = Params()


class Config(RuleConfig):
    """Prompts that grow: input tokens per request against their own envelope of a day ago."""

    enabled: bool = Field(default=True, description="Whether prompt sizes are looked at.")
    min_usd_per_day: float = Field(default=10.0, gt=0, description="Dollars per day that the growth costs.")
    margin: float = Field(
        default=0.35, gt=0, description="How far over the 97th percentile, as a logarithm: 0.35 is 42 %."
    )
    min_ratio: float = Field(default=2.2, gt=1, description="As a multiple of the median of its own past.")
    hold_minutes: int = Field(default=60, ge=5, description="How long it must last.")


CONTEXT = Family(
    "context",
    Confidence(((1, 0.09), (1.1, 0.41), (6.7, 0.92)), MEASURED),
    Docs(
        "context",
        "prompts that grow",
        "for an hour, over the key's 97th percentile by 42 % and over its median 2.2 times, for $10 a day",
        "notice",
    ),
    by_past=True,
    slow=True,
)


class GrowingPrompts(Rule):
    """A notice while prompts are far larger than a day ago and it costs.

    State: a histogram of ln tokens per request, averages of two hours.
    Update: an hour is learned a day later.
    Score: dollars a day that the growth costs, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "context"
    part = "prompt sizes"
    families = (CONTEXT,)
    config = Config
    settings_at = "principals.context"
    moments = ("hour",)

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        amounts = ("tokens", "requests", "recent_tokens", "recent_requests", "excess", "price_usd", "price_tokens")
        names = (*amounts, "held_min", "p50", "p90", "p97", "hours")
        # float32: averages that fade, and limits read from bins, need no more.
        self._state = Columns({name: Column(dtype=np.float32) for name in names}, 64)
        self._envelope = Columns({"weight": Column((P.bins,), np.float32)}, 64)
        #: The bin of each of the last 24 hours, by hour of the epoch; -1 for an hour that says nothing.
        self._waiting = Columns(
            {"bin": Column((P.lag_hours,), np.int8, -1), "doubted": Column((P.lag_hours,), np.bool_)}, 64
        )
        self.parts = {"state": self._state, "envelope": self._envelope, "waiting": self._waiting}
        self._hour: int | None = None

    def close(self, view: View) -> list[Finding]:
        """Findings of kind unit_cost."""
        subjects = view.principals
        for columns in self.parts.values():
            columns.grow(len(subjects.index))
        hour = view.start // 3600
        if self._hour is not None and hour > self._hour:
            self._close_hour(self._hour, hour, subjects)
        self._hour = hour
        if view.bucket.gap:
            return []
        size = self._follow(subjects)
        fires, usd_per_day = self._decide(size)
        p50 = np.exp(self._state["p50"])
        return [
            Finding(
                series=int(subjects.index[row]),
                family=CONTEXT,
                kind="unit_cost",
                tier="notice",
                score=float(usd_per_day[row] / self._settings.min_usd_per_day),
                words=f"{np.exp(size[row]):,.0f} input tokens per request, usually {p50[row]:,.0f}, which costs "
                f"${usd_per_day[row]:,.2f} a day",
                lasting=True,
                shared_by="usd",
            )
            for row in np.flatnonzero(fires).tolist()
        ]

    def forget(self, view: View, over: Bools) -> None:
        """Incidents are over: the prompts they sent are taken out of the windows."""
        rows = np.flatnonzero(over[view.principals.index])
        state = self._state
        for of in ("", "recent_"):
            state[f"{of}tokens"][rows] = state[f"{of}requests"][rows] * np.exp(state["p50"][rows])
        state["excess"][rows] = state["held_min"][rows] = 0.0

    def _follow(self, subjects: Subjects) -> Floats:
        """The averages; returns ln tokens per request of the last two hours."""
        state, amounts = self._state, subjects.amounts
        for of, window_min in (("", P.window_min), ("recent_", P.recent_min)):
            share = min(1.0, self._step_min / window_min)
            for name, value in (("tokens", amounts.input_tokens), ("requests", amounts.requests)):
                held = state[of + name]
                held += share * (value / self._step_min - held)
        over = np.maximum(0.0, amounts.input_tokens - amounts.requests * np.exp(state["p90"]))
        held = state["excess"]
        held += min(1.0, self._step_min / P.day_window_min) * (over / self._step_min - held)
        keep = np.exp(-self._step_min / (P.price_days * 1440))
        for name, value in (
            ("price_usd", amounts.cost),
            ("price_tokens", amounts.input_tokens + P.output_weight * amounts.output_tokens),
        ):
            held = state[name]
            held *= keep
            held += value
        return self._size()

    def _size(self, of: str = "") -> Floats:
        """ln tokens per request of the last two hours, or of the newest requests."""
        tokens, requests = self._state[f"{of}tokens"], self._state[f"{of}requests"]
        size: Floats = np.log(np.maximum(tokens, 1e-9) / np.maximum(requests, 1e-9))
        return size

    def _decide(self, size: Floats) -> tuple[Bools, Floats]:
        state, settings = self._state, self._settings
        price = state["price_usd"] / np.maximum(state["price_tokens"], 1e-9)
        usd_per_day = 1440 * state["excess"] * price
        limit = state["p97"] + np.maximum(settings.margin, state["p90"] - state["p50"])
        limit = np.maximum(limit, state["p50"] + np.log(settings.min_ratio))
        high = (
            (size > limit) & (state["requests"] * P.window_min >= P.least_requests) & (state["hours"] >= P.least_hours)
        )
        held = state["held_min"]
        held[...] = np.where(high, held + self._step_min, 0.0)
        lasts = self._size("recent_") > state["p50"] + P.recent_share * (limit - state["p50"])
        return (held >= settings.hold_minutes) & (usd_per_day >= settings.min_usd_per_day) & lasts, usd_per_day

    def _close_hour(self, hour: int, now: int, subjects: Subjects) -> None:
        """Learn the hours that have waited for a day; let the hour that ends wait."""
        state, weight = self._state, self._envelope["weight"]
        size = self._size()
        said = (state["requests"] * P.window_min >= P.least_requests) & np.isfinite(size)
        place = np.where(said, np.clip((size - P.lowest) / P.width, 0, P.bins - 1), -1).astype(np.int8)
        doubted = state["held_min"] > 0
        weight *= np.float32(np.exp(-(now - hour) / 24 / P.memory_days))
        young = subjects.age_days < P.at_once_days
        self._learn(np.flatnonzero(said & young), place, doubted)
        bins, doubts = self._waiting["bin"], self._waiting["doubted"]
        for slot in {at % P.lag_hours for at in range(hour, min(now, hour + P.lag_hours))}:
            self._learn(np.flatnonzero(bins[slot] >= 0), bins[slot], doubts[slot])
            bins[slot] = -1
        bins[hour % P.lag_hours] = np.where(young, -1, place)
        doubts[hour % P.lag_hours] = doubted
        self._read()

    def _learn(self, rows: NDArray[np.intp], place: NDArray[np.int8], doubted: Bools) -> None:
        self._envelope["weight"][place[rows], rows] += np.where(doubted[rows], P.doubt, 1.0).astype(np.float32)
        self._state["hours"][rows] += 1.0

    def _read(self) -> None:
        weight = self._envelope["weight"]
        for some in chunks(weight.shape[1]):
            mass = cumulated(weight[:, some].copy())
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p97", 0.97)):
                at, within = find_share(mass, share * mass[-1])
                self._state[name][some] = P.lowest + P.width * (at + within)
