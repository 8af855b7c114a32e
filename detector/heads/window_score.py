"""Scores the windows of one head: how unusual, how many dollars, and whether it still burns."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.heads.tail import Tail
from curb.detector.heads.windows import WINDOWS_MIN, Windows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_Usd = Annotated[float, Field(gt=0)]
_Ratio = Annotated[float, Field(gt=1)]
#: Settings with one value for each window.
UsdByWindow = tuple[_Usd, _Usd, _Usd, _Usd, _Usd]
RatioByWindow = tuple[_Ratio, _Ratio, _Ratio, _Ratio, _Ratio]

#: The score of a channel that does not count.
SILENT = -9.0
#: The shorter window that must still burn for each window to count, as indices: 5, 30, 120 → 5; 480 → 30; 1440 → 120.
_PARTNER = np.array([0, 0, 0, 1, 2])
_PARTNER_RATIO_SHARE, _PARTNER_FLOOR_SHARE = 0.4, 0.3
#: Tests per series and month in each window, as log10: five windows, 43,200 minutes.
_LOG_TESTS = np.log10(5 * 43200 / np.array(WINDOWS_MIN))[:, None]
#: While frozen or suspicious, a step teaches this share of a normal one.
_DOUBT, _DOUBT_SCORE, _DOUBT_FROM_DAYS = 0.05, 1.0, 3.0


class Floors:
    """What an excess must reach to count: dollars and multiples of the expected, one of each per window."""

    def __init__(self, usd: tuple[float, ...], ratios: tuple[float, ...]) -> None:
        self.usd = np.array(usd)[:, None]
        self.ratios = np.array(ratios)[:, None]


def score_windows(
    windows: Windows, tail: Tail, floors: Floors, needed_usd: Floats, mean: Floats
) -> tuple[Floats, Floats, Floats]:
    """Log ratio, excess dollars and score without any penalty, each of shape (windows, series).

    `needed_usd` is the excess below which nothing counts now, `mean` the usual dollars per minute of each series.
    """
    actual, expected = np.maximum(windows.actual, 0.0), windows.expected
    minutes = windows.minutes
    kappa = np.maximum(0.25 * floors.usd / minutes, 0.05 * mean)
    value = np.log((actual + kappa) / (expected + kappa))
    excess = (actual - expected) * minutes
    partner_ratio = 1 + _PARTNER_RATIO_SHARE * (floors.ratios - 1)
    valid = (excess >= needed_usd) & (actual >= floors.ratios * expected)
    valid &= actual[_PARTNER] >= partner_ratio * expected[_PARTNER]
    valid &= excess[_PARTNER] >= _PARTNER_FLOOR_SHARE * floors.usd[_PARTNER]
    score = tail.surprise(value) - _LOG_TESTS + np.log10(np.maximum(excess, floors.usd) / floors.usd)
    return value, excess, np.where(valid, score, SILENT)


def trust(score: Floats, frozen: Bools, age_days: Floats) -> Floats:
    """How much a step teaches, 0 to 1, of shape (series,), when its `score` is (windows, series)."""
    doubted = frozen | ((score.max(axis=0) > _DOUBT_SCORE) & (age_days > _DOUBT_FROM_DAYS))
    return np.where(doubted, _DOUBT, 1.0)
