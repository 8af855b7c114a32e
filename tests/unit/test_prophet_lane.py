"""The slow lane: what is fitted next, bands without Prophet, findings."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.slow_lane import (
    CHANNEL,
    Band,
    BandSeries,
    LaneSettings,
    SlowLane,
    fit_band,
    key_of,
    plan,
    seasonal_band,
)
from curb.detector.forecast.spend_history import HourlySpend

#: Monday, 6 January 2025, midnight UTC.
MONDAY = int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
HOUR = 3600
SETTINGS = LaneSettings()
TEAM = BandSeries(key_of("team", {"team": "search"}), "team", {"team": "search"}, usd_per_day=240.0)
#: $10 an hour, give or take one standard deviation of $1.
FLAT = Band(MONDAY, MONDAY, (10.0,) * 72, (8.7184,) * 72, (11.2816,) * 72, "prophet")


def target(name: str, usd_per_day: float) -> BandSeries:
    return BandSeries(name, "team", {"team": name}, usd_per_day)


# --- planning -----------------------------------------------------------------------------------------------------


def test_stale_dollars_go_first() -> None:
    now = MONDAY + 100 * HOUR
    bands = {name: fitted(FLAT, now - age_h * HOUR) for name, age_h in (("a", 50), ("b", 90), ("fresh", 47))}
    targets = [target("a", 100), target("b", 100), target("fresh", 1e6), target("never", 10), target("small", 1)]
    fits = plan(targets, bands, now, SETTINGS)
    assert [fit.key for fit in fits] == ["b", "never", "a"]
    assert fits[0].urgency == 90 * 100


def fitted(band: Band, fitted_at: float) -> Band:
    return Band(fitted_at, band.first_hour, band.expected, band.low, band.high, band.method)


def test_no_more_fits_than_allowed() -> None:
    fits = plan([target(str(i), 10 + i) for i in range(9)], {}, MONDAY, LaneSettings(max_fits=2))
    assert [fit.key for fit in fits] == ["8", "7"]


# --- bands --------------------------------------------------------------------------------------------------------


def wave(hours: int, noise: float = 0.3) -> HourlySpend:
    rng = np.random.default_rng(1)
    usd = 10 + 5 * np.sin(np.arange(hours) * 2 * np.pi / 24) + rng.normal(0, noise, hours)
    return HourlySpend(MONDAY, usd)


@pytest.mark.parametrize(("absent", "method"), [({"prophet"}, "stl"), ({"prophet", "statsmodels"}, "same_hour")])
def test_without_prophet_a_band_comes_from_the_same_hours(
    monkeypatch: pytest.MonkeyPatch, absent: set[str], method: str
) -> None:
    monkeypatch.setattr(forecast_prophet, "find_spec", lambda name: None if name in absent else object())
    spend = wave(400)
    spend.usd[100:110] = np.nan
    band = fit_band(spend, "UTC", 5.0)
    assert (band.method, band.missing, band.fitted_at) == (method, ("prophet",), 5.0)
    assert band.first_hour == MONDAY + 400 * HOUR
    truth = 10 + 5 * np.sin((400 + np.arange(72)) * 2 * np.pi / 24)
    assert np.abs(np.array(band.expected) - truth).max() < 1.0
    inside = [low <= each <= high for low, each, high in zip(band.low, truth, band.high, strict=True)]
    assert np.mean(inside) > 0.6
    assert band.at(MONDAY) is None
    assert band.z(MONDAY, 1.0) is None


def test_a_constant_series_has_a_band_of_some_width() -> None:
    expected, low, high, _ = seasonal_band(np.full(200, 4.0), MONDAY)
    assert np.allclose(expected, 4.0)
    assert np.allclose(high - low, 0.0, atol=1e-6)
    band = Band(0.0, MONDAY, (4.0,), (4.0,), (4.0,), "stl")
    assert band.z(MONDAY, 5.0) == pytest.approx(1.0 / 0.2)


def test_too_little_history_is_refused() -> None:
    with pytest.raises(ValueError, match="only 50 hours"):
        fit_band(wave(50), "UTC", 0.0)


# --- findings -----------------------------------------------------------------------------------------------------


def test_z_is_one_sided_and_in_dollars() -> None:
    assert FLAT.z(MONDAY, 18.0) == pytest.approx(8.0)
    assert FLAT.z(MONDAY, 2.0) == pytest.approx(-8.0)


def test_an_hour_far_over_the_band_is_one_digest_line() -> None:
    lane = SlowLane(SETTINGS, "UTC")
    assert lane.judge(TEAM, FLAT, MONDAY, 17.9, MONDAY + HOUR) is None
    alert = lane.judge(TEAM, FLAT, MONDAY + HOUR, 30.0, MONDAY + 2 * HOUR)
    assert alert is not None
    assert (alert.tier, alert.kind, alert.channel, alert.status) == ("digest", "runaway", CHANNEL, "firing")
    assert (alert.expected_usd, alert.actual_usd, alert.excess_usd) == (10.0, 30.0, 20.0)
    assert alert.score == pytest.approx(20.0)
    assert "search" in alert.explanation
    assert lane.firing == [alert]


def test_what_goes_on_is_the_same_finding_and_ends_when_it_is_expected_again() -> None:
    lane = SlowLane(SETTINGS, "UTC")
    opened = lane.judge(TEAM, FLAT, MONDAY, 30.0, MONDAY + HOUR)
    assert lane.judge(TEAM, FLAT, MONDAY + HOUR, 40.0, MONDAY + 2 * HOUR) is None
    over = lane.judge(TEAM, FLAT, MONDAY + 2 * HOUR, 10.0, MONDAY + 3 * HOUR)
    assert opened is not None
    assert over is not None
    assert (over.alert_id, over.revision, over.status) == (opened.alert_id, 2, "resolved")
    assert (over.actual_usd, over.excess_usd) == (70.0, 50.0)
    assert lane.firing == []


def test_one_finding_per_tag_and_day() -> None:
    lane = SlowLane(SETTINGS, "UTC")
    usd = [30.0, 10.0] * 20
    told = [lane.judge(TEAM, FLAT, MONDAY + h * HOUR, usd[h], MONDAY + (h + 1) * HOUR) for h in range(40)]
    firing = [h for h, alert in enumerate(told) if alert is not None and alert.status == "firing"]
    assert firing == [0, 24]


def test_a_finding_ends_after_a_day_or_with_its_band() -> None:
    lane = SlowLane(SETTINGS, "UTC")
    told = [lane.judge(TEAM, FLAT, MONDAY + h * HOUR, 30.0, MONDAY + (h + 1) * HOUR) for h in range(30)]
    assert [(h, alert.status) for h, alert in enumerate(told) if alert] == [
        (0, "firing"),
        (24, "resolved"),
        (25, "firing"),
    ]
    over = lane.judge(TEAM, None, MONDAY + 30 * HOUR, 30.0, MONDAY + 31 * HOUR)
    assert over is not None
    assert over.status == "resolved"


@pytest.mark.parametrize("usd", [math.nan, 0.0, -5.0])
def test_odd_hours_open_nothing(usd: float) -> None:
    assert SlowLane(SETTINGS, "UTC").judge(TEAM, FLAT, MONDAY, usd, MONDAY + HOUR) is None


def test_small_excesses_open_nothing() -> None:
    cents = Band(0.0, MONDAY, (0.01,), (0.0,), (0.02,), "prophet")
    assert SlowLane(SETTINGS, "UTC").judge(TEAM, cents, MONDAY, 2.5, MONDAY + HOUR) is None


def test_a_restart_continues_an_open_finding() -> None:
    lane, again = SlowLane(SETTINGS, "UTC"), SlowLane(SETTINGS, "UTC")
    opened = lane.judge(TEAM, FLAT, MONDAY, 30.0, MONDAY + HOUR)
    assert opened is not None
    again.adopt(TEAM.key, opened)
    again.adopt(TEAM.key, msgspec.structs.replace(opened, revision=9))  # this process knows it by now
    assert again.firing == [opened]
    over = again.judge(TEAM, FLAT, MONDAY + HOUR, 10.0, MONDAY + 2 * HOUR)
    assert over == lane.judge(TEAM, FLAT, MONDAY + HOUR, 10.0, MONDAY + 2 * HOUR)
    assert again.judge(TEAM, FLAT, MONDAY + 2 * HOUR, 30.0, MONDAY + 3 * HOUR) is None  # found today already
