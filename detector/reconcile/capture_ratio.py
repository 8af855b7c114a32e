"""Billed over estimated, of many days together, with the bounds in which it probably lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

#: Of intervals like this, so many hold the true ratio.
CONFIDENCE = 0.9
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


class Ratio(NamedTuple):
    """A capture ratio; `low` and `high` are None where too few days are known to say."""

    value: float
    low: float | None
    high: float | None


def ratio_of(days: Sequence[tuple[float, float]]) -> Ratio | None:
    """The ratio of (estimated, billed) dollars per day; None where nothing was estimated.

    Days count by their dollars. The bounds come from how much the days differ (the standard error of a ratio of sums).
    """
    estimated, billed = math.fsum(day[0] for day in days), math.fsum(day[1] for day in days)
    if estimated <= 0:
        return None
    value, count = billed / estimated, len(days)
    if count < 3:
        return Ratio(value, None, None)
    spread = math.fsum((b - value * e) ** 2 for e, b in days)
    error = math.sqrt(spread * count / (count - 1)) / estimated
    # Student's quantile from the normal one; within 5 % from three days on.
    free = count - 1
    wide = _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free**2)
    return Ratio(value, max(0.0, value - wide * error), value + wide * error)
