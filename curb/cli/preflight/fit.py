"""Compares runs with every budget that would count them: what is spent, what is forecast, and both with the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from curb.detector.budgets.amounts import base_usd
from curb.detector.budgets.budget import Budget
from curb.detector.budgets.rows import matches, row_id, subject
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.time import HOUR_S, period_around

#: fits: also by the forecast. crosses: it fits now, and with the forecast of all else the amount is exceeded. over: it
#: is exceeded by what is spent already and the run.
FitVerdict = Literal["fits", "crosses", "over"]
VERDICTS: tuple[FitVerdict, ...] = ("fits", "crosses", "over")
#: Dollars by which a sum may be over and still fit: rounding of floating point.
_ROUNDING_USD = 1e-6


class PlannedRun(NamedTuple):
    """A run, with the tags its records will carry, and the sources of scopes that count it."""

    usd: float
    #: None where it is not known: then all dollars fall into the period of now.
    hours: float | None
    tags: dict[str, str]
    sources: frozenset[str]


@dataclass
class BudgetFit:
    """One budget row, as it is and with the runs. Dollars; times are epoch seconds."""

    name: str
    period: str
    tags: dict[str, str]
    hard: bool
    period_start: float
    period_end: float
    amount_usd: float
    spent_usd: float
    #: Of the period without the runs; None where there is too little history for a forecast.
    forecast_usd: float | None
    #: What of the runs falls into this period, and at most into a later one.
    run_usd: float = 0.0
    later_usd: float = 0.0

    @property
    def left_usd(self) -> float:
        """What is left now, without the runs."""
        return self.amount_usd - self.spent_usd

    @property
    def with_usd(self) -> float:
        """Spent, with the runs."""
        return self.spent_usd + self.run_usd

    @property
    def forecast_with_usd(self) -> float | None:
        """Forecast of the period, with the runs; None where there is none."""
        return None if self.forecast_usd is None else self.forecast_usd + self.run_usd

    @property
    def verdict(self) -> FitVerdict:
        most = self.amount_usd + _ROUNDING_USD
        if self.with_usd > most or self.later_usd > most:
            return "over"
        return "crosses" if (self.forecast_with_usd or 0.0) > most else "fits"

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        derived = ("left_usd", "with_usd", "forecast_with_usd", "verdict")
        return {**vars(self), **{name: getattr(self, name) for name in derived}}


class Compared(NamedTuple):
    """Every budget that counts a run, and the names of budgets that would if the run had a tag, by that tag."""

    fits: list[BudgetFit]
    missing: dict[str, list[str]]

    @property
    def verdict(self) -> FitVerdict:
        """The worst of all."""
        return max((each.verdict for each in self.fits), key=VERDICTS.index, default="fits")


def compare(
    runs: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]], settings: DetectorSettings, now: float
) -> Compared:
    """Compare runs that start at `now` with budgets, where `rows` say how the counted ones stand."""
    scopes = {scope.name: scope for scope in settings.scopes}
    fits: dict[str, BudgetFit] = {}
    missing: dict[str, list[str]] = {}
    for budget in settings.budgets:
        scope = scopes[budget.scope]
        for run in runs:
            if not run.sources & set(scope.sources):
                continue
            lacking = _needed(budget, scope) - run.tags.keys()
            if lacking:
                if _may_match(budget, run.tags):
                    for tag in sorted(lacking):
                        _add_once(missing.setdefault(tag, []), budget.name)
                continue
            series = dict(scope.series(run.tags))
            if matches(budget.match, series):
                _count(run, budget, scope, series, rows, settings, now, fits)
    return Compared(list(fits.values()), missing)


def _needed(budget: Budget, scope: Scope) -> set[str]:
    """The tags that decide which row counts a run."""
    if budget.shared:
        return set(budget.match)
    return set(budget.match) | ({scope.identified_by} if scope.identified_by else set(scope.group_by))


def _may_match(budget: Budget, tags: Mapping[str, str]) -> bool:
    """True when nothing that is known of a run speaks against the budget."""
    return matches({tag: pattern for tag, pattern in budget.match.items() if tag in tags}, tags)


def _add_once(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _count(
    run: PlannedRun,
    budget: Budget,
    scope: Scope,
    series: dict[str, str],
    rows: Sequence[Mapping[str, Any]],
    settings: DetectorSettings,
    now: float,
    fits: dict[str, BudgetFit],
) -> None:
    row = _row(budget, scope, series, rows)
    own = str(row["id"]) if row is not None else row_id(budget.name, subject(budget, series))
    fit = fits.setdefault(own, _without(budget, scope, series, row, settings, now))
    hours = run.hours or 0.0
    left_h = max(0.0, fit.period_end - now) / HOUR_S
    whole_h = (fit.period_end - fit.period_start) / HOUR_S
    if hours <= left_h:
        fit.run_usd += run.usd
    else:
        fit.run_usd += run.usd * left_h / hours
        fit.later_usd += run.usd * min(hours - left_h, whole_h) / hours


def _row(
    budget: Budget, scope: Scope, series: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The row that counts the series. A principal is one series whatever team and project its records carry."""
    own = row_id(budget.name, subject(budget, series))
    same = [row for row in rows if row.get("id") == own]
    found: Mapping[str, Any] | None = same[0] if same else None
    if len(same) > 1:  # a shared budget over several partitions of Kafka: each counts its part
        spent = sum(row["spent_usd"] for row in same)
        parts = [row.get("forecast_usd") for row in same]
        known = [part for part in parts if part is not None]
        found = {**same[0], "spent_usd": spent, "forecast_usd": sum(known) if len(known) == len(parts) else None}
    if found is None and scope.identified_by and not budget.shared:
        telling = {tag: series.get(tag) for tag in (scope.identified_by, *scope.also_by)}
        alike = (row for row in rows if row["name"] == budget.name)
        return next((row for row in alike if {tag: row["tags"].get(tag) for tag in telling} == telling), None)
    return found


def _without(
    budget: Budget,
    scope: Scope,
    series: Mapping[str, str],
    row: Mapping[str, Any] | None,
    settings: DetectorSettings,
    now: float,
) -> BudgetFit:
    """The budget as it stands; empty where nothing was counted in the period of `now`."""
    zone = ZoneInfo("UTC" if scope.is_billed else budget.time_zone or settings.time_zone)
    start, end = period_around(now, budget.period, zone, budget.length_days, budget.anchor)
    amount = base_usd(budget, settings.exchange_rates, start, zone)
    spent, forecast = 0.0, None
    if row is not None and row["period_end"] > now:
        start, end, amount = row["period_start"], row["period_end"], row["amount_usd"]
        spent = row["spent_usd"]
        forecast = None if row.get("forecast_usd") is None else max(spent, row["forecast_usd"])
    tags = dict(row["tags"]) if row is not None else subject(budget, series)
    return BudgetFit(budget.name, budget.period, tags, budget.hard, start, end, amount, spent, forecast)
