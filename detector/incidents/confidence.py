"""How sure an alert is: the share of alerts like it that turned out to be what somebody wants to know."""

from __future__ import annotations

import numpy as np

from curb.stream.records.spend import Tier

#: By family: (score, share), in between by straight lines. Those of the first ten are what was right of the alerts on
#: the labelled streams that the thresholds were chosen on, as (right + 1) / (all + 2): each was heard 3 to 30 times.
#: Those of the others are set by what is like them.
_SHARES: dict[str, tuple[tuple[float, float], ...]] = {
    "unexplained": ((2, 0.5), (6, 0.75), (8, 0.93), (20, 0.96)),
    "unit_cost": ((4, 0.5), (9, 0.65), (100, 0.8)),
    "context": ((1, 0.45), (3, 0.55), (30, 0.8)),
    "creep": ((0, 0.6),),
    "weeks": ((0, 0.5),),
    "errors": ((1, 0.85),),
    "new_model": ((1, 0.8), (10, 0.88)),
    "new_principal": ((1, 0.83),),
    "idle_gpu": ((2, 0.87),),
    "autoscaler": ((2, 0.8),),
    "dollars": ((2, 0.3), (6, 0.6), (12, 0.8), (25, 0.95)),
    "new_region": ((1, 0.7),),
    "job": ((1, 0.4),),
    # Sums are facts, not estimates.
    "budget": ((0, 1.0),),
    "pricing": ((0, 1.0),),
}
_ANY = ((0.0, 0.7),)
#: They are judged against the past of the series itself.
_BY_PAST = frozenset({"unexplained", "dollars", "unit_cost", "context", "creep", "weeks"})
#: Three in 22 lines of the digest were of interest.
_DIGEST = 0.15
_SETTLED_DAYS, _NEWBORN = 3.0, 0.5


def confidence(family: str, score: float, tier: Tier, known_days: float) -> float:
    """0 to 1, rising with the score: read 0.9 as nine of ten alerts like this one are real.

    `family` is the channel up to its "/". A line of the digest is worth 0.15 at most, unless it states a fact. What is
    judged by its own past is worth half at birth and all of it after three days.
    """
    shares = _SHARES.get(family, _ANY)
    if shares[-1][1] == 1.0:
        return 1.0
    scores, values = zip(*shares, strict=True)
    found = float(np.interp(score if np.isfinite(score) else scores[0], scores, values))
    if family in _BY_PAST:
        found *= _NEWBORN + (1 - _NEWBORN) * min(1.0, max(0.0, known_days) / _SETTLED_DAYS)
    return min(found, _DIGEST) if tier == "digest" else found
