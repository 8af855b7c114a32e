"""Forecasts of series and budgets, from recorded events, from the log or from the daemon."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np

from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.detector.bills.derived import bill_scopes
from curb.detector.budgets.amounts import base_usd
from curb.detector.budgets.budget import Budget
from curb.detector.budgets.rows import matches
from curb.detector.forecast.charges import BilledDays, with_charges
from curb.detector.forecast.days import DailySpend, day_of, number_of
from curb.detector.forecast.month_end import Forecast, Period, Today, forecast
from curb.detector.forecast.pool import FitFailedError, ForecastPool, PoolSettings
from curb.detector.settings import DetectorSettings
from curb.detector.shard import BILLS
from curb.detector.state.local_time import local_hour
from curb.evaluate.backtest import events_file
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import (
    ChargePart,
    CostRecord,
    GpuRecord,
    SpendMessage,
    SpendPartial,
    SpendRecord,
    SpendTick,
)
from curb.stream.time import DAY_S, iso, period_around

#: Past days shown with a forecast.
_SHOWN_DAYS = 60
#: The method of a forecast that is not made.
TOO_LITTLE = "too_little_history"
#: Seconds. Offsets of time zones are multiples of it, so events of a quarter of an hour share their day.
_QUARTER_S = 900

Tags = tuple[tuple[str, str], ...]
#: A scope and the tags of one of its series.
_Series = tuple[str, Tags]


@dataclass(frozen=True)
class SeriesDays:
    """Dollars of one series, per day and today."""

    scope: str
    tags: dict[str, str]
    days: DailySpend
    today: Today
    #: Of a bill, what it charges beside the usage of complete days, which alone is in `days`.
    billed: BilledDays | None = None

    @property
    def recent_usd(self) -> float:
        """Dollars of the last 30 days and today, by which series are ranked."""
        return float(np.nansum(self.days.usd[-30:])) + self.today.usd


@dataclass(frozen=True)
class Question:
    """One total to forecast: a series, or several that share a budget, in a period."""

    series: SeriesDays
    period: Period
    period_name: str
    budget: str | None = None
    budget_usd: float | None = None
    #: The parts of a bill that count; None: all.
    include: tuple[ChargePart, ...] | None = None

    @property
    def key(self) -> str:
        """Text that is the same for the same question."""
        tags = ",".join(f"{tag}={value}" for tag, value in self.series.tags.items())
        return f"{self.series.scope}/{tags}/{self.budget or ''}/{self.period.first_day}"

    def answer(self, *, thorough: bool) -> Forecast:
        """Make the forecast in this process."""
        return answer(self.series, self.period, self.include, thorough=thorough)


def answer(
    series: SeriesDays, period: Period, include: Sequence[ChargePart] | None = None, *, thorough: bool = True
) -> Forecast:
    """The forecast of a period of one series; of a bill with its fees, purchases, taxes and credits."""
    found = forecast(series.days, period, series.today, thorough=thorough)
    return found if series.billed is None else with_charges(found, series.billed, period, include)


def questions(series: Sequence[SeriesDays], settings: DetectorSettings, now: float, scope: str) -> list[Question]:
    """The forecasts to make: every budget on series of `scope`, and the month of series without one.

    `now` (epoch seconds) is the end of the known spend; at midnight, the period of the day before is meant.
    """
    asked: list[Question] = []
    now = now - 1
    mine = [each for each in series if each.scope == scope]
    for budget in settings.budgets:
        if budget.scope != scope or not budget.shared:
            continue
        members = [each for each in mine if matches(budget.match, each.tags)]
        if members:
            asked.append(_budget_question(_together(members, budget.match), budget, settings, now))
    own = [budget for budget in settings.budgets if budget.scope == scope and not budget.shared]
    zone = _zone(scope, settings.time_zone, settings)
    month = _days_of(*period_around(now, "month", ZoneInfo(zone)), zone)
    for each in mine:
        matching = [budget for budget in own if matches(budget.match, each.tags)]
        asked += [_budget_question(each, budget, settings, now) for budget in matching]
        if not matching:
            asked.append(Question(each, month, "month"))
    return sorted(asked, key=lambda question: (-question.series.recent_usd, question.key))


def _budget_question(series: SeriesDays, budget: Budget, settings: DetectorSettings, now: float) -> Question:
    zone = ZoneInfo(_zone(budget.scope, budget.time_zone or settings.time_zone, settings))
    begin, end = period_around(now, budget.period, zone, budget.length_days, budget.anchor)
    amount_usd = base_usd(budget, settings.exchange_rates, begin, zone)
    include = None if series.billed is None else tuple(budget.include)
    return Question(series, _days_of(begin, end, zone.key), budget.period, budget.name, amount_usd, include)


def _zone(scope: str, usual: str, settings: DetectorSettings) -> str:
    """The time zone whose days those of a scope are: of a bill UTC, wherever people live."""
    return "UTC" if scope in billed_scopes(settings) else usual


def billed_scopes(settings: DetectorSettings) -> frozenset[str]:
    """Names of the scopes whose series are made of bills alone."""
    return frozenset(scope.name for scope in bill_scopes(settings.scopes))


def _days_of(begin: float, end: float, zone: str) -> Period:
    first, last = (datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in (begin, end))
    return Period(number_of(first), number_of(last))


def _together(members: Sequence[SeriesDays], tags: Mapping[str, str]) -> SeriesDays:
    """The sum of series that end on the same day."""
    first = min(member.days.first_day for member in members)
    usd = np.zeros(members[0].days.end_day - first)
    for member in members:
        usd[member.days.first_day - first :] += np.nan_to_num(member.days.usd)
    today = Today(sum(member.today.usd for member in members), members[0].today.elapsed)
    oldest = min(members, key=lambda member: member.days.first_day)
    bills = [member.billed for member in members if member.billed is not None]
    billed = bills[0].together(bills[1:]) if bills else None
    return SeriesDays(members[0].scope, dict(tags), DailySpend(first, usd, oldest.days.seen), today, billed)


def row(question: Question, found: Forecast) -> dict[str, Any]:
    """One forecast for people and programs. Dollars; dates are local days; `breach_date` only with a budget.

    `forecast_usd` and what follows from it are None, and `method` is `TOO_LITTLE`, without a whole day of history.
    """
    series, budget_usd = question.series, question.budget_usd
    is_over = budget_usd is not None and found.spent_usd > budget_usd
    # Without a whole day of history nothing is claimed of the days to come, as in the status of budgets.
    known = found.has_history
    breach = found.breach_date(budget_usd) if budget_usd is not None and (known or is_over) else None
    likely = found.breach_probability(budget_usd) if budget_usd is not None and (known or is_over) else None
    return {
        "scope": series.scope,
        "tags": series.tags,
        "period": question.period_name,
        "period_start": day_of(found.period.first_day).isoformat(),
        "period_end": day_of(found.period.end_day).isoformat(),
        "spent_usd": found.spent_usd,
        "imputed_usd": found.imputed_usd,
        "forecast_usd": found.expected_usd if known else None,
        "low_usd": found.low_usd if known else None,
        "high_usd": found.high_usd if known else None,
        "method": found.method if known else TOO_LITTLE,
        "past_errors": found.n_errors,
        "missing": list(found.missing),
        "budget": question.budget,
        "budget_usd": budget_usd,
        "breach_probability": likely,
        "breach_date": None if breach is None else breach.isoformat(),
        "first_day": day_of(max(series.days.first_day, series.days.end_day - _SHOWN_DAYS)).isoformat(),
        "past_usd": np.nan_to_num(series.days.usd[-_SHOWN_DAYS:]).tolist(),
        "today_usd": series.today.usd,
        "today_elapsed": series.today.elapsed,
        "coming_usd": list(found.daily_usd),
    }


def answer_all(
    asked: Sequence[Question],
    pool_settings: PoolSettings,
    *,
    quick: bool,
    report_done: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Rows of all questions; fits are made in worker processes. `report_done` gets the number of finished ones."""
    if quick or not any(question.series.days.usd.size >= 28 for question in asked):
        return [row(question, question.answer(thorough=not quick)) for question in asked]
    pool = ForecastPool(pool_settings)
    rows = []
    try:
        futures = [pool.submit(q.key, answer, q.series, q.period, q.include) for q in asked]
        for done, (question, future) in enumerate(zip(asked, futures, strict=True), 1):
            rows.append(row(question, _or_quick(question, future)))
            report_done(done)
    finally:
        pool.close()
    return rows


