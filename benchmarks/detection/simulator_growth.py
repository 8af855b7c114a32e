"""How the growth rule does on simulated creep: recall by day, false alarms, launches that it names growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.simulator_traffic import ARCHETYPES, CREEP, DAYS, FIRST_MIN, WARMUP_DAYS, Day, Traffic
from curb.detector.rules.growth import Growth

_BY_DAY = 20


@dataclass(frozen=True)
class GrowthResult:
    """Series that were there from the begin; a month is the scored 28 days."""

    #: Series with a finding per month among those without a launch, and among those with one in the month.
    false_alarms: float
    launches: float
    #: Creeps, share found by day 20 and by day 28, median day of those found.
    count: int
    by_day_20: float
    recall: float
    median_day: float
    #: By kind of traffic: how many creeps, and share found by day 20.
    by_kind: dict[str, tuple[int, float]]


class GrowthLedger:
    """Feeds the rule once a day."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._rule = Growth(2 * traffic.series)
        self._rule.grow(2 * traffic.series)
        self._fires: list[NDArray[np.bool_]] = []

    def add(self, day: Day) -> None:
        """One day."""
        self._fires.append(self._rule.step(day.cost.sum(axis=0)).fires)

    def result(self) -> GrowthResult:
        """After the last day."""
        traffic = self._traffic
        fires = np.array(self._fires[WARMUP_DAYS:DAYS])
        old = traffic.born == 0
        without = np.asarray(fires[:, 0::2].any(axis=0))
        creep: NDArray[np.bool_] = np.asarray(old & (traffic.incident == CREEP))
        during = fires[:, 1::2]
        day = np.where(during.any(axis=0), during.argmax(axis=0) + 1.0, np.inf)
        by_kind = {}
        for kind, name in enumerate(ARCHETYPES):
            chosen = creep & (traffic.kind == kind)
            if chosen.any():
                by_kind[name] = (int(chosen.sum()), float((day[chosen] <= _BY_DAY).mean()))
        found = day[creep & np.isfinite(day)]
        return GrowthResult(
            false_alarms=_share(without[old & (traffic.launch < 0)]),
            launches=_share(without[traffic.launch >= FIRST_MIN]),
            count=int(creep.sum()),
            by_day_20=_share(np.asarray(day[creep] <= _BY_DAY)),
            recall=_share(np.isfinite(day[creep])),
            median_day=float(np.median(found)) if found.size else float("nan"),
            by_kind=by_kind,
        )


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else float("nan")
