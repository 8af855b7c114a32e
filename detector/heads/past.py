"""The dollars head: scores the spend of every series against its own past, over five windows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.heads.active_minutes import Activity
from curb.detector.heads.drift import Drift
from curb.detector.heads.held_minimum import Hold
from curb.detector.heads.hour_z import Hourly
from curb.detector.heads.peaks import Peaks
from curb.detector.heads.profile import Profile
from curb.detector.heads.tail import Tail
from curb.detector.heads.window_score import (
    SILENT,
    Floors,
    RatioByWindow,
    UsdByWindow,
    WindowScores,
    score_windows,
    trust,
)
from curb.detector.heads.windows import WINDOWS_MIN, Windows
from curb.detector.state.bucket import Scores
from curb.detector.state.columns import Bools, Column, Columns, Floats, Parts
from curb.detector.state.local_time import LocalHour, local_hour
from curb.stream.records.spend import Baseline
from curb.stream.settings import Settings
from curb.stream.time import DAY_S


class Recent:
    """Plain mean of the last `minutes`. An exponential average needs 40 minutes to forget one of a thousandfold.

    State: the last minutes.
    Update: each step replaces the oldest.
    Score: their mean.
    Source: a plain moving average.
    """

    def __init__(self, minutes: float, step_min: float, capacity: int) -> None:
        self._steps = max(1, round(minutes / step_min))
        self.columns = Columns({"last": Column((self._steps,), by_bucket=True)}, capacity)

    def push(self, usd_per_min: Floats, count: int) -> None:
        """Add step number `count` (any running number)."""
        self.columns["last"][count % self._steps] = usd_per_min

    def mean(self) -> Floats:
        """Dollars per minute, shape (series,)."""
        return np.asarray(self.columns["last"].mean(axis=0))

    def correct(self, index: NDArray[np.intp], usd_per_min: Floats, steps_ago: int, count: int) -> None:
        """Late dollars of the step `steps_ago` before step number `count`, the newest."""
        if steps_ago < self._steps:
            np.add.at(self.columns["last"][(count - steps_ago) % self._steps], index, usd_per_min)


__all__ = ["WINDOWS_MIN", "DollarsHead", "Scores", "Step"]


_log = logging.getLogger(__name__)


class Params(NamedTuple):
    #: Multiple of the dollar floors before the warm-up is over. Prototype.
    cold_factor: float = 5.0
    #: Multiple of the dollar floors before the series is settled. Prototype.
    young_factor: float = 2.0
    #: Seconds that a series which was there when watching began is only looked at: its past is not known. By hand.
    look_s: int = 3600
    #: Score above which a surprise adds nothing to a page. By hand.
    page_score_max: float = 25.0
    #: Standard deviations of the last hour that count as nothing in the mean of score and z. Simulation of 140
    #: series-months, 22 to 29 incidents a kind: the best single rule for pages of four.
    page_z_free: float = 5.0
    #: Dollars of an hour from which on it has a ratio to the expected. By definition.
    least_usd: float = 1e-9
    #: Minutes of an hour that must have been seen to learn it. By hand.
    whole_hour_min: float = 30.0
    #: Minutes of mean spend in the pad of the log ratio for drift detection, as in the profile. Prototype.
    pad_min: float = 6.0


P = Params()


class ScoreSettings(Settings):
    """When spend that is unusual for its own series counts. Windows are 5 min, 30 min, 2 h, 8 h and 1 day."""

    digest_threshold: float = Field(
        default=2.0, description="A line in the digest opens at this score, and for what users explain nothing more."
    )
    notice_threshold: float = Field(
        default=6.0,
        description="A notice opens at this score. 0 is about one false notice per series and month if the past were "
        "a perfect guide; each point more is ten times rarer, or ten times as many dollars.",
    )
    page_threshold: float = Field(
        default=6.0,
        description="A page, and with it a throttle, needs this score of two agreeing statistics.",
    )
    hold_minutes: int = Field(
        default=10,
        ge=1,
        le=60,
        description="How long a score must hold before it counts. Legitimate bursts are shorter than ten minutes.",
    )
    fast_lane: float = Field(
        default=20.0,
        ge=0,
        description="A score this much over the threshold counts at once, without holding.",
    )
    warmup_days: float = Field(
        default=3.0,
        ge=0,
        description="Series known for less than this many days cannot page by statistics, and need five times the "
        "dollar floor for a notice.",
    )
    settled_days: float = Field(
        default=7.0,
        ge=0,
        description="Series known for less than this many days need twice the dollar floor.",
    )
    floors_usd: UsdByWindow = Field(
        default=(1.0, 3.0, 6.0, 12.0, 25.0),
        description="Excess dollars within each of the five windows below which nothing counts.",
    )
    ratio_floors: RatioByWindow = Field(
        default=(2.0, 1.7, 1.6, 1.5, 1.4),
        description="Spend as a multiple of the expected, within each of the five windows, below which nothing counts.",
    )


@dataclass(frozen=True)
class Step:
    """One closed bucket of all N series of a shard; arrays of shape (N,)."""

    #: Bucket start, epoch seconds.
    start: int
    #: Dollars.
    cost: Floats
    requests: Floats
    #: The whole fleet was silent: nothing is learned.
    gap: bool
    #: Series with an open alert: they learn little or nothing, and not the incident.
    frozen: Bools


class DollarsHead(Parts):
    """Scores with what was known before the step, then learns from it. Pure: same steps, same scores.

    State: profile, windows, tail, peaks, hourly z, recent mean, active minutes.
    Update: with every bucket, at a twentieth while in doubt; hours when they end.
    Score: as the demand head, less the peaks; for pages the mean with the z of the hour.
    Source: a Bonferroni correction in powers of ten; the rest our own, no paper.
    """

    moments = ("newest",)

    def __init__(
        self,
        settings: ScoreSettings,
        step_s: int,
        time_zone: str,
        capacity: int = 64,
        drift: Drift | None = None,
        *,
        holds: bool = False,
        by_day: bool = False,
    ) -> None:
        """`step_s` is the bucket length in seconds, `drift` what says when the level of a series moves at once.

        With `holds`, series with an open alert keep their expectation, however long it is open. With `by_day`, what
        is usual is read again once a day and not each hour: a bill brings a day at once, and this is a third of the
        work.
        Raises ValueError if `step_s` is under 10 or does not divide an hour.
        """
        if step_s < 10 or 3600 % step_s:
            raise ValueError(f"step_s must divide 3600 and be at least 10, not {step_s}")
        self._settings, self._drift, self._by_day = settings, drift, by_day
        self._step_s = step_s
        self._step_min = step_s / 60
        self._zone = ZoneInfo(time_zone)
        self._floors = Floors(settings.floors_usd, settings.ratio_floors)
        self._profile = Profile(capacity, holds=holds)
        self._windows = Windows(self._step_min, capacity)
        self._tail = Tail(len(WINDOWS_MIN), capacity)
        self._peaks = Peaks(len(WINDOWS_MIN), capacity)
        self._hourly = Hourly(settings.floors_usd[1], capacity)
        self._activity = Activity(step_s, capacity)
        self._recent = Recent(WINDOWS_MIN[0], self._step_min, capacity)
        hold_steps = math.ceil(settings.hold_minutes / self._step_min)
        self._held_score = Hold(hold_steps, SILENT, capacity)
        self._held_z = Hold(hold_steps, 0.0, capacity)
        self._series = _by_series(capacity)
        #: Start of the newest step, and of the local hour that is open; None before the first step.
        self._newest: int | None = None
        self._open: LocalHour | None = None
        self.parts = {
            "series": self._series,
            "profile": self._profile.columns,
            "windows": self._windows.columns,
            "tail": self._tail.columns,
            "peaks": self._peaks.columns,
            "hourly": self._hourly.columns,
            "activity": self._activity.columns,
            "recent": self._recent.columns,
            "held_score": self._held_score.columns,
            "held_z": self._held_z.columns,
        }

    @property
    def n(self) -> int:
        """Number of series in use."""
        return self._series.n

    @property
    def first_seen(self) -> NDArray[np.int64]:
        """Epoch seconds at which each series was born."""
        first_seen: NDArray[np.int64] = self._series["first_seen"]
        return first_seen

    @property
    def expected_usd(self) -> Floats:
        """Dollars expected in a step like the newest one."""
        expected: Floats = self._series["expected_now"] * self._step_min
        return expected

    def grow(self, n: int, first_seen: int) -> None:
        """Use `n` series; those that are new were born at `first_seen` (epoch seconds)."""
        old = self.n
        for part in self.parts.values():
            part.grow(n)
        self._series["first_seen"][old:] = first_seen

    def step(self, step: Step) -> Scores:
        """Score the step with what was known before it, then learn from it. Steps come in order of time."""
        self._advance(step.start, step.frozen)
        self._series["frozen"][...] = step.frozen
        usd_per_min = step.cost / self._step_min
        expected = self._expected(step.start)
        if step.gap:
            self._windows.decay(1)
            self._hourly.decay(1, self._step_min)
        else:
            self._windows.add(usd_per_min, expected)
            self._hourly.add(usd_per_min, expected, self._step_min)
        self._recent.push(usd_per_min, self._count())
        self._fast(expected, step.requests / self._step_min)
        age_days = np.maximum(0.0, (step.start + self._step_s - self._series["first_seen"]) / DAY_S)
        ratio, excess, raw = self._channels(age_days)
        looking = self._looking(step.start)
        raw[:, looking] = SILENT
        scores = self._decide(raw - self._peaks.penalty, excess, age_days)
        if not step.gap:
            self._learn(step, ratio, raw, age_days, looking)
        return scores

    def skip(self, steps: int, start: int) -> None:
        """`steps` silent steps of the whole fleet from `start` on: averages fade, nothing is learned."""
        ahead = max(0, steps - self._held_score.steps)
        # An alert stays open through the silence: the hour before it is still not learned as it was.
        frozen = self._series["frozen"].copy()
        if ahead:
            self._advance(start + (ahead - 1) * self._step_s, frozen)
            self._windows.decay(ahead)
            self._hourly.decay(ahead, self._step_min)
            self._fast(self._series["expected_now"], np.zeros(self.n), ahead)
        zero = np.zeros(self.n)
        for i in range(ahead, steps):
            self.step(Step(start + i * self._step_s, zero, zero, True, frozen))

    def forget(self, index: NDArray[np.intp]) -> None:
        """Incidents of these series are over: their dollars are taken out of all windows."""
        self._windows.forget(index)
        self._hourly.forget(index)

    def late(self, index: NDArray[np.intp], cost: Floats, bucket_start: int) -> None:
        """Dollars that came after their bucket closed count in the windows still running, faded by their age."""
        if self._newest is None or bucket_start > self._newest:
            raise ValueError(f"bucket {bucket_start} is not closed yet")
        usd_per_min = cost / self._step_min
        steps_ago = (self._newest - bucket_start) // self._step_s
        self._windows.correct(index, usd_per_min, steps_ago)
        self._hourly.correct(index, usd_per_min, steps_ago, self._step_min)
        self._recent.correct(index, usd_per_min, steps_ago, self._count())
        if self._open is not None and self._middle_hour(bucket_start).start == self._open.start:
            np.add.at(self._series["hour_usd"], index, cost)

    def baseline(self, i: int) -> Baseline:
        """What is normal for series `i`."""
        end = self._newest + self._step_s if self._newest is not None else 0
        return Baseline(
            expected_usd_per_hour=60 * float(self._series["expected_now"][i]),
            requests_per_minute_p95=self._activity.percentile(i, 0.95),
            requests_per_minute_mean=self._activity.mean(i),
            known_days=max(0.0, (end - int(self._series["first_seen"][i])) / DAY_S),
        )

    def dump(self) -> dict[str, NDArray[Any]]:
        """The columns, the newest step, and the drift detectors as bytes."""
        arrays = super().dump()
        if self._drift is not None:
            arrays["drift"] = np.frombuffer(self._drift.dump(), np.uint8)
        return arrays

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made; drift detectors of another release start from nothing."""
        super().load(arrays)
        if self._drift is not None and "drift" in arrays:
            lost = self._drift.load(arrays["drift"].tobytes())
            if lost:
                _log.warning(lost)
        self._open = None if self._newest is None else self._middle_hour(self._newest)

    def _middle_hour(self, start: int) -> LocalHour:
        return local_hour(start + self._step_s // 2, self._zone)

    def _expected(self, start: int) -> Floats:
        """Dollars per minute expected in the step, which are also kept for `baseline`."""
        hour = self._middle_hour(start)
        beside = local_hour(start + self._step_s // 2 + (3600 if hour.fraction >= 0.5 else -3600), self._zone)
        expected = self._profile.expected(hour, beside)
        self._series["expected_now"][...] = expected
        return expected

    def _looking(self, start: int) -> Bools:
        """Series of the stream's first days in their first hour. One born later has a known past: nothing."""
        first_seen = self._series["first_seen"]
        began = int(first_seen.min(initial=start))
        return (first_seen < began + self._settings.warmup_days * DAY_S) & (start - first_seen < P.look_s)

    def _fast(self, expected: Floats, requests_per_min: Floats, steps: int = 1) -> None:
        """The 5-minute averages; they run on in silence, so that a throttle sees the rate fall back."""
        share = 1 - (1 - min(1.0, self._step_min / WINDOWS_MIN[0])) ** steps
        for name, value in (("expected_fast", expected), ("requests_fast", requests_per_min)):
            held = self._series[name]
            held += share * (value - held)

    def _channels(self, age_days: Floats) -> WindowScores:
        """The windows, scored before the penalty."""
        settings = self._settings
        young = np.where(age_days < settings.settled_days, P.young_factor, 1.0)
        needed = self._floors.usd * np.where(age_days < settings.warmup_days, P.cold_factor, young)
        return score_windows(self._windows, self._tail, self._floors, needed, self._profile.mean)

    def _decide(self, score: Floats, excess: Floats, age_days: Floats) -> Scores:
        channel = score.argmax(axis=0)
        best = np.maximum(score.max(axis=0), SILENT)
        count = self._count()
        notice = np.maximum(self._held_score.push(best, count), best - self._settings.fast_lane)
        z = self._held_z.push(self._hourly.z(self._profile.mean), count)
        page = 0.5 * np.clip(notice, SILENT, P.page_score_max) + 0.5 * (z - P.page_z_free)
        return Scores(
            notice=notice,
            page=np.where(age_days < self._settings.warmup_days, -np.inf, page),
            channel=channel,
            expected_rate=60 * self._series["expected_now"],
            rate=60 * self._recent.mean(),
            expected_fast=60 * self._series["expected_fast"],
            excess=excess[channel, np.arange(self.n)],
            requests_rate=self._series["requests_fast"].copy(),
        )

    def _learn(self, step: Step, ratio: Floats, raw: Floats, age_days: Floats, looking: Bools) -> None:
        trusted = trust(raw - self._peaks.penalty, step.frozen, age_days)
        days = np.where(step.cost > 0, trusted * self._step_s / DAY_S, 0.0)
        taught = np.flatnonzero(days > 0)
        self._tail.learn_of(taught, np.log(ratio[:, taught]), days)
        self._peaks.learn(raw)
        usd_per_min = step.cost / self._step_min
        self._profile.learn_mean(usd_per_min, 1440 * age_days, self._step_min, step.frozen, looking)
        self._activity.add(step.requests, step.start, trusted)
        series = self._series
        for name, amount in (("hour_usd", step.cost), ("hour_expected", series["expected_now"] * self._step_min)):
            held = series[name]
            held += amount
        minutes = series["hour_minutes"]
        minutes += self._step_min

    def _count(self) -> int:
        return 0 if self._newest is None else self._newest // self._step_s

    def _advance(self, start: int, frozen: Bools) -> None:
        """Move to the step at `start`: close the local hour and day before it, if it is the first of a new one."""
        if self._newest is not None and start <= self._newest:
            raise ValueError(f"step {start} is not after {self._newest}")
        before, now = self._open, self._middle_hour(start)
        self._newest, self._open = start, now
        self._peaks.discard(frozen)
        if before is None or before.start == now.start:
            return
        self._close_hour(before, frozen)
        hours = (now.start - before.start) / 3600
        if not self._by_day:
            self._tail.refresh(hours)
        elif now.day != before.day:
            self._tail.refresh(24.0 * (now.day - before.day))
        self._activity.fade(hours)
        if now.day != before.day:
            self._peaks.close_day(np.maximum(0.0, (start - self._series["first_seen"]) / DAY_S))

    def _close_hour(self, hour: LocalHour, frozen: Bools) -> None:
        series = self._series
        minutes = series["hour_minutes"]
        whole = minutes >= P.whole_hour_min
        scale = np.where(whole, 60 / np.maximum(minutes, 1.0), 0.0)
        usd, expected = np.maximum(scale * series["hour_usd"], 0.0), scale * series["hour_expected"]
        self._profile.learn_hour(hour, usd, expected, whole, frozen)
        self._hourly.learn_hour(usd, expected, whole & ~frozen)
        if self._drift is not None:
            pad = P.pad_min * self._profile.mean
            ratio = np.log(np.maximum(usd + pad, P.least_usd) / np.maximum(expected + pad, P.least_usd))
            self._profile.settle(self._drift.hour(ratio, whole & (usd + expected > 0)))
        for name in ("hour_usd", "hour_expected", "hour_minutes"):
            series[name][...] = 0.0


def _by_series(capacity: int) -> Columns:
    """What the head knows of each series beside its parts."""
    return Columns(
        {
            "first_seen": Column(dtype=np.int64),
            "frozen": Column(dtype=np.bool_),
            "expected_now": Column(),
            "expected_fast": Column(),
            "requests_fast": Column(),
            "hour_usd": Column(),
            "hour_expected": Column(),
            "hour_minutes": Column(),
        },
        capacity,
    )
