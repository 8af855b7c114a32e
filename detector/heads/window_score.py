"""Scores the windows of one head: how unusual, how many dollars, and whether it still burns."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from curb.detector.heads.tail import Tail
from curb.detector.heads.windows import WINDOWS_MIN, Windows
from curb.detector.state.columns import Bools, Floats

_Usd = Annotated[float, Field(gt=0)]
_Ratio = Annotated[float, Field(gt=1)]
#: Settings with one value for each window.
UsdByWindow = tuple[_Usd, _Usd, _Usd, _Usd, _Usd]
RatioByWindow = tuple[_Ratio, _Ratio, _Ratio, _Ratio, _Ratio]

#: The score of a channel that does not count: below every threshold. By definition.
SILENT = -9.0
#: The shorter window that must still burn for each window to count, as indices: 5, 30, 120 → 5; 480 → 30;
#: 1440 → 120. Prototype.
_PARTNER = np.array([0, 0, 0, 1, 2])


class Params(NamedTuple):
    #: Share of the ratio floor (above 1) that the shorter window must still reach. Prototype.
    partner_ratio_share: float = 0.4
    #: Share of the dollar floor that the shorter window must still hold. Prototype.
    partner_floor_share: float = 0.3
    #: Share of a normal step that a frozen or suspicious one teaches. Prototype.
    doubt: float = 0.05
    #: Score, in powers of ten, from which on a step is suspicious. Prototype.
    doubt_score: float = 1.0
    #: Days of age before which everything is learned: there is nothing to doubt it by. Prototype.
    doubt_from_days: float = 3.0
    #: Share of a window's dollar floor, per minute, in the pad k of the log ratio. Prototype.
    pad_floor_share: float = 0.25
    #: Share of the mean dollars a minute in the pad, so that small series stay calm. Prototype.
    pad_mean_share: float = 0.05


P = Params()

#: Tests per series and month in each window, as log10: five windows, 43,200 minutes. By definition.
_LOG_TESTS = np.log10(5 * 43200 / np.array(WINDOWS_MIN))[:, None]


class Floors:
    """What an excess must reach to count: dollars and multiples of the expected, one of each per window."""

    def __init__(self, usd: tuple[float, ...], ratios: tuple[float, ...]) -> None:
        self.usd = np.array(usd)[:, None]
        self.ratios = np.array(ratios)[:, None]


class WindowScores(NamedTuple):
    """Each of shape (windows, series)."""

    #: Actual over expected dollars, both padded; its logarithm is the value whose tail is learned.
    ratio: Floats
    #: Excess dollars.
    excess: Floats
    #: Without any penalty.
    score: Floats


def score_windows(windows: Windows, tail: Tail, floors: Floors, needed_usd: Floats, mean: Floats) -> WindowScores:
    """Score every window of every series.

    `needed_usd` is the excess below which nothing counts now, `mean` the usual dollars per minute of each series.
    """
    actual, expected = np.maximum(windows.actual, 0.0), windows.expected
    minutes = windows.minutes
    pad = np.maximum(P.pad_floor_share * floors.usd / minutes, P.pad_mean_share * mean)
    ratio = (actual + pad) / (expected + pad)
    excess = (actual - expected) * minutes
    score = np.full(excess.shape, SILENT)
    # Nearly always few: only they are worth logarithms.
    window, series = np.nonzero((excess >= needed_usd) & (actual >= floors.ratios * expected))
    if not len(series):
        return WindowScores(ratio, excess, score)
    partner, partner_ratio = _PARTNER[window], 1 + P.partner_ratio_share * (floors.ratios[window, 0] - 1)
    valid = actual[partner, series] >= partner_ratio * expected[partner, series]
    valid &= excess[partner, series] >= P.partner_floor_share * floors.usd[partner, 0]
    window, series = window[valid], series[valid]
    usd = floors.usd[window, 0]
    surprise = tail.surprise_of(window, series, np.log(ratio[window, series]))
    score[window, series] = surprise - _LOG_TESTS[window, 0] + np.log10(np.maximum(excess[window, series], usd) / usd)
    return WindowScores(ratio, excess, score)


def trust(score: Floats, frozen: Bools, age_days: Floats) -> Floats:
    """How much a step teaches, 0 to 1, of shape (series,), when its `score` is (windows, series)."""
    doubted = frozen | ((score.max(axis=0) > P.doubt_score) & (age_days > P.doubt_from_days))
    return np.where(doubted, P.doubt, 1.0)
