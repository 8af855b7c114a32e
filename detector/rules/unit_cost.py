"""Dearer requests: a notice while the dollars per request of a principal are far over its own past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.rules.cost_per_request import UnitCost
from curb.detector.rules.principal_settings import UnitCostSettings
from curb.detector.state.view import Finding, View


class UnitCostRule:
    """Prices, models and prompts that make each request dearer; more requests are none of its business."""

    def __init__(self, settings: UnitCostSettings, step_s: int) -> None:
        self._settings = settings
        self._head = UnitCost(step_s, settings.hold_minutes, settings.min_usd_per_day)

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
                channel="unit_cost",
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
