"""The figures of a report, from what is on the log, as plain data that every format shows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from curb import wiring
from curb.config.file import CurbConfig
from curb.detector.budgets.amounts import Increases, base_usd
from curb.detector.budgets.rows import subject
from curb.detector.settings import DetectorSettings
from curb.report.charges import BudgetPeriods, Charges, GroupSums, Money, Tags
from curb.report.kpi import Kpi
from curb.report.span import ReportSpan
from curb.stream.clock import WallClock
from curb.stream.log.protocol import Log
from curb.stream.log.topics import COMMANDS, RECONCILED
from curb.stream.money import usd
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.spend import UNTAGGED, Alert, BudgetIncrease, Feedback, LedgerEntry
from curb.stream.time import DAY_S, iso
from curb.views.alerts_and_actions import LogView
from curb.views.forecast import read_log, row
from curb.views.forecast import report as questions_of

#: Budgets whose running period is forecast, a scope: each takes a few milliseconds. By hand.
_MOST_FORECASTS = 200
#: Kinds of alerts that are no anomaly of spend: crossings, and sources that went quiet.
_NO_ANOMALY = frozenset({"budget", "feed"})
#: Requests or tokens that make one unit of a unit cost.
_TOKENS = 1000


class Quotient(msgspec.Struct):
    """Units, dollars for one of them, and the change of that against the span before; None where nobody counted."""

    units: float
    usd_each: float | None
    change: float | None = None


class GroupRow(msgspec.Struct):
    """One combination of the tags, or the total. Dollars; `change` and `share` are parts of one, 0.1 for 10 %."""

    tags: dict[str, str]
    spend_usd: float
    estimated_usd: float
    billed_usd: float
    before_usd: float | None
    change: float | None
    share: float | None
    #: Of `spend_usd`, parts of shared costs.
    shared_usd: float
    requests: Quotient
    tokens: Quotient
    kpis: dict[str, Quotient]
    alerts: int = 0
    excess_usd: float = 0.0
    saved_usd: float = 0.0
    refused: int = 0


class DayRow(msgspec.Struct):
    """Dollars of one local day."""

    day: str
    spend_usd: float
    estimated_usd: float
    billed_usd: float


class BudgetRow(msgspec.Struct):
    """A budget on one subject: its periods that ended in the span, else the running one; and a forecast of
    the period that runs now."""

    name: str
    tags: dict[str, str]
    period: str
    periods: int
    over: int
    amount_usd: float
    spent_usd: float
    #: The largest part of its amount that one period used; 1.0 is all of it.
    most_used: float
    complete: bool
    forecast_until: str | None = None
    forecast_usd: float | None = None
    forecast_low_usd: float | None = None
    forecast_high_usd: float | None = None
    breach_probability: float | None = None


class Anomaly(msgspec.Struct):
    """An alert on spend that fired in the span."""

    alert_id: str
    tier: str
    kind: str
    tags: dict[str, str]
    fired_at: str
    resolved_at: str | None
    excess_usd: float
    money: str
    verdict: str | None
    reason: str


class PairRow(msgspec.Struct):
    """Estimated and billed dollars of a pair of sources, over the days of the span that were compared."""

    pair: str
    days: int
    estimated_usd: float
    billed_usd: float
    ratio: float | None


class SpendReport(msgspec.Struct):
    """A report: the total, a row per group, and what goes with them."""

    since: str
    until: str
    first_day: str
    last_day: str
    time_zone: str
    before_first_day: str
    before_last_day: str
    written_at: str
    by: list[str]
    money: str
    total: GroupRow
    groups: list[GroupRow]
    days: list[DayRow]
    untagged: dict[str, float]
    #: Dollars received after the span, and dollars of credits and corrections (negative).
    late_usd: float
    corrections_usd: float
    budgets: list[BudgetRow]
    anomalies: list[Anomaly]
    budget_alerts: int
    pairs: list[PairRow]
    notes: list[str]


class BesideCharges(msgspec.Struct):
    """What is on the log beside charges."""

    view: LogView
    verdicts: dict[str, str]
    increases: list[BudgetIncrease]
    reconciled: list[Reconciliation]
    forecasts: list[dict[str, Any]]


async def make_report(
    config: CurbConfig, span: ReportSpan, by: Sequence[str], kpis: Sequence[Kpi], money: Money | None, *, lines: bool
) -> tuple[SpendReport, Charges]:
    """Read the log and make the report; works with the daemon up or down. With `lines` the charges of each line too.

    Without `money`, estimated dollars are the spend where there are any, else billed ones. Raises PermanentError and
    TransientError for a log that cannot be read.
    """
    clock = WallClock()
    async with wiring.open_log(config, clock) as log:
        shared = config.attribution.shared_costs
        charges = await Charges(span, by, config.detector, shared, lines=lines).read(log)
        recorded = await read_recorded(log, config.detector)
    return assemble(charges, recorded, config.detector, kpis, money, clock.now()), charges


async def read_recorded(log: Log, detector: DetectorSettings) -> BesideCharges:
    """Alerts, ledger, verdicts, increases, compared days and forecasts on an open log."""
    view = await LogView().load(log)
    verdicts: dict[str, str] = {}
    increases: list[BudgetIncrease] = []
    async for message in log.scan(COMMANDS):
        for record in read_knowledge(message.value, lambda *_: None):
            if isinstance(record, Feedback):
                verdicts[record.alert_id] = record.verdict
            elif isinstance(record, BudgetIncrease):
                increases.append(record)
    table = await log.table(RECONCILED)
    days = [msgspec.json.decode(value, type=Reconciliation) for key, value in sorted(table.items()) if b"/" in key]
    forecasts = await _forecasts(log, detector) if detector.budgets else []
    return BesideCharges(view, verdicts, increases, days, forecasts)


async def _forecasts(log: Log, detector: DetectorSettings) -> list[dict[str, Any]]:
    """Quick forecasts of the running period of every budget that counts something."""
    sums = await read_log(log, detector)
    found = []
    for scope in dict.fromkeys(budget.scope for budget in detector.budgets):
        asked, _ = questions_of(sums, detector, scope, _MOST_FORECASTS)
        found += [row(each, each.answer(thorough=False)) for each in asked if each.budget is not None]
    return found


def assemble(
    charges: Charges,
    recorded: BesideCharges,
    detector: DetectorSettings,
    kpis: Sequence[Kpi],
    money: Money | None,
    now: float,
) -> SpendReport:
    """The report of what was read, written at `now` (epoch seconds)."""
    span = charges.span
    total = charges.total
    chosen: Money = money or ("billed" if total.billed.usd and not total.estimated.usd else "estimated")
    rows = _Rows(charges, kpis, chosen)
    groups = [rows.of_group(key) for key in charges.now.keys() | (charges.then.keys() if rows.compares else set())]
    groups = [each for each in groups if each.spend_usd or each.before_usd]
    groups.sort(key=lambda each: (-each.spend_usd, list(each.tags.values())))
    whole = rows.of_total()
    alerts = [each for each in recorded.view.alerts.values() if span.start <= each.fired_at < span.end]
    odd = [each for each in alerts if each.kind not in _NO_ANOMALY and each.tier != "soft"]
    ledger = [e[-1] for e in recorded.view.actions.values() if span.start <= e[0].at < span.end]
    _attach(groups, whole, odd, ledger, charges.by)
    return SpendReport(
        since=iso(span.start),
        until=iso(span.end),
        first_day=str(span.first_day),
        last_day=str(span.last_day),
        time_zone=span.zone.key,
        before_first_day=str(charges.before.first_day),
        before_last_day=str(charges.before.last_day),
        written_at=iso(now),
        by=list(charges.by),
        money=chosen,
        total=whole,
        groups=groups,
        days=_days(charges, chosen),
        untagged=_untagged(groups, whole.spend_usd),
        late_usd=charges.late.spend(chosen),
        corrections_usd=charges.negative.spend(chosen),
        budgets=_budgets(charges.budgets, recorded, detector, min(span.end, now)),
        anomalies=[_anomaly(each, recorded.verdicts) for each in sorted(odd, key=lambda each: -each.excess_usd)],
        budget_alerts=sum(each.kind == "budget" for each in alerts),
        pairs=_pairs(recorded.reconciled, span),
        notes=_notes(charges, chosen, kpis, now, compares=rows.compares) + _nowhere(groups, charges.by),
    )


class _Rows:
    """Makes rows of groups, compared with the span before where all of that is on the log."""

    def __init__(self, charges: Charges, kpis: Sequence[Kpi], money: Money) -> None:
        self._charges, self._money = charges, money
        self.compares = charges.oldest < charges.before.start + DAY_S
        self._total = charges.total.spend(money)
        by = charges.by
        self._kpis = [
            (kpi.name, kpi.shared(by), kpi.units(charges.span, by), kpi.units(charges.before, by)) for kpi in kpis
        ]
        self._whole = [(k.name, k.units(charges.span, ()), k.units(charges.before, ())) for k in kpis]

    def of_group(self, key: tuple[str, ...]) -> GroupRow:
        """The row of one combination of values."""
        empty = GroupSums()
        tags = dict(zip(self._charges.by, key, strict=True))
        units = {}
        for name, shared, now, then in self._kpis:
            values = tuple(tags[tag] for tag in shared)
            units[name] = (now.get(values), then.get(values))
        return self._row(tags, self._charges.now.get(key, empty), self._charges.then.get(key, empty), units)

    def of_total(self) -> GroupRow:
        """The row of everything."""
        units = {name: (now.get(()), then.get(())) for name, now, then in self._whole}
        return self._row({}, self._charges.total, self._charges.total_then, units)

    def _row(
        self,
        tags: dict[str, str],
        now: GroupSums,
        then: GroupSums,
        kpis: Mapping[str, tuple[float | None, float | None]],
    ) -> GroupRow:
        spend = now.spend(self._money)
        before = then.spend(self._money) if self.compares else None
        shown = {}
        for name, (units, earlier) in kpis.items():
            if units:
                shown[name] = _quotient(spend, units, before, earlier)
        known = self.compares
        return GroupRow(
            tags=tags,
            spend_usd=spend,
            estimated_usd=now.estimated.usd,
            billed_usd=now.billed.usd,
            before_usd=before,
            change=_change(spend, before),
            share=spend / self._total if self._total else None,
            shared_usd=now.shared_usd(self._money),
            requests=_quotient(
                now.metered.usd, now.requests, then.metered.usd if known else None, then.requests if known else None
            ),
            tokens=_quotient(
                now.tokens_metered.usd,
                now.tokens / _TOKENS,
                then.tokens_metered.usd if known else None,
                then.tokens / _TOKENS if known else None,
            ),
            kpis=shown,
        )


def _quotient(usd: float, units: float, before_usd: float | None, before_units: float | None) -> Quotient:
    each = usd / units if units else None
    then = before_usd / before_units if before_usd is not None and before_units else None
    return Quotient(units, each, _change(each, then))


def _change(now: float | None, before: float | None) -> float | None:
    """The change against before as a part of it; None without a positive amount before."""
    return None if now is None or before is None or before <= 0 else (now - before) / before


def _attach(
    groups: Iterable[GroupRow],
    whole: GroupRow,
    alerts: Iterable[Alert],
    ledger: Iterable[LedgerEntry],
    by: Sequence[str],
) -> None:
    """Count alerts and actions at the total, and at the group whose values their tags have."""
    of = {tuple(each.tags[tag] for tag in by): each for each in groups}

    def rows(tags: Mapping[str, str]) -> list[GroupRow]:
        own = of.get(tuple(tags[tag] for tag in by)) if all(tag in tags for tag in by) else None
        return [whole] if own is None else [whole, own]

    for alert in alerts:
        for each in rows(alert.tags):
            each.alerts += 1
            each.excess_usd += max(0.0, alert.excess_usd)
    for entry in ledger:
        for each in rows(entry.tags):
            each.saved_usd += entry.saved_usd or 0.0
            each.refused += entry.rejected or 0


def _days(charges: Charges, money: Money) -> list[DayRow]:
    found, empty = [], GroupSums()
    for day in charges.span.days:
        sums = charges.days.get(day, empty)
        found.append(DayRow(str(day), sums.spend(money), sums.estimated.usd, sums.billed.usd))
    return found


def _untagged(groups: Iterable[GroupRow], total: float) -> dict[str, float]:
    """Tag → the part of the spend that has no value for it."""
    missing: dict[str, list[float]] = defaultdict(list)
    for each in groups:
        for tag, value in each.tags.items():
            if value == UNTAGGED:
                missing[tag].append(each.spend_usd)
    return {tag: math.fsum(found) / total for tag, found in missing.items()} if total else {}


def _nowhere(groups: Sequence[GroupRow], by: Sequence[str]) -> list[str]:
    """Tags that no charge carries: misspelt, perhaps."""
    missing = [tag for tag in by if groups and all(each.tags[tag] == UNTAGGED for each in groups)]
    return [f"no charge has a tag {tag}" for tag in missing]


# --- budgets ------------------------------------------------------------------------------------------------------


def _budgets(
    counted: BudgetPeriods, recorded: BesideCharges, detector: DetectorSettings, until: float
) -> list[BudgetRow]:
    known = _amounts_on_alerts(recorded.view)
    by_row: dict[tuple[int, Tags], list[tuple[float, float, float, float]]] = defaultdict(list)
    for (number, place, who), spent in counted.sums.items():
        start, end = counted.windows[number][place]
        budget = counted.budgets[number]
        amount = known.get((budget.name, start, who))
        if amount is None:
            amount = base_usd(budget, detector.exchange_rates, start, ZoneInfo(budget.time_zone or detector.time_zone))
            amount += _increased_usd(recorded.increases, budget.name, who, min(end, until))
        by_row[number, who].append((start, end, amount, spent.usd))
    budgets = {budget.name: budget for budget in counted.budgets}
    forecasts = {(f["budget"], tuple(subject(budgets[f["budget"]], f["tags"]).items())): f for f in recorded.forecasts}
    rows = []
    for (number, who), periods in by_row.items():
        budget = counted.budgets[number]
        used = [spent / amount if amount else 0.0 for _, _, amount, spent in periods]
        forecast = forecasts.get((budget.name, who), {})
        complete, spent_usd = all(end <= until for _, end, _, _ in periods), math.fsum(spent for *_, spent in periods)
        # Sums of buckets, on which forecasts stand, are a little behind the charges.
        least = 0.0 if complete else spent_usd
        expected, low, high = (
            None if (value := forecast.get(name)) is None else max(value, least)
            for name in ("forecast_usd", "low_usd", "high_usd")
        )
        rows.append(
            BudgetRow(
                name=budget.name,
                tags=dict(who),
                period=budget.period,
                periods=len(periods),
                over=sum(each > 1 for each in used),
                amount_usd=math.fsum(amount for _, _, amount, _ in periods),
                spent_usd=spent_usd,
                most_used=max(used),
                complete=complete,
                forecast_until=forecast.get("period_end"),
                forecast_usd=expected,
                forecast_low_usd=low,
                forecast_high_usd=high,
                breach_probability=forecast.get("breach_probability"),
            )
        )
    order = {budget.name: number for number, budget in enumerate(counted.budgets)}
    return sorted(rows, key=lambda each: (order[each.name], -each.spent_usd))


def _amounts_on_alerts(view: LogView) -> dict[tuple[str, float, Tags], float]:
    """Amounts as alerts had them, with what was carried over, earned and added."""
    found = {}
    for alert in view.alerts.values():
        if alert.budget is not None:
            found[alert.budget.name, alert.budget.period_start, tuple(alert.tags.items())] = alert.budget.amount_usd
    return found


def _increased_usd(records: Iterable[BudgetIncrease], budget: str, who: Tags, at: float) -> float:
    """Dollars that people had added to a budget at a moment (epoch seconds)."""
    in_force = Increases()
    for record in records:
        if record.at < at:
            in_force.put(record)
    in_force.expire(at - 1)
    return in_force.usd(budget, dict(who))


# --- what goes with them ------------------------------------------------------------------------------------------


def _anomaly(alert: Alert, verdicts: Mapping[str, str]) -> Anomaly:
    return Anomaly(
        alert_id=alert.alert_id,
        tier=alert.tier,
        kind=alert.kind,
        tags=alert.tags,
        fired_at=iso(alert.fired_at),
        resolved_at=iso(alert.resolved_at),
        excess_usd=alert.excess_usd,
        money=alert.money,
        verdict=verdicts.get(alert.alert_id),
        reason=alert.reason or alert.explanation,
    )


def _pairs(found: Iterable[Reconciliation], span: ReportSpan) -> list[PairRow]:
    by_pair: dict[str, list[Reconciliation]] = defaultdict(list)
    for each in found:
        if span.start <= each.period_start < span.end:
            by_pair[each.pair].append(each)
    rows = []
    for pair, days in by_pair.items():
        estimated = math.fsum(each.estimated_usd for each in days)
        billed = math.fsum(each.billed_usd for each in days)
        rows.append(PairRow(pair, len(days), estimated, billed, billed / estimated if estimated > 0 else None))
    return rows


def _notes(charges: Charges, money: Money, kpis: Sequence[Kpi], now: float, *, compares: bool) -> list[str]:
    """What a reader must know before the figures are used."""
    span, total = charges.span, charges.total
    notes = []
    if not math.isfinite(charges.oldest):
        return ["the log holds no charge"]
    if charges.oldest >= span.start + DAY_S:
        notes.append(
            f"the log holds nothing before {iso(charges.oldest)}: the first days are missing "
            "(log.retention_days says how long records are kept)"
        )
    elif not compares:
        notes.append(f"nothing is compared: the log holds nothing before {iso(charges.oldest)}")
    if charges.budgets.sums and charges.budgets.start + DAY_S < charges.oldest < span.start + DAY_S:
        notes.append(f"budgets whose period began before {iso(charges.oldest)} count only from then on")
    if span.end > now:
        notes.append(f"the period is not over: it ends at {iso(span.end)}")
    elif charges.newest < span.end - DAY_S:
        notes.append(f"the newest charge on the log is of {iso(charges.newest)}")
    if money != "both" and total.billed.usd and total.estimated.usd:
        other = total.estimated.usd if money == "billed" else total.billed.usd
        word = "estimated" if money == "billed" else "billed"
        notes.append(
            f"{usd(other)} {word} are not added: bills may charge again what is estimated; see --money billed and both"
        )
    notes += [f"{name}: nobody to divide it among" for name in sorted(charges.shared.undivided)]
    if charges.duplicates:
        notes.append(f"{charges.duplicates:,} records were on the log twice and count once")
    if charges.refused:
        notes.append(f"{charges.refused:,} records could not be counted; they are among the dead letters")
    for kpi in kpis:
        notes += kpi.faults
        if not kpi.units(span, ()):
            notes.append(f"{kpi.name} has no value in this period")
    return notes
