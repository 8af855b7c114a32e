"""Forecasts of bills: usage as of every series, and beside it the fees, purchases, taxes and credits of the month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curb.detector.forecast.month_end import INTERVAL, PRIOR_NORMALS, Forecast, Period, quantile
from curb.detector.state.columns import Floats, Ints
from curb.detector.state.monthly import charges_to_come
from curb.stream.records.spend import NOT_USAGE, ChargePart

#: Dollars that count as none; guards divisions.
_TINY_USD = 1e-9


@dataclass(frozen=True)
class BilledDays:
    """What of one series' bill is beside the usage of days that are complete. Dollars by day since 1970."""

    #: The first day that the bill charges.
    first_day: int
    #: Usage of days that may still grow.
    partial: Mapping[int, float]
    #: Fees, purchases, taxes and credits.
    charges: Mapping[str, Mapping[int, float]]

    def together(self, others: Sequence[BilledDays]) -> BilledDays:
        """The sum of this and others."""
        found, partial = dict[str, dict[int, float]](), dict[int, float]()
        for each in (self, *others):
            _add(partial, each.partial)
            for part, days in each.charges.items():
                _add(found.setdefault(part, {}), days)
        return BilledDays(min(each.first_day for each in (self, *others)), partial, found)


def _add(into: dict[int, float], days: Mapping[int, float]) -> None:
    for day, usd in days.items():
        into[day] = into.get(day, 0.0) + usd


def with_charges(
    usage: Forecast, billed: BilledDays, period: Period, include: Sequence[ChargePart] | None = None
) -> Forecast:
    """The forecast of the usage of complete days, with what else the bill charges in a period.

    `include` are the parts that count, usage among them; None: all. What is known of days that may still grow is spent,
    and what was expected of them beyond it is still to come.
    """
    parts = (*NOT_USAGE, "usage") if include is None else tuple(include)
    charges = _charges(billed, parts, period, usage.next_day)
    days = range(usage.next_day, period.end_day)
    known = np.array([usd for day in days for usd in [billed.partial.get(day, 0.0)]])
    flow = np.array(usage.daily_usd)
    flow_spent, imputed = usage.spent_usd, usage.imputed_usd
    if "usage" not in parts:
        known, flow, flow_spent, imputed = known * 0, flow * 0, 0.0, 0.0
    spent_usd = flow_spent + float(known.sum()) + charges.known_usd
    to_come = np.maximum(flow - known, 0.0) + charges.to_come
    so_far, rest = spent_usd + imputed, float(to_come.sum())
    # Each outcome of the usage with each of the charges.
    of_usage = np.maximum(np.array(usage.outcomes) * flow.sum() - known.sum(), 0.0)
    outcomes = (of_usage[:, None] + charges.to_come.sum() + charges.sd * PRIOR_NORMALS).ravel()
    weights = np.repeat(np.array(usage.weights), len(PRIOR_NORMALS)) / len(PRIOR_NORMALS)
    order = outcomes.argsort(kind="stable")
    outcomes, weights = outcomes[order], weights[order]
    low, high = (quantile(outcomes, weights, q) for q in (0.5 - INTERVAL / 2, 0.5 + INTERVAL / 2))
    scale = rest if rest > _TINY_USD else 1.0
    return replace(
        usage,
        spent_usd=spent_usd,
        imputed_usd=imputed,
        expected_usd=so_far + rest,
        low_usd=so_far + min(low, rest),
        high_usd=so_far + max(high, rest),
        daily_usd=tuple(to_come.tolist()),
        outcomes=tuple((outcomes / scale).tolist()),
        weights=tuple(weights.tolist()),
        known_days=max(usage.known_days, usage.next_day - billed.first_day),
    )


@dataclass(frozen=True)
class _Charges:
    """Charges of a period: what is known, what comes on each day from the first that is not complete, its deviation."""

    known_usd: float
    to_come: Floats
    sd: float


def _charges(billed: BilledDays, parts: Sequence[str], period: Period, next_day: int) -> _Charges:
    usd: dict[int, float] = {}
    for part, days in billed.charges.items():
        if part in parts:
            _add(usd, days)
    known_usd = sum(each for day, each in usd.items() if period.first_day <= day < period.end_day)

    def of(days: Ints) -> Floats:
        return np.array([usd.get(day, 0.0) for day in days.tolist()]).reshape(-1, 1)

    to_come, sd = charges_to_come(of, np.array([billed.first_day]), next_day, period.end_day)
    return _Charges(known_usd, to_come[:, 0], float(sd[0]))
