"""Forecast of a period's total, with an interval from the past errors of its own method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.days import CleanDays, DailySpend, clean, day_of, month_starts
from curb.detector.forecast.methods import Method, fill, holt_winters, last_week, prophet_days, weekday_level

Floats = NDArray[np.float64]

#: Days of history from which the weekday method, and the median of several methods, take over: two and four weeks, so
#: that every weekday was seen twice, and a fit has four seasons.
WEEKDAY_FROM_DAYS, MEDIAN_FROM_DAYS = 14, 28
#: Days from which Prophet joins the median: with fewer it takes any slope for a trend.
PROPHET_FROM_DAYS = 56
#: Half width of the interval of the shortest histories, as a share of the dollars still to come, and the limit of its
#: standard deviation where days differ a lot. Chosen by hand.
SHORT_HALF_WIDTH, SHORT_SD_MAX = 0.25, 1.0
#: Share of outcomes within the interval.
INTERVAL = 0.80
#: Newest days that a fit sees; older ones say nothing about the next weeks. Chosen by hand.
FIT_DAYS = 120
#: Past forecasts made again to learn their errors, at most, without and with a fit, which is slow. Chosen by hand.
CHEAP_ORIGINS, FITTED_ORIGINS = 60, 8
#: Past forecasts, and days of each, that an interval needs. Chosen by hand.
MIN_ORIGINS, MIN_AHEAD_DAYS = 3, 3
#: Prior spread of outcomes: this multiple of the change from week to week, within bounds (standard deviations of
#: logarithms), with the weight of so many past forecasts. Chosen by hand.
PRIOR_SD_PER_WEEK, PRIOR_SD_MIN, PRIOR_SD_MAX, PRIOR_WEIGHT = 1.2, 0.02, 0.5, 4.0
#: 80 % of a normal distribution lie within so many standard deviations of its mean.
_INTERVAL_SD = 1.2816
#: Middles of the deciles of the normal distribution (its quantiles at 5 %, 15 %, …, 95 %).
PRIOR_NORMALS = np.array([-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645])
#: Upper limit of an outcome as a multiple of the expected. Chosen by hand.
MAX_OUTCOME = 10.0
#: Dollars that count as none; guards divisions.
_TINY_USD = 1e-9


@dataclass(frozen=True)
class Period:
    """Local days from `first_day` to before `end_day`, counted from 1 January 1970."""

    first_day: int
    end_day: int

    @property
    def days(self) -> int:
        """Length in days."""
        return self.end_day - self.first_day


@dataclass(frozen=True)
class Today:
    """The current day: it follows the last day of the history."""

    usd: float = 0.0
    #: Share of the day that is over, 0 to 1.
    elapsed: float = 0.0


_NOTHING_TODAY = Today()


@dataclass(frozen=True)
class Forecast:
    """A period's total. All amounts are US dollars; the interval holds 80 % of outcomes."""

    period: Period
    spent_usd: float
    expected_usd: float
    low_usd: float
    high_usd: float
    method: str
    #: Past forecasts of this method whose outcome is known.
    n_errors: int
    #: Libraries that the method would use and that are not installed.
    missing: tuple[str, ...]
    #: The first day that is not over, and the expected dollars of its rest and of each later day.
    next_day: int
    daily_usd: tuple[float, ...]
    #: Outcomes of the days still to come, as multiples of the expected, ascending, and the weight of each.
    outcomes: tuple[float, ...] = field(repr=False, default=())
    weights: tuple[float, ...] = field(repr=False, default=())

    def during(self, today: Today) -> Forecast:
        """This forecast, made at midnight, within the day that follows."""
        if not self.daily_usd:
            return self
        first = self.daily_usd[0] * (1.0 - min(1.0, max(0.0, today.elapsed)))
        daily_usd, spent_usd = (first, *self.daily_usd[1:]), self.spent_usd + today.usd
        values, weights, rest = np.array(self.outcomes), np.array(self.weights), float(sum(daily_usd))
        low, high = (quantile(values, weights, q) for q in (0.5 - INTERVAL / 2, 0.5 + INTERVAL / 2))
        return replace(
            self,
            spent_usd=spent_usd,
            expected_usd=spent_usd + rest,
            low_usd=spent_usd + min(max(low, 0.0), 1.0) * rest,
            high_usd=spent_usd + max(high, 1.0) * rest,
            daily_usd=daily_usd,
        )

    @property
    def rest_usd(self) -> float:
        """Dollars expected from now to the end."""
        return float(sum(self.daily_usd))

    def breach_probability(self, amount_usd: float) -> float:
        """Probability that the period ends over `amount_usd`; 1 when it is already spent."""
        if self.spent_usd > amount_usd:
            return 1.0
        if self.rest_usd <= _TINY_USD:
            return 0.0
        needed = (amount_usd - self.spent_usd) / self.rest_usd
        return 1.0 - _share_below(np.array(self.outcomes), np.array(self.weights), needed)

    def breach_date(self, amount_usd: float) -> date | None:
        """The day on which `amount_usd` is expected to be passed; None when it is not, in this period."""
        spent = self.spent_usd
        if spent > amount_usd:
            return day_of(self.next_day)
        for ahead, usd in enumerate(self.daily_usd):
            spent += usd
            if spent > amount_usd:
                return day_of(self.next_day + ahead)
        return None


