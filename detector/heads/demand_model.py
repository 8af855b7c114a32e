"""What the demand for a series should cost: requests that its users explain, times the usual dollars per request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Steps with fewer requests say nothing about users per request.
_LEAST_REQUESTS = 3
_FIT_MEMORY_DAYS, _FIT_LEAST_STEPS = 7.0, 50.0
#: users ~ requests ** exponent. Without real spread of the requests the exponent cannot be seen and is the usual one.
_EXPONENT_MIN, _EXPONENT_MAX, _EXPONENT_USUAL, _LEAST_VARIANCE = 0.35, 1.0, 0.75, 0.05
#: A series whose users are missing this often does not report them reliably: no users is then unknown, not nobody.
_MISSING_SHARE, _NOBODY = 0.02, 0.5
_ORGANIC_MAX_RATIO = 1.5
#: The usual dollars per request are the lower of a slow and a fast mean: at least so many requests, and days of them.
_SLOW_REQUESTS, _SLOW_DAYS, _FAST_REQUESTS, _FAST_DAYS = 3000.0, 3.0, 1000.0, 1.0
_CLIP_RATIO, _CLIP_AFTER_REQUESTS = 2.5, 100.0
_MATURE_DAYS, _MATURE_REQUESTS, _MATURE_STEPS = 2.5, 150.0, 12.0
_DAY_MIN = 1440.0


class Demand:
    """Per series: a decayed fit of ln users over ln requests, and the usual dollars per request."""

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
        """Whether the users of a series are known well enough that nobody means nobody."""
        steps, missing = self.columns["steps"], self.columns["missing"]
        known: Bools = (steps >= _FIT_LEAST_STEPS) & (missing <= _MISSING_SHARE * (steps + missing))
        return known

    @property
    def reports_users(self) -> Bools:
        """Whether a series reports users at all: it did in nearly every step that had requests enough."""
        steps, missing = self.columns["steps"], self.columns["missing"]
        told: Bools = (steps > 0) & (missing <= _MISSING_SHARE * (steps + missing))
        return told

    def organic(self, requests: Floats, users: Floats) -> Floats:
        """The requests of a step that its users explain; all of them where users are not known."""
        state = self.columns
        steps = np.maximum(state["steps"], 1.0)
        x, y = state["x"] / steps, state["y"] / steps
        variance = state["xx"] / steps - x * x
        seen = variance > _LEAST_VARIANCE
        slope = (state["xy"] / steps - x * y) / np.where(seen, variance, 1.0)
        exponent = np.where(seen, np.clip(slope, _EXPONENT_MIN, _EXPONENT_MAX), _EXPONENT_USUAL)
        explained = np.exp((np.log(np.maximum(users, _NOBODY)) - y) / exponent + x)
        usable = self.knows_users | ((users > 0) & (state["steps"] >= _FIT_LEAST_STEPS))
        usable &= requests >= _LEAST_REQUESTS
        return np.where(usable, np.minimum(explained, _ORGANIC_MAX_RATIO * requests), requests)

    def mature(self, age_days: Floats) -> Bools:
        """Whether enough was seen of a series to judge it."""
        state = self.columns
        enough = (state["requests"] >= _MATURE_REQUESTS) & (state["active_steps"] >= _MATURE_STEPS)
        return enough & (age_days >= _MATURE_DAYS)

    def learn(self, usd: Floats, requests: Floats, users: Floats, age_days: Floats, frozen: Bools) -> None:
        """One step; series that are `frozen` learn nothing."""
        state = self.columns
        state["requests"][...] += requests
        state["active_steps"][...] += requests > 0
        taught = np.flatnonzero((requests > 0) & ~frozen)
        share = np.minimum(1.0, self._step_min / np.clip(_DAY_MIN * age_days, self._step_min, _DAY_MIN))
        rate = state["rate"]
        rate += np.where(frozen, 0.0, share * (requests / self._step_min - rate))
        self._learn_unit_usd(taught, usd[taught], requests[taught])
        plenty = taught[requests[taught] >= _LEAST_REQUESTS]
        state["missing"][plenty[users[plenty] <= 0]] += 1.0
        told = plenty[users[plenty] > 0]
        x, y = np.log(requests[told]), np.log(users[told])
        for name, amount in (("steps", 1.0), ("x", x), ("y", y), ("xx", x * x), ("xy", x * y)):
            state[name][told] += amount

    def _learn_unit_usd(self, taught: NDArray[np.intp], usd: Floats, requests: Floats) -> None:
        state = self.columns
        known = state["slow_requests"][taught] >= _CLIP_AFTER_REQUESTS
        limit = np.where(known, _CLIP_RATIO * self.unit_usd[taught] * requests, np.inf)
        clipped = np.clip(usd, 0.0, limit)
        per_day = _DAY_MIN * state["rate"][taught]
        for name, least, days in (("slow", _SLOW_REQUESTS, _SLOW_DAYS), ("fast", _FAST_REQUESTS, _FAST_DAYS)):
            keep = np.exp(-requests / np.maximum(least, days * per_day))
            for column, amount in ((f"{name}_usd", clipped), (f"{name}_requests", requests)):
                state[column][taught] = keep * state[column][taught] + amount

    def fade(self, hours: float) -> None:
        """Forget what `hours` let fade of the fit."""
        keep = float(np.exp(-hours / 24 / _FIT_MEMORY_DAYS))
        for name in ("steps", "x", "y", "xx", "xy", "missing"):
            held = self.columns[name]
            held *= keep