def _or_quick(question: Question, future: Future[Forecast]) -> Forecast:
    try:
        return future.result()
    except (FitFailedError, CancelledError):
        return question.answer(thorough=False)


# --- where days come from -----------------------------------------------------------------------------------------


class DaySums:
    """Dollars per series and local day."""

    def __init__(self, time_zone: str, billed: Collection[str] = ()) -> None:
        """`billed` are the scopes whose series are made of bills alone: their days are those of the bill, in UTC."""
        zone = ZoneInfo(time_zone)
        self._zone = zone
        self._sums: dict[_Series, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._day = cache(lambda quarter: local_hour(quarter * _QUARTER_S, zone).day)
        self.now = 0.0
        self._oldest = math.inf
        self._bills = BillDays(billed)

    def now_of(self, scope: str) -> float:
        """When what is known of a scope was known, epoch seconds; 0 while nothing is."""
        return self._bills.now if scope in self._bills.scopes else self.now

    def known_until(self, scope: str) -> float:
        """Until when the spend of a scope is known, epoch seconds."""
        return self._bills.until if scope in self._bills.scopes else self.now

    def add(self, scope: str, tags: Tags, start: float, usd: float, end: float) -> None:
        """Count dollars of a charge from `start` to `end` (epoch seconds)."""
        self._sums[scope, tags][self._day(int(start) // _QUARTER_S)] += usd
        self.now = max(self.now, end)
        self._oldest = min(self._oldest, start)

    def take(self, message: Message, bucket_s: int) -> None:
        """Count the sums of a message of the spend topic, whose buckets are so long."""
        for record in decode_lines(message.value, cast(Any, SpendMessage), lambda *_: None):
            if isinstance(record, SpendTick):
                self._bills.note(message.key.decode(errors="replace"), record)
            elif isinstance(record, SpendPartial):
                of, tags = record.scope, tuple(record.tags.items())
                if of in self._bills.scopes:
                    self._bills.add((of, tags), record.bucket_start, record.effective_cost, record.charges)
                else:
                    self.add(of, tags, record.bucket_start, record.effective_cost, record.bucket_start + bucket_s)

    def series(self) -> list[SeriesDays]:
        """All series: of usage up to `now`, with the day of `now` as today; of bills the days that are complete."""
        return [*(self._of_usage() if self._sums else ()), *self._bills.series()]

    def _of_usage(self) -> Iterator[SeriesDays]:
        hour, first = local_hour(int(self.now), self._zone), min(min(days) for days in self._sums.values())
        elapsed = (hour.of_day + hour.fraction) / 24
        # The first day is seen from its first charge on.
        begin = local_hour(int(self._oldest), self._zone)
        seen = np.ones(hour.day - first)
        seen[:1] = 1 - (begin.of_day + begin.fraction) / 24
        for (scope, tags), by_day in self._sums.items():
            days = DailySpend(first, np.array([by_day.get(day, 0.0) for day in range(first, hour.day)]), seen)
            yield SeriesDays(scope, dict(tags), days, Today(by_day.get(hour.day, 0.0), elapsed))


class BillDays:
    """Dollars per series of a bill and day in UTC: usage, and apart from it what is none."""

    def __init__(self, scopes: Collection[str]) -> None:
        self.scopes = frozenset(scopes)
        self._usage: dict[_Series, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._charges: dict[_Series, dict[str, dict[int, float]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(float))
        )
        #: Until when the bill of each source and input is complete, epoch seconds.
        self._until: dict[str, float] = {}
        #: When that was known, epoch seconds.
        self.now = 0.0

    @property
    def until(self) -> float:
        """Until when all bills are complete, epoch seconds; 0 while nothing is."""
        return min(self._until.values(), default=0.0)

    def note(self, source: str, tick: SpendTick) -> None:
        """Note how far a bill is known."""
        if source.startswith(BILLS) and tick.at:
            self._until[source] = max(tick.at, self._until.get(source, 0.0))
            self.now = max(self.now, tick.known_at)

    def add(self, series: _Series, start: int, usd: float, charges: Mapping[str, float]) -> None:
        """Count a sum of a bill of the bucket at `start` (epoch seconds); `charges` are in it."""
        day = start // DAY_S
        self._usage[series][day] += usd - math.fsum(charges.values())
        for part, each in charges.items():
            self._charges[series][part][day] += each

    def series(self) -> Iterator[SeriesDays]:
        """Every series, with the days that are complete as its days."""
        end = int(self.until // DAY_S)
        for (scope, tags), usage in self._usage.items():
            charges = {part: dict(days) for part, days in self._charges.get((scope, tags), {}).items()}
            first = min(end, *usage)
            days = DailySpend(first, np.array([usage.get(day, 0.0) for day in range(first, end)]))
            partial = {day: usd for day, usd in usage.items() if day >= end}
            yield SeriesDays(scope, dict(tags), days, Today(), BilledDays(first, partial, charges))


def read_events(path: Path, settings: DetectorSettings) -> DaySums:
    """The days of a recorded event stream: every id once. Raises FileNotFoundError."""
    sums, seen = DaySums(settings.time_zone), set[str]()
    for record in _records(events_file(path)):
        if record.id in seen:
            continue
        seen.add(record.id)
        source = "gpu" if isinstance(record, GpuRecord) else "costs" if isinstance(record, CostRecord) else "usage"
        at = record.charge_period_start
        for scope in settings.scopes:
            if source in scope.sources:
                sums.add(scope.name, scope.series(record.tags), at, record.effective_cost, at)
    return sums


def _records(file: Path) -> Iterable[SpendRecord]:
    with file.open("rb") as raw:
        lines: Any = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
        while chunk := lines.readlines(1 << 20):
            yield from parse_event_stream(chunk, source="forecast", location=file.name)[0]


async def read_log(log: Log, settings: DetectorSettings) -> DaySums:
    """The days of an open log, from the sums on it; the daemon may be down."""
    sums = DaySums(settings.time_zone, billed_scopes(settings))
    async for message in log.scan(SPEND):
        sums.take(message, settings.bucket_s)
    return sums


def report(sums: DaySums, settings: DetectorSettings, scope: str, top: int) -> tuple[list[Question], str]:
    """The questions of the series that spend most, and the end of the known spend."""
    now = sums.now_of(scope)
    asked = questions(sums.series(), settings, now, scope)[:top] if now else []
    return asked, iso(sums.known_until(scope) or None) or ""
