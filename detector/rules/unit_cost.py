"""More expensive requests: a notice while the dollars per request of a principal are far over its own past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.rules.cost_per_request import UnitCost
from curb.detector.state.rule import TUNING_STREAMS, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View


class Config(RuleConfig):
    """Requests that became more expensive, against their own past."""

    enabled: bool = Field(default=False, description="Whether dollars per request are looked at.")
    threshold: float = Field(
        default=4.0,
        description="Score of a notice, on the scale of the dollars head: each point more is ten times rarer.",
    )
    min_usd_per_day: float = Field(default=25.0, gt=0, description="Dollars per day that the rise costs.")
    hold_minutes: int = Field(default=10, ge=1, le=60, description="How long a score must hold before it counts.")


UNIT_COST = Family(
    "unit_cost",
    Confidence(((4, 0.5), (9, 0.65), (100, 0.8)), TUNING_STREAMS),
    Docs(
        "unit cost (off by default)",
        "requests that became more expensive",
        "dollars per request far over the key's own past, counted in requests instead of minutes",
        "notice",
    ),
    by_past=True,
)


class UnitCostRule(Rule):
    """Prices, models and prompts that make each request more expensive; more requests are none of its business.

    State: see UnitCost.
    Update: see UnitCost.
    Score: see UnitCost.
    Source: see UnitCost.
    """

    name = "unit_cost"
    part = "unit cost"
    families = (UNIT_COST,)
    config = Config
    settings_at = "principals.unit_cost"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._head = UnitCost(context.step_s, config.hold_minutes, config.min_usd_per_day)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind unit_cost."""
        subjects = view.principals
        self._head.grow(len(subjects.index))
        if view.bucket.gap:
            return []
        amounts = subjects.amounts
        scores = self._head.step(view.start, amounts.cost, amounts.requests, subjects.frozen)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=UNIT_COST,
                kind="unit_cost",
                tier="notice",
                score=float(scores.notice[row]),
                words=f"a request costs {scores.ratio[row]:.1f} times the usual ${scores.expected[row]:.2g}, which is "
                f"${scores.usd_per_day[row]:,.2f} a day at the usual number of requests",
            )
            for row in np.flatnonzero(scores.notice >= self._settings.threshold).tolist()
        ]

    def forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Incidents of these series (shape (all series,)) are over."""
        self._head.forget(over[view.principals.index])

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return self._head.dump()

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._head.load(arrays)
