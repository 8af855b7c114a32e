"""What the demand for a series should cost: requests that its users explain, times the usual dollars per request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats


class Params(NamedTuple):
    #: Requests in a step below which it says nothing about users per request. Prototype.
    least_requests: int = 3
    #: Days in which a step of the fit fades to 1/e. Prototype.
    fit_memory_days: float = 7.0
    #: Steps (decayed) from which on the fit is used. Prototype.
    fit_least_steps: float = 50.0
    #: Least b in users ~ requests ** b: fewer users than this per request is no law. Prototype.
    exponent_min: float = 0.35
    #: Greatest b: users never grow faster than their requests. Prototype.
    exponent_max: float = 1.0
    #: b while the requests have varied too little to see it. Prototype.
    exponent_usual: float = 0.75
    #: Variance of ln requests from which on b is seen: a standard deviation of 22 %. By hand.
    least_variance: float = 0.05
    #: Share of busy steps without users above which the series does not report them reliably. By hand.
    missing_share: float = 0.02
    #: Users that stand for none, since the logarithm of 0 is none. By hand.
    nobody: float = 0.5
    #: Users explain at most this multiple of the requests there were. Prototype.
    organic_max_ratio: float = 1.5
    #: Requests, least memory of the slow price of a request. Prototype.
    slow_requests: float = 3000.0
    #: Days of requests in the slow price. Prototype.
    slow_days: float = 3.0
    #: Requests, least memory of the fast price, which follows a fall. Prototype.
    fast_requests: float = 1000.0
    #: Days of requests in the fast price. Prototype.
    fast_days: float = 1.0
    #: A step counts up to this multiple of the usual price, so that one mad request is none. Prototype.
    clip_ratio: float = 2.5
    #: Requests after which steps are clipped. By hand.
    clip_after_requests: float = 100.0
    #: Days of age from which on demand judges a series. Prototype.
    mature_days: float = 2.5
    #: Requests from which on it does. Prototype.
    mature_requests: float = 150.0
    #: Active steps from which on it does. Prototype.
    mature_steps: float = 12.0
    #: Minutes with requests from which on the own price of a request is known: the 36 hours that the envelope of
    #: prompts takes. By hand; below it every new use of a key would be odd.
    known_price_min: float = 36 * 60.0
    #: Share of the fleet's prices of a request below what is ordinary. By hand, as with the prompts of new principals.
    ordinary_share: float = 0.95
    #: Series with a known price that make a fleet. By hand, as many as a population takes.
    fleet_least: int = 5
    #: Minutes of a day: longest memory of the rate of requests. By definition.
    day_min: float = 1440.0


P = Params()


class DemandModel:
    """Per series: a decayed fit of ln users over ln requests, and the usual dollars per request.

    State: decayed sums of ln users and ln requests, and dollars over requests, slow and fast.
    Update: each step outside of incidents; see docs/explain/the-expectation.md.
    Score: explained requests, times the usual price.
    Source: ordinary least squares with exponential forgetting.
    """

    def __init__(self, step_min: float, capacity: int) -> None:
        self._step_min = step_min
        names = ("steps", "x", "y", "xx", "xy", "missing", "rate", "requests", "active_steps")
        means = ("slow_usd", "slow_requests", "fast_usd", "fast_requests")
        self.columns = Columns({name: Column() for name in (*names, *means)}, capacity)

    @property
    def unit_usd(self) -> Floats:
        """Usual dollars per request; falls are followed quickly, rises slowly. 0 before the first request."""
        slow = self.columns["slow_usd"] / np.maximum(self.columns["slow_requests"], 1e-9)
        fast = self.columns["fast_usd"] / np.maximum(self.columns["fast_requests"], 1e-9)
        unit_usd: Floats = np.minimum(slow, fast)
        return unit_usd

    @property
    def knows_users(self) -> Bools:
        """True when users are reported reliably, so zero users means none."""
        steps, missing = self.columns["steps"], self.columns["missing"]
        known: Bools = (steps >= P.fit_least_steps) & (missing <= P.missing_share * (steps + missing))
        return known

    @property
    def reports_users(self) -> Bools:
        """Whether a series reports users at all: it did in nearly every step that had requests enough."""
        steps, missing = self.columns["steps"], self.columns["missing"]
        reported: Bools = (steps > 0) & (missing <= P.missing_share * (steps + missing))
        return reported

    def organic(self, requests: Floats, users: Floats) -> Floats:
        """The requests of a step that its users explain; all of them where users are not known."""
        usable = self.knows_users | ((users > 0) & (self.columns["steps"] >= P.fit_least_steps))
        usable &= requests >= P.least_requests
        rows = np.flatnonzero(usable)
        organic = requests.copy()
        if len(rows):
            state = {name: self.columns[name][rows] for name in ("steps", "x", "y", "xx", "xy")}
            steps = np.maximum(state["steps"], 1.0)
            x, y = state["x"] / steps, state["y"] / steps
            variance = state["xx"] / steps - x * x
            seen = variance > P.least_variance
            slope = (state["xy"] / steps - x * y) / np.where(seen, variance, 1.0)
            exponent = np.where(seen, np.clip(slope, P.exponent_min, P.exponent_max), P.exponent_usual)
            explained = np.exp((np.log(np.maximum(users[rows], P.nobody)) - y) / exponent + x)
            organic[rows] = np.minimum(explained, P.organic_max_ratio * requests[rows])
        return organic

    def explained_usd(self, usd: Floats, requests: Floats, users: Floats, organic: Floats) -> Floats:
        """What the `organic` requests of a step should cost.

        The price of a series that was hardly used is that of the few things it was used for. What its users ask for
        may cost as much as is ordinary in the fleet; what nobody asks for may not.
        """
        own, now = self.unit_usd, usd / np.maximum(requests, 1e-9)
        explained: Floats = organic * own
        known = self.columns["active_steps"] * self._step_min >= P.known_price_min
        rows = np.flatnonzero(~known & (own > 0) & (now > own) & (users > 0))
        if len(rows) and np.count_nonzero(known) >= P.fleet_least:
            price = np.minimum(now[rows], np.quantile(own[known], P.ordinary_share))
            usual = np.minimum(organic[rows], users[rows] ** (1 / P.exponent_usual))
            asked = np.where(self.knows_users[rows], organic[rows], usual)
            explained[rows] += asked * np.maximum(price - own[rows], 0.0)
        return explained

    def mature(self, age_days: Floats) -> Bools:
        """Whether enough was seen of a series to judge it."""
        state = self.columns
        enough = (state["requests"] >= P.mature_requests) & (state["active_steps"] >= P.mature_steps)
        return enough & (age_days >= P.mature_days)

    def learn(self, usd: Floats, requests: Floats, users: Floats, age_days: Floats, frozen: Bools) -> None:
        """One step; series that are `frozen` learn nothing."""
        state = self.columns
        state["requests"][...] += requests
        state["active_steps"][...] += requests > 0
        taught = np.flatnonzero((requests > 0) & ~frozen)
        share = np.minimum(1.0, self._step_min / np.clip(P.day_min * age_days, self._step_min, P.day_min))
        rate = state["rate"]
        rate += np.where(frozen, 0.0, share * (requests / self._step_min - rate))
        self._learn_unit_usd(taught, usd[taught], requests[taught])
        plenty = taught[requests[taught] >= P.least_requests]
        state["missing"][plenty[users[plenty] <= 0]] += 1.0
        known = plenty[users[plenty] > 0]
        x, y = np.log(requests[known]), np.log(users[known])
        for name, amount in (("steps", 1.0), ("x", x), ("y", y), ("xx", x * x), ("xy", x * y)):
            state[name][known] += amount

    def _learn_unit_usd(self, taught: NDArray[np.intp], usd: Floats, requests: Floats) -> None:
        state = self.columns
        known = state["slow_requests"][taught] >= P.clip_after_requests
        limit = np.where(known, P.clip_ratio * self.unit_usd[taught] * requests, np.inf)
        clipped = np.clip(usd, 0.0, limit)
        per_day = P.day_min * state["rate"][taught]
        for name, least, days in (("slow", P.slow_requests, P.slow_days), ("fast", P.fast_requests, P.fast_days)):
            keep = np.exp(-requests / np.maximum(least, days * per_day))
            for column, amount in ((f"{name}_usd", clipped), (f"{name}_requests", requests)):
                state[column][taught] = keep * state[column][taught] + amount

    def fade(self, hours: float) -> None:
        """Forget what `hours` let fade of the fit."""
        keep = float(np.exp(-hours / 24 / P.fit_memory_days))
        for name in ("steps", "x", "y", "xx", "xy", "missing"):
            held = self.columns[name]
            held *= keep
