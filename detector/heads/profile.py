"""What each series is expected to spend now: hour-of-day and hour-of-week profiles under a slowly moving level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.local_time import LocalHour


class Params(NamedTuple):
    #: An hour counts up to this multiple of its expectation, plus `clip_usd`. Prototype.
    clip_ratio: float = 3.0
    #: Dollars an hour may lie over that multiple. Prototype.
    clip_usd: float = 1.5
    #: Visits of an hour of the day from which on it is clipped. Prototype.
    clip_after_visits: int = 3
    #: The multiple while an alert is open: the incident must not become normal. Prototype.
    frozen_clip_ratio: float = 1.2
    #: A step counts in the mean up to this multiple of it, plus `mean_clip_usd_per_min`. Prototype.
    mean_clip_ratio: float = 5.0
    #: Dollars a minute a step may lie over that multiple. Prototype.
    mean_clip_usd_per_min: float = 0.05
    #: Share of a step that is learned while an alert is open. Prototype.
    mean_frozen_share: float = 0.05
    #: Minutes of the mean: a day. Prototype.
    mean_horizon_min: float = 1440.0
    #: Least share of a new visit in an hour of the day: ten days. Prototype.
    of_day_share: float = 0.1
    #: Least share of a new visit in an hour of the week: three weeks. Prototype.
    of_week_share: float = 0.3
    #: Share of an hour's log ratio by which the level moves. Prototype.
    level_step: float = 0.02
    #: Further share when all hours of half a day point one way: a launch is followed six times as fast. Prototype.
    level_fast_step: float = 0.10
    #: Log ratios of a third or more count as a whole vote on the direction. Prototype.
    drift_gain: float = 3.0
    #: Hours of the mean of the votes: half a day. Prototype.
    drift_hours: float = 12.0
    #: Mean vote, 0 to 1, above which the level moves faster. Prototype.
    drift_from: float = 0.6
    #: Share of the level that an hour keeps: it fades to 1/e in 83 days. Prototype.
    level_keep: float = 0.9995
    #: Greatest level, a factor of 7; beyond it the hours learned would not compare. By hand.
    level_max: float = 2.0
    #: Minutes of mean spend in the pad of the log ratio of an hour: a tenth of it. Prototype.
    pad_min: float = 6.0
    #: Dollars that stand for none in a logarithm. By definition.
    tiny_usd: float = 1e-9


P = Params()


class Profile:
    """Expected dollars per minute of every series.

    State: usual dollars by hour of the day and of the week, a level, its drift, a mean.
    Update: when an hour ends; formulae in docs/explain/the-expectation.md.
    Score: dollars a minute expected now.
    Source: running means and an exponential level, in the spirit of Holt and Winters.
    """

    def __init__(self, capacity: int, *, holds: bool = False) -> None:
        """With `holds`, what is known of a series stays as it is while an alert on it is open."""
        self._holds = holds
        self.columns = Columns(
            {
                # The hours take much of a series' memory: 255 visits are plenty, and so are the two digits that a
                # logarithm keeps in float16, for hours of the week of which each newest one counts for a third.
                "of_day": Column((24,), np.float32),
                "of_day_visits": Column((24,), np.uint8),
                "of_week_log": Column((168,), np.float16, fill=np.log(P.tiny_usd)),
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
        share = np.minimum(1.0, step_min / np.clip(age_min, step_min, P.mean_horizon_min))
        share = np.where(frozen, P.mean_frozen_share * share, share)
        limit = np.where(looking, np.inf, P.mean_clip_ratio * mean + P.mean_clip_usd_per_min)
        mean += share * (np.clip(usd_per_min, 0.0, limit) - mean)

    def learn_hour(self, hour: LocalHour, usd: Floats, expected_usd: Floats, whole: Bools, frozen: Bools) -> None:
        """A closed hour: its dollars, what was expected, which series saw enough of it and which have an open alert."""
        known = self.columns["of_day_visits"][hour.of_day] > 0
        early = self.columns["of_day_visits"][hour.of_day] < P.clip_after_visits
        if self._holds:
            whole = whole & ~(frozen & known)
        limit = np.where(early, np.inf, P.clip_ratio * expected_usd + P.clip_usd)
        limit = np.where(frozen, np.minimum(limit, P.frozen_clip_ratio * expected_usd), limit)
        usd = np.clip(usd, 0.0, limit)
        base = usd * np.exp(-self.columns["level"])
        of_day, of_week = self.columns["of_day"][hour.of_day], self._week_usd(hour.of_week)
        of_day[...] = self._visited("of_day", hour.of_day, of_day, base, P.of_day_share, whole)
        of_week = self._visited("of_week", hour.of_week, of_week, base, P.of_week_share, whole)
        self.columns["of_week_log"][hour.of_week] = np.log(np.maximum(of_week, P.tiny_usd))
        # A level is a ratio to the profile: the first visit of an hour says nothing about it.
        self._learn_level(usd, expected_usd, whole & known)

    def settle(self, log_ratio: Floats) -> None:
        """Move the level of each series by `log_ratio`, the logarithm of actual over expected; nan leaves it alone."""
        moved = np.isfinite(log_ratio)
        level = self.columns["level"]
        level += np.where(moved, log_ratio, 0.0)
        np.clip(level, -P.level_max, P.level_max, out=level)
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
        pad = P.pad_min * self.mean + P.tiny_usd
        ratio = np.clip(np.log((usd + pad) / (expected_usd + pad)), -1.0, 1.0)
        drift += np.where(taught, (np.clip(P.drift_gain * ratio, -1.0, 1.0) - drift) / P.drift_hours, 0.0)
        step = P.level_step + P.level_fast_step * np.maximum(0.0, np.abs(drift) - P.drift_from) / 0.4
        level += np.where(taught, step * ratio, 0.0)
        level *= np.where(taught, P.level_keep, 1.0)
        np.clip(level, -P.level_max, P.level_max, out=level)
