"""Methods that forecast the dollars of the next days from those of the past days; each is a pure function."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curb.detector.forecast import prophet as forecast_prophet

Floats = NDArray[np.float64]

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
_TINY_USD = 1e-9


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
