"""Forecast of a period's total, with an interval from the past errors of its own method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.days import CleanDays, DailySpend, clean, day_of, month_starts
from curb.detector.state.columns import Floats

#: (dollars of past days, NaN where unknown; days since 1970 of the first; days ahead) → dollars of each day ahead.
Method = Callable[[Floats, int, int], Floats]

#: Share of a new day in the level, and weeks of which weekdays are learned. Chosen by hand.
LEVEL_SHARE, WEEKDAY_WEEKS = 0.15, 8
#: Weight, in days, of the assumption that a weekday is like every other day. Chosen by hand.
WEEKDAY_PRIOR_DAYS = 1.0
#: A day counts up to this multiple of its expected dollars, or up to the median of it and the two days before: a
#: one-off is not a new level, a lasting change is. A weekday counts as at least this share of a usual day. By hand.
CLIP_RATIO, _MIN_CLIP_FACTOR = 1.8, 0.5
#: Upper limit of a weekday's ratio to its week, and of a fitted day as a multiple of the most expensive one. Chosen
#: by hand: a fit that says more has run away.
_RATIO_MAX = 3.0
#: Days that a fit needs: four seasons of a week.
_MIN_FIT_DAYS = 28
#: Bounds of the fit. Free parameters follow the last days of short histories; a trend that hardly fades runs away over
#: a month. Chosen by hand.
_HOLT_WINTERS_BOUNDS = {"damping_trend": (0.8, 0.9), "smoothing_level": (0.02, 0.5), "smoothing_seasonal": (0.0, 0.3)}
#: Dollars that count as none; guards divisions.


def last_week(usd: Floats, first_day: int, ahead: int) -> Floats:
    """The mean of the last seven known days, for every day."""
    known = usd[~np.isnan(usd)][-7:]
    return np.full(ahead, known.mean() if len(known) else 0.0)


def weekday_level(usd: Floats, first_day: int, ahead: int) -> Floats:
    """A slowly moving level times a factor per weekday: exponential smoothing with a multiplicative season, robust."""
    factors = _weekday_factors(usd, first_day)
    level, _ = _follow(usd, first_day, factors)
    return level * factors[_weekdays(first_day + len(usd), ahead)]


def without_one_offs(usd: Floats, first_day: int) -> Floats:
    """The days, each capped at a multiple of its expected dollars, for methods that one day could throw off."""
    return _follow(usd, first_day, _weekday_factors(usd, first_day))[1]


def _follow(usd: Floats, first_day: int, factors: Floats) -> tuple[float, Floats]:
    """The level after the last day, and the days as counted, shape (days,).

    The level is the mean of recent dollars over the mean of their weekdays' factors, so that days on which little is
    usual weigh little.
    """
    counted = usd.copy()
    known = np.flatnonzero(~np.isnan(usd))
    if not len(known):
        return 0.0, counted
    own = factors[_weekdays(first_day, len(usd))]
    start = usd[known[:7]] / own[known[:7]]
    dollars, share = float(np.median(start)) or float(start.mean()), 1.0
    recent = [dollars] * 2
    for at in known.tolist():
        level, factor = dollars / share, float(own[at])
        value, usual = float(usd[at]), max(factor, _MIN_CLIP_FACTOR)
        recent = [*recent[-2:], value / usual]
        if level > 0:
            value = counted[at] = min(value, max(CLIP_RATIO * level, sorted(recent)[1]) * usual)
        dollars += LEVEL_SHARE * (value - dollars)
        share += LEVEL_SHARE * (factor - share)
    return dollars / share, counted


def _weekdays(first_day: int, days: int) -> NDArray[np.int64]:
    return (np.int64(first_day) + np.arange(days) + 3) % 7


def _weekday_factors(usd: Floats, first_day: int) -> Floats:
    """Factor of each weekday (0 is Monday), shape (7,), with mean 1. All are 1 in the first two weeks."""
    start = max(0, len(usd) - 7 * WEEKDAY_WEEKS)
    recent = usd[start:]
    weeks = len(recent) // 7
    if weeks < 2:
        return np.ones(7)
    # Whole weeks that end now, each relative to its own mean, so that growth does not look like a weekday.
    table = recent[len(recent) - 7 * weeks :].reshape(weeks, 7)
    known = ~np.isnan(table)
    mean = np.where(known, table, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    usable = known & (known.sum(axis=1) >= 4)[:, None] & (mean > _TINY_USD)[:, None]
    ratio = np.where(usable, np.clip(table / np.maximum(mean, _TINY_USD)[:, None], 0.0, _RATIO_MAX), 0.0)
    shares = (ratio.sum(axis=0) + WEEKDAY_PRIOR_DAYS) / (usable.sum(axis=0) + WEEKDAY_PRIOR_DAYS)
    shares = np.maximum(shares / shares.mean(), 0.05)
    factors = np.empty(7)
    factors[_weekdays(first_day + len(usd) - 7, 7)] = shares
    return factors


def holt_winters(usd: Floats, first_day: int, ahead: int) -> Floats:
    """Damped additive Holt-Winters with a season of a week (statsmodels). The weekday level under four weeks."""
    from statsmodels.tools.sm_exceptions import ConvergenceWarning
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    filled = fill(without_one_offs(usd, first_day))
    if len(filled) < _MIN_FIT_DAYS or np.ptp(filled) < _TINY_USD:
        return weekday_level(usd, first_day, ahead)
    scale = max(float(np.abs(filled).mean()), _TINY_USD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        model = ExponentialSmoothing(
            filled / scale,
            trend="add",
            damped_trend=True,
            seasonal="add",
            seasonal_periods=7,
            initialization_method="heuristic",
            bounds=_HOLT_WINTERS_BOUNDS,
        )
        coming = np.asarray(model.fit().forecast(ahead), float)
    return _sane(coming * scale, usd, first_day)


def prophet_days(usd: Floats, first_day: int, ahead: int) -> Floats:
    """Prophet with a weekly season, on logarithms. The weekday level under four weeks."""
    known = np.flatnonzero(~np.isnan(usd))
    if len(known) < _MIN_FIT_DAYS or np.ptp(usd[known]) < _TINY_USD:
        return weekday_level(usd, first_day, ahead)
    usd = without_one_offs(usd, first_day)
    floor = max(0.05 * float(np.mean(np.maximum(usd[known], 0.0))), _TINY_USD)
    days = np.int64(first_day) + known
    coming = np.int64(first_day) + len(usd) + np.arange(ahead)
    seasons = {"weekly_seasonality": True, "daily_seasonality": False}
    log_usd = np.log(np.maximum(usd[known], 0.0) + floor)
    expected, _, _ = forecast_prophet.predict(days * 86400, log_usd, coming * 86400, **seasons)
    return _sane(np.exp(np.clip(expected, -50, 50)) - floor, usd, first_day)


def fill(usd: Floats) -> Floats:
    """Unknown days as the mean of the known days a week before and after, or the nearest known ones."""
    known = np.flatnonzero(~np.isnan(usd))
    if not len(known):
        return np.zeros(len(usd))
    filled = usd.copy()
    for day in np.flatnonzero(np.isnan(usd)).tolist():
        around = [usd[i] for i in (day - 7, day + 7) if 0 <= i < len(usd) and not np.isnan(usd[i])]
        filled[day] = np.mean(around) if around else usd[known[np.abs(known - day).argmin()]]
    return filled


def _sane(coming: Floats, usd: Floats, first_day: int) -> Floats:
    """Cap at 0 and a multiple of the most expensive day; the weekday level when a fit is not finite."""
    if not np.all(np.isfinite(coming)):
        return weekday_level(usd, first_day, len(coming))
    return np.clip(coming, 0.0, _RATIO_MAX * max(float(np.nanmax(usd)), 0.0))


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
    #: What was received.
    spent_usd: float
    #: What the parts of its days that were not seen would usually have cost: no source sent it.
    imputed_usd: float
    #: Both, and the days still to come.
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
    #: Whole days with spend that it learned from.
    known_days: int = 0

    @property
    def has_history(self) -> bool:
        """False while no whole day of spend is known: then the days still to come cannot be forecast."""
        return self.known_days > 0 or not self.daily_usd

    def during(self, today: Today) -> Forecast:
        """This forecast, made at midnight, within the day that follows."""
        if not self.daily_usd:
            return self
        first = self.daily_usd[0] * (1.0 - min(1.0, max(0.0, today.elapsed)))
        daily_usd, spent_usd = (first, *self.daily_usd[1:]), self.spent_usd + today.usd
        values, weights, rest = np.array(self.outcomes), np.array(self.weights), float(sum(daily_usd))
        so_far_usd = spent_usd + self.imputed_usd
        low, high = (quantile(values, weights, q) for q in (0.5 - INTERVAL / 2, 0.5 + INTERVAL / 2))
        return replace(
            self,
            spent_usd=spent_usd,
            expected_usd=so_far_usd + rest,
            low_usd=so_far_usd + min(max(low, 0.0), 1.0) * rest,
            high_usd=so_far_usd + max(high, 1.0) * rest,
            daily_usd=daily_usd,
        )

    @property
    def so_far_usd(self) -> float:
        """Dollars of the period until now: received and imputed."""
        return self.spent_usd + self.imputed_usd

    @property
    def rest_usd(self) -> float:
        """Dollars expected from now to the end."""
        return float(sum(self.daily_usd))

    def breach_probability(self, amount_usd: float) -> float:
        """Probability that the period ends over `amount_usd`; 1 when it is already spent."""
        if self.spent_usd > amount_usd:
            return 1.0
        if self.rest_usd <= _TINY_USD:
            return 1.0 if self.so_far_usd > amount_usd else 0.0
        needed = (amount_usd - self.so_far_usd) / self.rest_usd
        return 1.0 - _share_below(np.array(self.outcomes), np.array(self.weights), needed)

    def breach_date(self, amount_usd: float) -> date | None:
        """The day on which `amount_usd` is expected to be passed; None when it is not, in this period."""
        spent = self.so_far_usd
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
    spent_usd, imputed_usd = _so_far(history, cleaned, period)
    so_far_usd = spent_usd + imputed_usd
    outcomes, weights, n_errors = _outcomes(history, ahead, name, method)
    at_midnight = Forecast(
        period=period,
        spent_usd=spent_usd,
        imputed_usd=imputed_usd,
        expected_usd=so_far_usd,
        low_usd=so_far_usd,
        high_usd=so_far_usd,
        method=name,
        n_errors=n_errors,
        missing=missing,
        next_day=history.end_day + before,
        daily_usd=tuple(expect(cleaned, method, ahead)[before:].tolist()),
        outcomes=tuple(outcomes.tolist()),
        weights=tuple(weights.tolist()),
        known_days=cleaned.known_days,
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


def _so_far(history: DailySpend, cleaned: CleanDays, period: Period) -> tuple[float, float]:
    """Dollars of the days of the period that are over, and of a usual day for each part of them that was not seen."""
    over = DailySpend(0, history.between(period.first_day, period.end_day))
    seen = history.shares[len(history.usd) - len(over.usd) :]
    recent = cleaned.usd[-28:]
    usual = float(np.nanmean(recent)) if np.any(~np.isnan(recent)) else 0.0
    return float(np.nansum(over.usd)), float(np.sum(1.0 - seen)) * usual


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
