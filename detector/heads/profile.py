"""What each series is expected to spend now: hour-of-day and hour-of-week profiles under a slowly moving level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns
from curb.detector.state.local_time import LocalHour

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: An hour counts up to this multiple of its expectation plus this many dollars, once its hour of day is known.
CLIP_RATIO, CLIP_USD, CLIP_AFTER_VISITS = 3.0, 1.5, 3
#: While an alert is open an hour counts up to this multiple of its expectation: the incident must not become normal.
FROZEN_CLIP_RATIO = 1.2
#: The fallback mean counts up to 5 times itself plus this many dollars a minute; while frozen it learns this share.
MEAN_CLIP_USD_PER_MIN, MEAN_FROZEN_SHARE, MEAN_HORIZON_MIN = 0.05, 0.05, 1440.0
#: Step of the level per hour, and how much larger it gets when all hours of half a day point the same way.
LEVEL_STEP, LEVEL_FAST_STEP, LEVEL_KEEP = 0.02, 0.10, 0.9995
#: The level carries factors up to 7. Beyond, the profile must follow: hours learned at wild levels would not compare.
LEVEL_MAX = 2.0
_TINY_USD = 1e-9


class Profile:
    """Expected dollars per minute of every series."""

    def __init__(self, capacity: int) -> None:
        self.columns = Columns(
            {
                # The hours take much of a series' memory: 255 visits are plenty, and so are the two digits that a
                # logarithm keeps in float16, for hours of the week of which each newest one counts for a third.
                "of_day": Column((24,), np.float32),
                "of_day_visits": Column((24,), np.uint8),
                "of_week_log": Column((168,), np.float16, fill=np.log(_TINY_USD)),
                "of_week_visits": Column((168,), np.uint8),
                "mean": Column(),
                "level": Column(),
                "drift": Column(),
            },
            capacity,
        )

    @property
    def mean(self) -> Floats:
        """Winsorised mean dollars per minute of the last day."""
        return self.columns["mean"]

    def expected(self, now: LocalHour, neighbour: LocalHour) -> Floats:
        """Dollars per minute expected now, linear between the middles of this hour and of the nearer neighbour."""
        weight = abs(now.fraction - 0.5)
        here, known = self._hour_usd(now)
        beside, beside_known = self._hour_usd(neighbour)
        beside = np.where(beside_known, beside, here)
        usd = ((1 - weight) * here + weight * beside) * np.exp(self.columns["level"])
        return np.where(known, usd / 60, self.mean)

    def _hour_usd(self, hour: LocalHour) -> tuple[Floats, Bools]:
        """Dollars of that hour at level 0, and whether its hour of day was ever seen. Few visits lean on the day."""
        visits = self.columns["of_week_visits"][hour.of_week].astype(np.float64)
        of_day, known = self.columns["of_day"][hour.of_day], self.columns["of_day_visits"][hour.of_day] > 0
        return (visits * self._week_usd(hour.of_week) + of_day) / (visits + 1), known

    def learn_mean(self, usd_per_min: Floats, age_min: Floats, step_min: float, frozen: Bools, looking: Bools) -> None:
        """A step into the fallback mean, whose memory is the age, at most a day. While `looking` nothing is clipped."""
        mean = self.mean
        share = np.minimum(1.0, step_min / np.clip(age_min, step_min, MEAN_HORIZON_MIN))
        share = np.where(frozen, MEAN_FROZEN_SHARE * share, share)
        limit = np.where(looking, np.inf, 5 * mean + MEAN_CLIP_USD_PER_MIN)
        mean += share * (np.clip(usd_per_min, 0.0, limit) - mean)

    def learn_hour(self, hour: LocalHour, usd: Floats, expected_usd: Floats, whole: Bools, frozen: Bools) -> None:
        """A closed hour: its dollars, what was expected, which series saw enough of it and which have an open alert."""
        known = self.columns["of_day_visits"][hour.of_day] > 0
        early = self.columns["of_day_visits"][hour.of_day] < CLIP_AFTER_VISITS
        limit = np.where(early, np.inf, CLIP_RATIO * expected_usd + CLIP_USD)
        limit = np.where(frozen, np.minimum(limit, FROZEN_CLIP_RATIO * expected_usd), limit)
        usd = np.clip(usd, 0.0, limit)
        base = usd * np.exp(-self.columns["level"])
        of_day, of_week = self.columns["of_day"][hour.of_day], self._week_usd(hour.of_week)
        of_day[...] = self._visited("of_day", hour.of_day, of_day, base, 0.1, whole)
        of_week = self._visited("of_week", hour.of_week, of_week, base, 0.3, whole)
        self.columns["of_week_log"][hour.of_week] = np.log(np.maximum(of_week, _TINY_USD))
        # A level is a ratio to the profile: the first visit of an hour says nothing about it.
        self._learn_level(usd, expected_usd, whole & known)

    def settle(self, log_ratio: Floats) -> None:
        """Move the level of each series by `log_ratio`, the logarithm of actual over expected; nan leaves it alone."""
        moved = np.isfinite(log_ratio)
        level = self.columns["level"]
        level += np.where(moved, log_ratio, 0.0)
        np.clip(level, -LEVEL_MAX, LEVEL_MAX, out=level)
        self.columns["drift"][moved] = 0.0

    def _week_usd(self, of_week: int) -> Floats:
        """Dollars of that hour of the week at level 0."""
        usd: Floats = np.exp(self.columns["of_week_log"][of_week].astype(np.float64))
        return usd

    def _visited(self, name: str, slot: int, value: Floats, base: Floats, least: float, whole: Bools) -> Floats:
        """Count a visit of an hour; what its `value` is after it."""
        visits = self.columns[f"{name}_visits"][slot]
        visits += whole & (visits < np.iinfo(np.uint8).max)
        share = np.maximum(1 / np.maximum(visits.astype(np.float64), 1.0), least)
        return value + np.where(whole, share * (base - value), 0.0)

    def _learn_level(self, usd: Floats, expected_usd: Floats, taught: Bools) -> None:
        level, drift = self.columns["level"], self.columns["drift"]
        pad = 6 * self.mean + _TINY_USD
        ratio = np.clip(np.log((usd + pad) / (expected_usd + pad)), -1.0, 1.0)
        drift += np.where(taught, (np.clip(3 * ratio, -1.0, 1.0) - drift) / 12, 0.0)
        step = LEVEL_STEP + LEVEL_FAST_STEP * np.maximum(0.0, np.abs(drift) - 0.6) / 0.4
        level += np.where(taught, step * ratio, 0.0)
        level *= np.where(taught, LEVEL_KEEP, 1.0)
        np.clip(level, -LEVEL_MAX, LEVEL_MAX, out=level)
