"""Other detectors on the Numenta Anomaly Benchmark: three of River's with their defaults, and the windowed Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.anomaly import GaussianScorer, HalfSpaceTrees, StandardAbsoluteDeviation
from river.preprocessing import MinMaxScaler

from benchmarks.nab_score import Series

Floats = NDArray[np.float64]

#: The windowed Gaussian of the benchmark: trailing points, renewed every so many.
_WINDOW, _RENEWED = 6400, 100


def gaussian_scorer(series: Series) -> Floats:
    """River's GaussianScorer(): how far from the middle of a normal distribution of the whole past."""
    return _supervised(GaussianScorer(), series)  # type: ignore[no-untyped-call]


def standard_absolute_deviation(series: Series) -> Floats:
    """River's StandardAbsoluteDeviation(): the distance to the mean in standard deviations."""
    return _supervised(StandardAbsoluteDeviation(), series)


def half_space_trees(series: Series) -> Floats:
    """River's MinMaxScaler() | HalfSpaceTrees(seed=1) over the value."""
    model = MinMaxScaler() | HalfSpaceTrees(seed=1)
    scores = np.zeros(series.values.size)
    for at, value in enumerate(series.values.tolist()):
        sample = {"value": value}
        scores[at] = model.score_one(sample)
        model.learn_one(sample)
    return _finite(scores)


def windowed_gaussian(series: Series) -> Floats:
    """1 - the Gaussian tail beyond the value, mean and deviation of the last 6,400 points renewed every 100."""
    values = series.values
    scores = np.zeros(values.size)
    mean, deviation = 0.0, 0.0
    for at in range(1, values.size):
        if at <= _RENEWED or at % _RENEWED == 0:
            past = values[max(0, at - _WINDOW) : at]
            mean, deviation = float(past.mean()), float(past.std())
        distance = abs(values[at] - mean) / max(deviation, 1e-6)
        scores[at] = 1 - 0.5 * math.erfc(distance / math.sqrt(2))
    return scores


PEERS: dict[str, Callable[[Series], Floats]] = {
    "River GaussianScorer": gaussian_scorer,
    "River StandardAbsoluteDeviation": standard_absolute_deviation,
    "River HalfSpaceTrees": half_space_trees,
    "windowed Gaussian": windowed_gaussian,
}


def _supervised(model: Any, series: Series) -> Floats:
    scores = np.zeros(series.values.size)
    for at, value in enumerate(series.values.tolist()):
        scores[at] = model.score_one(None, value)
        model.learn_one(None, value)
    return _finite(scores)


def _finite(scores: Floats) -> Floats:
    """What cannot be scored is no detection."""
    return np.where(np.isfinite(scores), scores, 0.0)