def forecast(days: DailySpend, period: Period, today: Today = _NOTHING_TODAY, *, thorough: bool = True) -> Forecast:
    """The total of `period` from the days before now.

    `days` ends with the last day that is over; `today` is the one after it. The period may start later. Days of it that
    are older than `days`, and unknown ones, count as usual days. Without `thorough`, no method that needs a fit
    (Holt-Winters, Prophet) is used, for an answer within milliseconds.
    """
    history = days.until(period.end_day)
    cleaned = clean(history)
    name, method, missing = choose(cleaned.known_days, thorough=thorough)
    ahead = max(0, period.end_day - history.end_day)
    before = min(ahead, max(0, period.first_day - history.end_day))
    spent_usd = _spent(history, cleaned, period)
    outcomes, weights, n_errors = _outcomes(history, ahead, name, method)
    at_midnight = Forecast(
        period=period,
        spent_usd=spent_usd,
        expected_usd=spent_usd,
        low_usd=spent_usd,
        high_usd=spent_usd,
        method=name,
        n_errors=n_errors,
        missing=missing,
        next_day=history.end_day + before,
        daily_usd=tuple(expect(cleaned, method, ahead)[before:].tolist()),
        outcomes=tuple(outcomes.tolist()),
        weights=tuple(weights.tolist()),
    )
    return at_midnight.during(Today() if before else today)


def choose(known_days: int, *, thorough: bool = True) -> tuple[str, Method, tuple[str, ...]]:
    """Name, method and missing libraries for a history of `known_days`."""
    if known_days < WEEKDAY_FROM_DAYS:
        return "last_7_days", last_week, ()
    if known_days < MEDIAN_FROM_DAYS or not thorough:
        return "weekday_level", weekday_level, ()
    missing = forecast_prophet.missing()
    parts: list[tuple[str, Method]] = [("weekday_level", weekday_level)]
    if "statsmodels" not in missing:
        parts.append(("holt_winters", holt_winters))
    if "prophet" not in missing and known_days >= PROPHET_FROM_DAYS:
        parts.append(("prophet", prophet_days))
    if len(parts) == 1:
        return "weekday_level", weekday_level, missing
    methods = [method for _, method in parts]
    return f"median({', '.join(name for name, _ in parts)})", lambda *a: median_of(methods, *a), missing


def median_of(methods: Sequence[Method], usd: Floats, first_day: int, ahead: int) -> Floats:
    """Days, shape (ahead,), of the method whose total is the median; the mean of the middle two when they are even."""
    courses = np.array([method(usd, first_day, ahead) for method in methods])
    order = courses.sum(axis=1).argsort()
    middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
    return np.asarray(courses[middle].mean(axis=0))


def expect(cleaned: CleanDays, method: Method, ahead: int) -> Floats:
    """Dollars of each of the next `ahead` days, with the fixed charges of firsts of months."""
    coming = method(cleaned.usd[-FIT_DAYS:], cleaned.end_day - min(FIT_DAYS, len(cleaned.usd)), ahead)
    coming[month_starts(cleaned.end_day, cleaned.end_day + ahead)] += cleaned.month_start_usd
    return coming


def _spent(history: DailySpend, cleaned: CleanDays, period: Period) -> float:
    """Dollars of the days of the period that are over; the unseen part of a day counts as part of a usual day."""
    over = DailySpend(0, history.between(period.first_day, period.end_day))
    seen = history.shares[len(history.usd) - len(over.usd) :]
    recent = cleaned.usd[-28:]
    usual = float(np.nanmean(recent)) if np.any(~np.isnan(recent)) else 0.0
    return float(np.nansum(over.usd)) + float(np.sum(1.0 - seen)) * usual


def _outcomes(history: DailySpend, ahead: int, name: str, method: Method) -> tuple[Floats, Floats, int]:
    """Outcomes of past forecasts so many days ahead as multiples of the expected, ascending, their weights and number.

    Neighbouring past forecasts share most of their days, so their total weight is the number that do not overlap; a
    prior spread stands in while there are few.
    """
    values, weights = _prior(name, clean(history), ahead)
    own, span = _past_errors(history, ahead, name, method) if name != "last_7_days" else (np.zeros(0), 0)
    if len(own):
        independent = 1.0 + span / max(ahead, 1)
        values = np.concatenate((values, own))
        weights = np.concatenate((weights, np.full(len(own), independent / len(own))))
    order = values.argsort(kind="stable")
    return values[order], weights[order] / weights.sum(), len(own)


