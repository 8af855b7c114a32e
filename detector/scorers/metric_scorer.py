"""The metric head for one series, with River's two verbs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from curb.detector.rules.metric_head import MetricHead
from curb.detector.rules.metric_settings import MetricSettings

VALUE, DAY_SHARE = "value", "day_share"


class MetricScorer:
    """Scores samples `{"value": x, "day_share": 0.25}`; the time of day from 0 up to 1 may be left out.

    Without it there is one season: the last few samples. A sample without a value scores 0 and teaches nothing.
    """

    def __init__(self, settings: MetricSettings | None = None) -> None:
        self._head = MetricHead(settings or MetricSettings(), capacity=1)
        self._head.grow(1)

    def score_one(self, x: Mapping[str, float]) -> float:
        """Score from 0 to 1 of the sample against all that was learned; 0 unless it fires."""
        return float(self._head.score(*_arguments(x)).score[0])

    def surprise_one(self, x: Mapping[str, float]) -> float:
        """Surprise of the sample, 0 and up, also while the series holds off."""
        return float(self._head.score(*_arguments(x)).surprise[0])

    def learn_one(self, x: Mapping[str, float]) -> None:
        """Learn from the sample, once, after it was scored."""
        self._head.learn(*_arguments(x))


def _arguments(x: Mapping[str, float]) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    return np.array([x.get(VALUE, math.nan)], np.float64), x.get(DAY_SHARE, 0.0)
