"""The slow lane: an hour that costs far more than a fitted band expected is a finding, one per series and day.

Planning and judging are pure; `fit_band` runs in a worker process. Findings are advice: they never page or throttle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from pydantic import Field

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.pool import urgency
from curb.detector.forecast.spend_history import HourlySpend
from curb.detector.state import wording as explain
from curb.detector.state.columns import Floats
from curb.stream import money
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved
from curb.stream.records.spend import Alert
from curb.stream.settings import Settings
from curb.stream.time import DAY_S, HOUR_S

CHANNEL = "prophet/hour"
#: Hours that a fit sees (three weeks, so that a weekly season shows) and forecasts (three days: refits may be late).
_FIT_HOURS, _AHEAD_HOURS = 21 * 24, 72
#: The band holds 80 % of hours, which is 1.2816 standard deviations of a normal distribution to each side.
_INTERVAL, _INTERVAL_SD = 0.8, 1.2816
#: Least standard deviation of an hour: this share of the mean of the band, and these dollars. Chosen by hand.
_MIN_SD_SHARE, _MIN_SD_USD = 0.05, 0.10
#: A finding ends with an hour under this z. Chosen by hand.
_OVER_Z = 3.0


class LaneSettings(Settings):
    """The slow lane: hours that Prophet, or a simpler method in its place, did not expect. It never throttles."""

    enabled: bool = Field(default=True, description="Whether hours are compared with a fitted band.")
    z_threshold: float = Field(default=8.0, gt=0, description="Standard deviations over the band's middle.")
    min_excess_usd: float = Field(default=3.0, ge=0, description="Dollars of an hour over the expected, at least.")
    refit_hours: float = Field(default=48, gt=0, description="Age at which a band is due to be fitted again.")
    min_history_hours: int = Field(default=72, ge=48, description="Known hours before a series gets a band.")
    min_usd_per_day: float = Field(default=5.0, ge=0, description="Series that spend less get no band.")
    max_fits: int = Field(default=50, ge=1, description="Fits asked for per hour, most stale dollars first.")


def key_of(scope: str, tags: Mapping[str, str]) -> str:
    """Text that is the same for the same series."""
    return f"{scope}/{','.join(f'{tag}={value}' for tag, value in sorted(tags.items()))}"


@dataclass(frozen=True)
class BandSeries:
    """A series that may have a band; `key` is `key_of` its scope and tags."""

    key: str
    scope: str
    tags: Mapping[str, str]
    usd_per_day: float


@dataclass(frozen=True)
class Band:
    """Dollars expected per hour from `first_hour` (epoch seconds) on, and 80 % of hours around them."""

    fitted_at: float
    first_hour: int
    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    method: str
    #: Libraries that the method would use and that are not installed.
    missing: tuple[str, ...] = ()

    def at(self, hour: int) -> tuple[float, float, float] | None:
        """Expected, low and high of the hour that begins at `hour`; None outside the band."""
        i = (hour - self.first_hour) // HOUR_S
        return (self.expected[i], self.low[i], self.high[i]) if 0 <= i < len(self.expected) else None

    def z(self, hour: int, usd: float) -> float | None:
        """Standard deviations of `usd` over the expected dollars of the hour; None outside the band."""
        found = self.at(hour)
        if found is None:
            return None
        expected, _, high = found
        least = max(_MIN_SD_SHARE * float(np.mean(self.expected)), _MIN_SD_USD)
        return (usd - expected) / max((high - expected) / _INTERVAL_SD, least)


class Fit(NamedTuple):
    """A fit that is due."""

    key: str
    urgency: float


def plan(targets: Iterable[BandSeries], bands: Mapping[str, Band], now: float, settings: LaneSettings) -> list[Fit]:
    """Fits that are due, most urgent first; series that spend little are left out."""
    due = []
    for target in targets:
        if target.usd_per_day < settings.min_usd_per_day:
            continue
        band = bands.get(target.key)
        age_s = np.inf if band is None else now - band.fitted_at
        if age_s >= settings.refit_hours * HOUR_S:
            due.append(Fit(target.key, urgency(age_s, target.usd_per_day)))
    due.sort(key=lambda fit: (-fit.urgency, fit.key))
    return due[: settings.max_fits]


def fit_band(spend: HourlySpend, time_zone: str, fitted_at: float, min_hours: int = 72) -> Band:
    """The band of the next three days, from Prophet, or without it from the same hours of earlier days.

    Raises ValueError when fewer than `min_hours` hours are known.
    """
    usd = spend.usd[-_FIT_HOURS:]
    first = spend.first_hour + (len(spend.usd) - len(usd)) * HOUR_S
    if int(np.sum(~np.isnan(usd))) < min_hours:
        raise ValueError(f"only {int(np.sum(~np.isnan(usd)))} hours are known, {min_hours} are needed")
    coming = first + len(usd) * HOUR_S
    missing = forecast_prophet.missing(("prophet",))
    if missing:
        expected, low, high, method = seasonal_band(usd, first)
    else:
        expected, low, high = _prophet_band(usd, first, ZoneInfo(time_zone))
        method = "prophet"
    expected = np.maximum(expected, 0.0)
    return Band(
        fitted_at,
        coming,
        expected=tuple(expected.tolist()),
        low=tuple(np.clip(low, 0.0, expected).tolist()),
        high=tuple(np.maximum(high, expected).tolist()),
        method=method,
        missing=missing,
    )


def _prophet_band(usd: Floats, first: int, zone: ZoneInfo) -> tuple[Floats, Floats, Floats]:
    hours = first + HOUR_S * np.arange(len(usd) + _AHEAD_HOURS)
    local = np.array([_local_s(int(at), zone) for at in hours])
    known = ~np.isnan(usd)
    weekly = len(usd) >= 14 * 24
    return forecast_prophet.predict(
        local[: len(usd)][known],
        usd[known],
        local[len(usd) :],
        _INTERVAL,
        weekly_seasonality=weekly,
        daily_seasonality=True,
    )


def seasonal_band(usd: Floats, first: int) -> tuple[Floats, Floats, Floats, str]:
    """Without Prophet: STL (statsmodels) with a season of a day, or else the mean of the same hour of day.

    Returns expected, low and high of the coming hours, shape (hours,), and the name of the method.
    """
    hour_of_day = (first // HOUR_S + np.arange(len(usd) + _AHEAD_HOURS)) % 24
    past, coming = hour_of_day[: len(usd)], hour_of_day[len(usd) :]
    by_hour = np.array([_mean(usd[past == hour]) for hour in range(24)])
    if forecast_prophet.missing(("statsmodels",)):
        expected, residual = by_hour[coming], usd - by_hour[past]
        method = "same_hour"
    else:
        from statsmodels.tsa.seasonal import STL

        filled = np.where(np.isnan(usd), by_hour[past], usd)
        parts = STL(filled, period=24, robust=True).fit()
        season = np.asarray(parts.seasonal, float)
        level = float(np.asarray(parts.trend, float)[-24:].mean())
        expected = level + np.array([season[-24:][past[-24:] == hour].mean() for hour in range(24)])[coming]
        residual = usd - np.asarray(parts.trend, float) - season
        method = "stl"
    width = _INTERVAL_SD * float(np.nanstd(residual))
    return expected, expected - width, expected + width, method


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _local_s(at: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return at + (int(offset.total_seconds()) if offset is not None else 0)


class SlowLane:
    """The open findings. Pure: the same hours and bands in the same order give the same alerts."""

    def __init__(self, settings: LaneSettings, time_zone: str) -> None:
        self._settings, self._zone = settings, ZoneInfo(time_zone)
        self._open: dict[str, Alert] = {}
        #: Local day of the newest finding of each series: there is at most one per day.
        self._found_on: dict[str, int] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the findings that are open."""
        return list(self._open.values())

    def judge(self, target: BandSeries, band: Band | None, hour: int, usd: float, at: float) -> Alert | None:
        """The next revision after the hour that began at `hour` (epoch seconds) cost `usd`; None when nothing changes.

        `at` is the time of the judgement. A finding ends with the first hour that is expected again, or after a day.
        """
        if math.isnan(usd):  # a gap says nothing
            return None
        z = None if band is None else band.z(hour, usd)
        found = self._open.get(target.key)
        if found is not None:
            return self._follow(found, target.key, band, hour, usd, z, at)
        day = _local_s(hour, self._zone) // DAY_S
        if band is None or z is None or z < self._settings.z_threshold or self._found_on.get(target.key) == day:
            return None
        expected = band.expected[(hour - band.first_hour) // HOUR_S]
        if usd - expected < self._settings.min_excess_usd:
            return None
        self._found_on[target.key] = day
        alert = self._open[target.key] = _finding(target, band, hour, usd, expected, z, at)
        return alert

    def _follow(
        self, alert: Alert, key: str, band: Band | None, hour: int, usd: float, z: float | None, at: float
    ) -> Alert | None:
        bounds = None if band is None else band.at(hour)
        if bounds is None or z is None or z < _OVER_Z or at - alert.fired_at >= DAY_S:
            return resolved(self._open.pop(key), at)
        # No revision now: the sums go out with the last one.
        self._open[key] = msgspec.structs.replace(
            alert,
            actual_usd=alert.actual_usd + usd,
            expected_usd=alert.expected_usd + bounds[0],
            excess_usd=alert.excess_usd + usd - bounds[0],
            usd_per_hour=usd,
            expected_usd_per_hour=bounds[0],
        )
        return None

    def adopt(self, key: str, alert: Alert) -> None:
        """Continue a firing finding that a process before this one opened; nothing where this one found something."""
        if key not in self._found_on:
            self._found_on[key] = _local_s(int(alert.started_at), self._zone) // DAY_S
            self._open[key] = alert


def _finding(target: BandSeries, band: Band, hour: int, usd: float, expected: float, z: float, at: float) -> Alert:
    tags = dict(target.tags)
    fingerprint = fingerprint_of("slow_lane", target.scope, sorted(tags.items()))
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, hour),
        revision=1,
        status="firing",
        kind="runaway",
        tier="digest",
        scope=target.scope,
        tags=tags,
        fired_at=at,
        updated_at=at,
        started_at=float(hour),
        expected_usd=expected,
        actual_usd=usd,
        excess_usd=usd - expected,
        usd_per_hour=usd,
        expected_usd_per_hour=expected,
        dollars_at_risk=usd - expected,
        score=z,
        channel=CHANNEL,
        explanation=f"{explain.subject(target.scope, tags)} cost {money.usd(usd)} within an hour; {band.method} "
        f"expected {money.usd(expected)}. That is {z:.0f} standard deviations; this lane only advises.",
    )
