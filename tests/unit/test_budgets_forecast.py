"""The forecast: what a period comes to, when its budget is spent, and how likely that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curb.detector.budgets.outlook import Outlook, Pace, outlook
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, settings_of
from tests.fakes.spend import T0


def a_pace(daily: list[float], **fields: Any) -> Pace:
    """Midnight of a Monday, ten days before the period ends, $100 spent of $300."""
    days = np.array([[np.nan] * (56 - len(daily)) + daily]).T
    given: dict[str, Any] = {"spent_usd": 100.0, "amount_usd": 300.0, "usd_per_hour": 1.0, **fields}
    for name in ("spent_usd", "amount_usd", "usd_per_hour"):
        given[name] = np.array([given[name]])
    when: dict[str, Any] = {"now": T0, "day_end": T0 + DAY, "weekday": 0, "period_end": T0 + 10 * DAY}
    return Pace(daily_usd=days, **{**when, **given})


def first(found: Outlook) -> dict[str, float]:
    return {name: float(values[0]) for name, values in found._asdict().items()}


def test_a_steady_pace_goes_on() -> None:
    found = first(outlook(a_pace([24.0] * 28)))
    assert found["total_usd"] == pytest.approx(340.0)
    assert found["low_usd"] < 340.0 < found["high_usd"]
    # $200 left at $24 a day.
    assert (found["breach_at"] - T0) / DAY == pytest.approx(200 / 24)
    assert 0.7 < found["breach_probability"] < 1.0


def test_without_a_whole_day_the_pace_of_the_last_hours_goes_on() -> None:
    found = first(outlook(a_pace([], usd_per_hour=2.0)))
    assert found["total_usd"] == pytest.approx(100 + 10 * 48)


def test_a_short_history_is_the_mean_of_the_last_week() -> None:
    assert first(outlook(a_pace([999.0, *[24.0] * 7])))["total_usd"] == pytest.approx(340.0)


def test_weekends_count_as_weekends() -> None:
    week = [30.0, 30.0, 30.0, 30.0, 30.0, 6.0, 6.0]  # Monday first; the last day is a Sunday
    # Seven days from Monday on, and Monday to Wednesday: the first half at the pace of the last hours.
    found = first(outlook(a_pace(week * 4, usd_per_hour=30 / 24)))
    assert found["total_usd"] == pytest.approx(100 + sum(week) + 90, rel=0.02)


def test_what_is_spent_is_over_now() -> None:
    found = first(outlook(a_pace([24.0] * 28, spent_usd=300.0)))
    assert (found["breach_at"], found["breach_probability"]) == (T0, 1.0)


def test_what_lasts_has_no_date() -> None:
    found = first(outlook(a_pace([5.0] * 28, usd_per_hour=0.2)))
    assert np.isnan(found["breach_at"])
    assert found["breach_probability"] < 0.01
    assert found["low_usd"] >= 100.0


def test_within_the_day_it_is_spent_at_the_present_pace() -> None:
    found = first(outlook(a_pace([], usd_per_hour=50.0)))
    assert (found["breach_at"] - T0) / HOUR == pytest.approx(4.0)


@pytest.mark.parametrize("daily", [[], [0.0] * 30, [5.0], [-3.0] * 20, [1e9, 0.0] * 10])
@pytest.mark.parametrize("days", [0, 1, 92])
def test_it_is_always_a_number(daily: list[float], days: int) -> None:
    found = first(outlook(a_pace(daily, usd_per_hour=0.0, period_end=T0 + days * DAY)))
    for name in ("total_usd", "low_usd", "high_usd", "breach_probability"):
        assert np.isfinite(found[name])
    assert found["low_usd"] <= found["total_usd"] <= found["high_usd"]
    assert 0.0 <= found["breach_probability"] <= 1.0


def test_a_quarter_of_an_hour_is_no_history() -> None:
    fed = Fed(settings_of(a_budget(amount_usd=100, period="day")), ("team", "a"))
    for minute in range(0, 15, 5):
        fed.spend(T0 + 60 * minute, 0.5)
    status = fed.status()
    assert (status.spent_usd, status.forecast_usd, status.breach_at, status.breach_probability) == (1.5, *[None] * 3)
    fed.spend(T0 + 900, 100.0)
    status = fed.status()
    assert (status.forecast_usd, status.breach_probability) == (None, 1.0)


@pytest.mark.parametrize(("hour", "known"), [(0, True), (5, True), (7, False)])
def test_a_first_day_counts_if_most_of_it_was_seen(hour: int, known: bool) -> None:
    fed = Fed(settings_of(a_budget(amount_usd=100, period="day")), ("team", "a"))
    fed.spend(T0 + hour * HOUR, 0.5)
    fed.spend(T0 + 23 * HOUR, 0.5)
    assert fed.status().forecast_usd is None
    fed.spend(T0 + DAY + HOUR, 0.5)
    assert (fed.status().forecast_usd is not None) == known
    fed.spend(T0 + 2 * DAY + HOUR, 0.5)
    assert fed.status().forecast_usd is not None


def test_rows_remember_their_days_across_gaps_and_late_dollars() -> None:
    fed = Fed(settings_of(a_budget(amount_usd=3000, period="month")), ("team", "a"))
    for day in range(4):
        fed.spend(T0 + day * DAY, 10.0)
    fed.spend(T0 + 6 * DAY, 10.0)  # two silent days
    fed.budgets.late(np.array([0]), np.array([5.0]), np.array([T0 + 2 * DAY]), T0 + 6 * DAY)
    days = fed.budgets._history.days(np.array([0]))[:, 0]
    # The first day was seen in part only; today is not over.
    assert days[~np.isnan(days)].tolist() == [10.0, 15.0, 10.0, 0.0, 0.0]
    assert fed.status().forecast_usd is not None


@pytest.mark.parametrize("gap", [55, 56, 57, 58, 112, 300])
def test_a_series_that_returns_after_months_has_silent_days_behind_it(gap: int) -> None:
    fed = Fed(settings_of(a_budget(amount_usd=3000, period="month")), ("team", "a"))
    for day in range(3):
        fed.spend(T0 + day * DAY, 10.0)
    fed.spend(T0 + (2 + gap) * DAY, 7.0)
    days = fed.budgets._history.days(np.array([0]))[:, 0]
    seen = [10.0] * sum(gap + 2 - day <= 56 for day in (1, 2))
    assert days[~np.isnan(days)].tolist() == seen + [0.0] * min(56 - len(seen), gap - 1)
    assert fed.status().spent_usd == 7.0
