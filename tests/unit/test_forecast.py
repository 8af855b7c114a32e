"""Month-end forecasts: methods by length of history, odd days, intervals, breaches."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.days import DailySpend, clean, day_of, month_starts, number_of
from curb.detector.forecast.month_end import (
    Forecast,
    Period,
    Today,
    choose,
    fill,
    forecast,
    holt_winters,
    last_week,
    quantile,
    weekday_level,
    weekly_change,
    without_one_offs,
)

#: Wednesday, 1 January 2025.
NEW_YEAR = number_of(date(2025, 1, 1))
JANUARY = Period(NEW_YEAR, NEW_YEAR + 31)


def weekly(days: int, first_day: int = NEW_YEAR, weekend: float = 0.2) -> DailySpend:
    """$10 on working days, less on weekends."""
    weekday = (first_day + np.arange(days) + 3) % 7
    return DailySpend(first_day, np.where(weekday < 5, 10.0, 10.0 * weekend))


def test_days_are_calendar_days() -> None:
    assert day_of(NEW_YEAR) == date(2025, 1, 1)
    assert month_starts(NEW_YEAR, NEW_YEAR + 62) == [0, 31, 59]


@pytest.mark.parametrize(("days", "method"), [(8, "last_7_days"), (20, "weekday_level"), (40, "median")])
def test_the_method_follows_the_length_of_history(days: int, method: str) -> None:
    period = Period(NEW_YEAR, NEW_YEAR + 60)
    assert forecast(weekly(days), period).method.startswith(method)


def test_without_libraries_the_weekday_method_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_prophet, "find_spec", lambda name: None)
    found = forecast(weekly(60), Period(NEW_YEAR + 31, NEW_YEAR + 90))
    assert found.method == "weekday_level"
    assert found.missing == ("prophet", "statsmodels")


def test_a_quick_answer_makes_no_fit() -> None:
    assert choose(100, thorough=False)[0] == "weekday_level"


def test_a_regular_month_is_forecast_to_the_dollar() -> None:
    days = weekly(41, NEW_YEAR - 31)
    found = forecast(days, JANUARY, thorough=False)
    actual = float(weekly(31).usd.sum())
    assert found.spent_usd == pytest.approx(float(weekly(10).usd.sum()))
    assert found.expected_usd == pytest.approx(actual, rel=0.02)
    assert found.low_usd <= found.expected_usd <= found.high_usd
    assert found.n_errors > 0


def test_short_histories_get_a_quarter_to_each_side() -> None:
    found = forecast(DailySpend(NEW_YEAR, np.full(10, 5.0)), JANUARY)
    rest = 21 * 5.0
    assert found.expected_usd == pytest.approx(50 + rest)
    assert found.low_usd == pytest.approx(50 + 0.75 * rest, rel=0.01)
    assert found.high_usd == pytest.approx(50 + 1.25 * rest, rel=0.01)


def test_nothing_is_below_what_is_spent() -> None:
    days = DailySpend(NEW_YEAR, np.concatenate((np.full(29, 100.0), [0.0])))
    found = forecast(days, JANUARY, thorough=False)
    assert found.low_usd >= found.spent_usd == pytest.approx(2900.0)


def test_the_day_that_runs_counts_as_far_as_it_is_over() -> None:
    days = DailySpend(NEW_YEAR, np.full(30, 10.0))
    found = forecast(days, JANUARY, Today(usd=9.0, elapsed=0.75), thorough=False)
    assert found.spent_usd == pytest.approx(309.0)
    assert found.expected_usd == pytest.approx(311.5, rel=0.01)


def test_what_was_not_seen_is_expected_and_not_spent() -> None:
    usd, seen = np.full(20, 10.0), np.ones(20)
    usd[3], seen[3] = 2.5, 0.25
    usd[4] = np.nan
    usd[16], seen[16] = 8.0, 0.8
    found = forecast(DailySpend(NEW_YEAR, usd, seen), JANUARY, thorough=False)
    assert found.spent_usd == pytest.approx(17 * 10.0 + 2.5 + 8.0), "the sum of what came"
    assert found.imputed_usd == pytest.approx((0.75 + 1.0 + 0.2) * 10.0, rel=0.02)
    assert found.expected_usd == pytest.approx(found.spent_usd + found.imputed_usd + found.rest_usd)
    assert found.low_usd >= found.spent_usd + found.imputed_usd
    assert found.breach_probability(found.spent_usd - 0.01) == 1.0
    assert 0.9 < found.breach_probability(found.spent_usd + 1.0) < 1.0


def test_a_period_that_is_over_may_have_hours_that_nobody_saw() -> None:
    usd, seen = np.full(40, 10.0), np.ones(40)
    usd[30], seen[30] = 5.0, 0.5
    found = forecast(DailySpend(NEW_YEAR, usd, seen), JANUARY)
    assert (found.spent_usd, found.imputed_usd, found.expected_usd) == (305.0, 5.0, 310.0)
    assert (found.breach_probability(304.0), found.breach_probability(309.0)) == (1.0, 1.0)
    assert found.breach_probability(311.0) == 0.0


def test_a_period_that_is_over_is_its_sum() -> None:
    found = forecast(DailySpend(NEW_YEAR, np.full(40, 10.0)), JANUARY)
    assert (found.expected_usd, found.low_usd, found.high_usd) == (310.0, 310.0, 310.0)
    assert found.breach_probability(309.0) == 1.0
    assert found.breach_probability(311.0) == 0.0


def test_a_period_that_has_not_begun() -> None:
    days = DailySpend(NEW_YEAR - 20, np.full(18, 10.0))
    found = forecast(days, JANUARY, Today(9.0, 0.5))
    assert found.spent_usd == 0.0
    assert found.expected_usd == pytest.approx(310.0, rel=0.01)
    assert found.next_day == NEW_YEAR
    assert found.breach_date(15.0) == date(2025, 1, 2)


def test_no_spend_at_all() -> None:
    found = forecast(DailySpend(NEW_YEAR, np.zeros(20)), JANUARY)
    assert found.expected_usd == found.high_usd == 0.0
    assert found.breach_probability(1.0) == 0.0
    assert found.breach_date(1.0) is None
    assert forecast(DailySpend(NEW_YEAR, np.zeros(0)), JANUARY).expected_usd == 0.0


# --- odd days -----------------------------------------------------------------------------------------------------


def test_fixed_charges_of_the_first_are_expected_on_the_next_first_only() -> None:
    days = weekly(80, NEW_YEAR, weekend=1.0)
    days.usd[month_starts(NEW_YEAR, NEW_YEAR + 80)] += 500.0
    cleaned = clean(days)
    assert cleaned.month_start_usd == pytest.approx(500.0)
    assert np.nanmax(cleaned.usd) == pytest.approx(10.0)
    march = Period(NEW_YEAR + 59, NEW_YEAR + 90)
    assert forecast(days, march, thorough=False).expected_usd == pytest.approx(500 + 310, rel=0.01)
    quarter = Period(NEW_YEAR + 59, NEW_YEAR + 120)  # March and April
    assert forecast(days, quarter, thorough=False).expected_usd == pytest.approx(1000 + 610, rel=0.01)


def test_a_credit_counts_when_it_comes_and_is_not_expected_again() -> None:
    days = DailySpend(NEW_YEAR, np.full(20, 10.0))
    days.usd[15] = -400.0
    found = forecast(days, JANUARY)
    assert found.spent_usd == pytest.approx(190 - 400)
    assert found.rest_usd == pytest.approx(110.0, rel=0.01)
    assert found.low_usd >= found.spent_usd


def test_empty_days_of_a_bill_are_no_lower_level() -> None:
    days = DailySpend(NEW_YEAR, np.full(20, 10.0))
    days.usd[14:20] = 0.0
    assert forecast(days, JANUARY).rest_usd == pytest.approx(110.0, rel=0.01)


def test_what_is_switched_off_stays_off() -> None:
    days = DailySpend(NEW_YEAR - 30, np.concatenate((np.full(30, 10.0), np.zeros(20))))
    assert forecast(days, JANUARY, thorough=False).rest_usd < 0.1 * 110


def test_free_weekends_are_a_habit_not_a_gap() -> None:
    days = weekly(49, NEW_YEAR - 31, weekend=0.0)
    coming = np.array(forecast(days, JANUARY, thorough=False).daily_usd)
    weekend = (NEW_YEAR + 18 + np.arange(13) + 3) % 7 >= 5
    assert coming[weekend].max() < 2.5
    assert coming[~weekend].min() > 8.0


def test_unknown_days_cost_what_days_do() -> None:
    days = DailySpend(NEW_YEAR, np.full(20, 10.0))
    days.usd[3:6] = np.nan
    assert forecast(days, JANUARY).expected_usd == pytest.approx(310.0, rel=0.01)


def test_half_seen_days_are_made_up_for_and_teach_nothing() -> None:
    seen = np.ones(20)
    seen[10] = 0.5
    days = DailySpend(NEW_YEAR, np.full(20, 10.0), seen)
    days.usd[10] = 5.0
    assert np.isnan(clean(days).usd[9])  # the first day is left out
    assert forecast(days, JANUARY).expected_usd == pytest.approx(310.0, rel=0.01)


def test_one_dear_day_is_no_level() -> None:
    days = DailySpend(NEW_YEAR, np.full(27, 10.0))
    days.usd[20] = 5000.0
    assert forecast(days, JANUARY).rest_usd < 2 * 40
    assert without_one_offs(days.usd, NEW_YEAR).max() < 100


def test_unknown_days_are_filled_from_the_weeks_around() -> None:
    usd = np.arange(21.0)
    usd[[8, 20]] = np.nan
    assert fill(usd)[[8, 20]].tolist() == [8.0, 13.0]
    assert fill(np.full(3, np.nan)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", [last_week, weekday_level, holt_winters])
@pytest.mark.parametrize(
    "usd",
    [np.zeros(40), np.full(40, 7.0), np.eye(1, 40, 39)[0] * 1e6, np.full(40, np.nan), np.zeros(0), np.full(1, 3.0)],
    ids=["zero", "constant", "spike", "unknown", "empty", "one"],
)
def test_methods_are_sane_on_odd_input(method: object, usd: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    coming = method(usd, NEW_YEAR, 30)  # type: ignore[operator]
    assert coming.shape == (30,)
    assert np.all(np.isfinite(coming))
    assert np.all(coming >= 0)


# --- intervals and breaches ---------------------------------------------------------------------------------------


def test_restless_series_have_wider_intervals() -> None:
    rng = np.random.default_rng(1)
    calm = DailySpend(NEW_YEAR - 60, 100 * np.exp(rng.normal(0, 0.05, 70)))
    wild = DailySpend(NEW_YEAR - 60, 100 * np.exp(np.cumsum(rng.normal(0, 0.1, 70))))

    def width(days: DailySpend) -> float:
        found = forecast(days, JANUARY, thorough=False)
        return (found.high_usd - found.low_usd) / found.expected_usd

    assert width(wild) > 3 * width(calm)
    assert weekly_change(wild.usd) > weekly_change(calm.usd)


def test_intervals_of_random_levels_hold_most_outcomes() -> None:
    held = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        usd = 100 * np.exp(np.cumsum(rng.normal(0, 0.03, 81)) + rng.normal(0, 0.2, 81))
        found = forecast(DailySpend(NEW_YEAR - 50, usd[:60]), JANUARY, thorough=False)
        held.append(found.low_usd <= usd[50:].sum() <= found.high_usd)
    assert 0.6 <= np.mean(held) <= 0.98


def test_breach_probability_falls_with_the_amount() -> None:
    rng = np.random.default_rng(3)
    found = forecast(DailySpend(NEW_YEAR - 60, rng.gamma(4, 25, 70)), JANUARY, thorough=False)
    chances = [found.breach_probability(usd) for usd in np.linspace(0, 2 * found.high_usd, 30)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == 1.0
    assert found.breach_probability(found.low_usd) == pytest.approx(0.9, abs=0.06)
    assert found.breach_probability(found.high_usd) == pytest.approx(0.1, abs=0.06)
    assert 0 < chances[-1] < 0.1


def test_breach_date_is_the_day_the_sum_passes() -> None:
    found = forecast(DailySpend(NEW_YEAR, np.full(10, 10.0)), JANUARY)
    assert found.breach_date(125.0) == date(2025, 1, 13)
    assert found.breach_date(99.0) == date(2025, 1, 11)  # over already
    assert found.breach_date(311.0) is None


def test_quantiles_weigh() -> None:
    assert quantile(np.array([1.0, 2.0]), np.array([0.5, 0.5]), 0.5) == pytest.approx(1.5)


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.floats(-1e4, 1e6), st.just(float("nan"))), max_size=70),
    st.integers(1, 90),
    st.floats(0, 1),
)
def test_any_history_gives_an_ordered_answer(values: list[float], length: int, elapsed: float) -> None:
    days = DailySpend(NEW_YEAR, np.array(values, float))
    found = forecast(days, Period(NEW_YEAR, NEW_YEAR + length), Today(5.0, elapsed), thorough=False)
    assert np.isfinite(found.expected_usd)
    assert found.spent_usd <= found.low_usd <= found.expected_usd <= found.high_usd
    assert 0 <= found.breach_probability(100.0) <= 1
    assert isinstance(found, Forecast)


def test_what_comes_later_changes_no_earlier_forecast() -> None:
    rng = np.random.default_rng(7)
    usd = rng.gamma(3, 30, 90)
    before = forecast(DailySpend(NEW_YEAR - 50, usd[:60]), JANUARY, thorough=False)
    again = forecast(DailySpend(NEW_YEAR - 50, usd).until(NEW_YEAR + 10), JANUARY, thorough=False)
    assert before == again