def _prior(name: str, cleaned: CleanDays, ahead: int) -> tuple[Floats, Floats]:
    """Prior outcomes from the change from day to day or week to week, and their weights."""
    weights = np.full(len(PRIOR_NORMALS), PRIOR_WEIGHT / len(PRIOR_NORMALS))
    if name == "last_7_days":
        spread = max(SHORT_HALF_WIDTH / _INTERVAL_SD, min(_mean_error(cleaned.usd, ahead), SHORT_SD_MAX))
        return np.maximum(1.0 + spread * PRIOR_NORMALS, 0.0), weights
    spread = min(max(PRIOR_SD_PER_WEEK * weekly_change(cleaned.usd), PRIOR_SD_MIN), PRIOR_SD_MAX)
    return np.exp(spread * PRIOR_NORMALS), weights


def _mean_error(usd: Floats, ahead: int) -> float:
    """Standard error of the mean of `ahead` days against that of the last week, days being independent, as a share."""
    known = usd[~np.isnan(usd)]
    if len(known) < 3 or known.mean() <= _TINY_USD:
        return 0.0
    return float(known.std(ddof=1) / known.mean() * np.sqrt(1 / min(len(known), 7) + 1 / max(ahead, 1)))


def weekly_change(usd: Floats) -> float:
    """Change from one week to the next, as a standard deviation of logarithms (mean absolute change times √(π/2))."""
    filled = fill(usd)
    if len(filled) < 14:
        return PRIOR_SD_MAX
    weeks = np.convolve(filled, np.ones(7), "valid")
    floor = 0.05 * float(weeks.mean()) + _TINY_USD
    change = np.log((weeks[7:] + floor) / (weeks[:-7] + floor))
    return 1.2533 * float(np.abs(change).mean())


def _past_errors(history: DailySpend, ahead: int, name: str, method: Method) -> tuple[Floats, int]:
    """Outcome over expectation of past forecasts, and the days between the first and the last of them."""
    spent = np.flatnonzero(history.usd > 0)
    if not len(spent) or not ahead:
        return np.zeros(0), 0
    born = history.first_day + int(spent[0])
    cheap = name == "weekday_level"
    first = born + (WEEKDAY_FROM_DAYS if cheap else MEDIAN_FROM_DAYS)
    last = history.end_day - ahead
    if last - first < MIN_ORIGINS:
        # Too young for its own errors: those of the simpler method over as many days, or over fewer.
        method, cheap, first = weekday_level, True, born + WEEKDAY_FROM_DAYS
        ahead = max(min(ahead, history.end_day - first - MIN_ORIGINS), 0)
        last = history.end_day - ahead
    if ahead < MIN_AHEAD_DAYS or last < first:
        return np.zeros(0), 0
    count = min(last - first + 1, CHEAP_ORIGINS if cheap else FITTED_ORIGINS)
    origins = np.unique(np.linspace(first, last, count).round().astype(int)).tolist()
    ratios = [_outcome(history, origin, ahead, method) for origin in origins]
    known = [ratio for ratio in ratios if ratio is not None]
    return np.array(known), last - first


def _outcome(history: DailySpend, origin: int, ahead: int, method: Method) -> float | None:
    """Actual over expected dollars of the days after `origin`; None when either is unknown."""
    whole = DailySpend(history.first_day, history.whole)
    actual = np.maximum(whole.between(origin, origin + ahead), 0.0)
    known = ~np.isnan(actual)
    coming = expect(clean(history.until(origin)), method, ahead)
    expected = float(coming[known].sum())
    if known.mean() < 0.8 or expected <= _TINY_USD:
        return None
    return min(float(actual[known].sum()) / expected, MAX_OUTCOME)


def quantile(values: Floats, weights: Floats, q: float) -> float:
    """The weighted quantile of ascending `values`; `weights` sum to 1."""
    return float(np.interp(q, np.cumsum(weights) - weights / 2, values))


def _share_below(values: Floats, weights: Floats, limit: float) -> float:
    """The weight of ascending `values` under `limit`. It fades beyond the ends: unseen outcomes happen."""
    middles = np.cumsum(weights) - weights / 2
    reach = max(quantile(values, weights, 0.9) - quantile(values, weights, 0.1), _TINY_USD) / 2
    if limit > values[-1]:
        return float(1.0 - (1.0 - middles[-1]) * np.exp((values[-1] - limit) / reach))
    if limit < values[0]:
        return float(middles[0] * np.exp((limit - values[0]) / reach))
    return float(np.interp(limit, values, middles))
