"""Budgets of a shard: spend of each amount in its period, and one alert on it, at the highest threshold crossed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.budgets import wording as words
from curb.detector.budgets.alerts import BudgetAlerts, tier_of
from curb.detector.budgets.amounts import PastAlert
from curb.detector.budgets.amounts_by_period import BudgetAmounts
from curb.detector.budgets.budget import BudgetSettings
from curb.detector.budgets.burn import BurnWindows
from curb.detector.budgets.burn_alerts import Burning, Describe, Moment, RateAlerts
from curb.detector.budgets.changes import is_material
from curb.detector.budgets.charges import OpenCharges
from curb.detector.budgets.daily import DailyHistory
from curb.detector.budgets.outlook import Forecast, outlook
from curb.detector.budgets.past_periods import EndedPeriod, PastPeriods
from curb.detector.budgets.rows import BudgetRows, SavedRow
from curb.detector.budgets.status import BudgetRest, BudgetView
from curb.detector.budgets.uncounted import BudgetSubject, Uncounted
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.columns import Floats, Ints
from curb.detector.state.reader import PartialSum
from curb.detector.state.registry import SeriesRegistry
from curb.stream.records.revisions import resolved, revised
from curb.stream.records.spend import TIER_RANK, Alert, BudgetIncrease, BudgetStatus, Feedback, Knowledge

logger = logging.getLogger(__name__)


#: Keys of the alerts of a row: on what was spent, and on an expansion.
_SPENT, _EXPANDED = "spent", "expanded"
#: The seconds over which the rate of a row is taken, as its closed buckets have it.
_RATE_S = 300.0


class BudgetDump(msgspec.Struct):
    """State that is not an array. Numbers of rows are text, because keys of maps are."""

    rows: list[SavedRow] = []
    matched: int = 0
    newest: float = 0.0
    fired: dict[str, list[float]] = {}
    firing: dict[str, dict[str, Alert]] = {}
    burning: dict[str, Burning] = {}
    slots: tuple[int, int, int] = (0, -1, -1)
    increases: list[BudgetIncrease] = []
    incidents: dict[str, PastAlert] = {}
    raised: list[int] = []
    gone: list[Alert] = []
    early: list[tuple[int, str]] = []
    past: dict[str, list[EndedPeriod]] = {}
    charges: dict[str, dict[str, dict[str, float]]] = {}
    billed: dict[str, float] = {}


class Budgets:
    """A row is one budget on one subject. Spend counts by event time into the period that is open."""

    def __init__(self, settings: BudgetSettings, registry: SeriesRegistry, forecast: Forecast = outlook) -> None:
        self._settings = settings
        self._rows = BudgetRows(settings, registry)
        self._history = DailyHistory(self._rows.zones, self._rows.on_bills)
        self._burn = BurnWindows(settings.bucket_s)
        #: What is no usage, of buckets that did not close yet.
        self.charges = OpenCharges()
        self._amounts = BudgetAmounts(settings, self._rows)
        self._view = BudgetView(self._rows, self._burn, self._history, forecast)
        self._write = BudgetAlerts(settings.alerts, self._rows, self._burn, self._view)
        self._rates = RateAlerts(settings.alerts, self._rows, self._burn)
        self._past = PastPeriods(self._rows, self._view)
        #: Start of the newest closed bucket, epoch seconds.
        self._newest = 0.0
        #: Alerts of the open period that fire, by row and key.
        self._firing: dict[int, dict[str, Alert]] = {}
        #: Rows with a page, which is revised while spend goes on.
        self._paging: set[int] = set()
        #: Alerts whose row or threshold is no longer configured; they resolve with the next bucket.
        self._gone: list[Alert] = []
        #: Dollars of buckets that did not close, and the rows whose pages they raised, which the next bucket revises.
        self._uncounted = Uncounted(settings, self._rows)
        self._early: set[int] = set()

    # --- for people and other rules -------------------------------------------------------------------------------

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [
            *(alert for each in self._firing.values() for alert in each.values()),
            *self._rates.firing,
            *self._past.firing,
        ]

    def status(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Tags and status of every row; `threshold` is the highest that fired (percent), or 0."""
        return self._statuses(range(len(self._rows)))

    def fullest(self, most: int) -> tuple[list[tuple[dict[str, str], BudgetStatus]], list[BudgetRest]]:
        """The rows that have spent the largest share of their amount, `most` of each budget, and the sums of others."""
        rows, rest = self._view.fullest(most)
        return self._statuses(rows), rest

    def _statuses(self, rows: Sequence[int]) -> list[tuple[dict[str, str], BudgetStatus]]:
        thresholds = [self._amounts.highest(row) for row in rows]
        now = self._newest + self._settings.bucket_s
        tags = [self._rows.tags[row] for row in rows]
        return list(zip(tags, self._view.statuses(rows, thresholds, now), strict=True))

    def add(self, record: Knowledge) -> None:
        """Take in an increase, which raises the amount of matching rows until it expires, or a verdict on an alert.

        Alerts resolve with the next bucket. An alert that a person called planned or no anomaly is no incident.
        """
        if isinstance(record, BudgetIncrease):
            self._amounts.increases.put(record)
            self._amounts.apply_increases([record.budget])
        elif isinstance(record, Feedback):
            self._amounts.incidents.judge(record.alert_id, pardoned=record.verdict != "real")

    def billed_until(self, source: str, at: float) -> None:
        """Note that the bill of a source is known up to `at` (epoch seconds); 0 says nothing."""
        if at:
            self._view.billed[source] = max(at, self._view.billed.get(source, 0.0))

    def incident(self, alert: Alert) -> None:
        """Record an alert of another rule: a budget with incidents does not grow by itself."""
        self._amounts.incidents.note(alert)

    # --- as sums come ---------------------------------------------------------------------------------------------

    def wait(self, parts: Sequence[PartialSum], due: int) -> list[tuple[BudgetSubject, float]]:
        """Keep sums that budgets count when the bucket at `due`, or their own later one, closes. `check` takes what is
        returned."""
        return self._uncounted.add(parts, due) if self._settings.budgets else []

    def check(self, touched: Sequence[tuple[BudgetSubject, float]], end: float, at: float) -> list[Alert]:
        """Alerts of thresholds that sums reach before their bucket closes; `end` is the event time of the sums.

        A threshold that fires here does not fire again when the bucket closes.
        """
        reached = [each for each, start in touched if self._reaches(each, start, end)]
        if not reached:
            return []
        rows = self._rows
        usd, fresh = self._uncounted.by_row()
        columns = [rows[name] for name in ("spent_usd", "in_parent_usd")]
        before = [column.copy() for column in columns]
        for column in columns:
            np.add(column, usd, out=column)
        # The rate of the closed buckets fades while that of the open one comes in.
        passed_s = min(_RATE_S, max(0.0, end - self._newest - self._settings.bucket_s))
        rate = rows["rate"] * (1 - passed_s / _RATE_S) + fresh * 3600 / _RATE_S
        end = min([end, *(float(rows["period_end"][row]) for row in map(self._row_of, reached))])
        alerts = self._cross(Moment(end, at, rate, rows["usual"], rows["requests"]), early=True)
        for column, counted in zip(columns, before, strict=True):
            column[...] = counted
        return alerts

    def _reaches(self, each: BudgetSubject, period_start: float, end: float) -> bool:
        """Whether a row reaches its next threshold; opens a row that no series has yet and that does."""
        row, usd = self._rows.find(each.id), self._uncounted.usd(each.id, period_start)
        if row is None:
            if self._rows.on_bills[each.budget]:  # its sums are of the past, and more of them wait
                return False
            if usd < self._amounts.first_usd(each.budget, each.tags, period_start):
                return False
            bucket_s = self._settings.bucket_s
            start = max(period_start, (math.ceil(end / bucket_s) - 1) * bucket_s)
            row = self._rows.open(each.budget, each.tags, start)
            self._take_new([row], start)
        same_period = bool(self._rows["period_start"][row] == period_start)
        return same_period and bool(self._rows.counted_usd(row) + usd >= self._rows["next_usd"][row])

    def _row_of(self, each: BudgetSubject) -> int:
        row = self._rows.find(each.id)
        assert row is not None  # it reached its threshold
        return row

    # --- as buckets close -----------------------------------------------------------------------------------------

    def close(self, bucket: ClosedBucket, estimated_usd: Mapping[int, float] | None = None) -> list[Alert]:
        """Count a closed bucket; returns new alerts, revisions of firing ones, and those that end with their period.

        `estimated_usd` is what calls without usage are estimated at, by series.
        """
        self._match(bucket.start)
        revisions = self.roll(bucket.start, bucket.at)
        if not len(self._rows):
            return revisions
        self._amounts.apply_increases(self._amounts.increases.expire(bucket.end))
        usd, flow = self._rows.add(bucket.cost, self.charges.pop(bucket.start, len(bucket.cost)))
        self._rows.estimate(estimated_usd or {})
        self._history.add(bucket.start, self._rows["budget"], usd, flow)
        self._burn.add(bucket.start, flow)
        scores = bucket.scores
        expected = np.maximum(np.nan_to_num(scores.expected_fast), 0.0)
        rate, usual, requests = (self._rows.sum(each) for each in (scores.rate, expected, scores.requests_rate))
        for name, values in (("rate", rate), ("usual", usual), ("requests", requests)):
            self._rows[name][...] = values
        moment = Moment(bucket.end, bucket.at, rate, usual, requests)
        revisions += self._resolve_freed(moment)
        revisions += self._revise_pages(moment)
        revisions += self._cross(moment)
        step_s, describe = bucket.end - bucket.start, self._describe_burn(moment)
        return revisions + self._rates.close(moment, step_s, describe, self._view.who, self._paging)

    def _describe_burn(self, moment: Moment) -> Describe:
        return lambda report: self._write.burning(report, self._amounts.highest(report.row), moment)

    def late(self, index: Ints, cost: Floats, bucket: Ints, newest: int, charges: Floats | None = None) -> None:
        """Count sums whose buckets, up to `newest`, were closed before, if their period is still open.

        `charges` are the parts of them that are no usage. Alerts come with the next bucket. A negative sum lowers the
        spend and changes no alert.
        """
        self._match(newest)
        if not len(self._rows):
            return
        late = self._rows.late(index, cost, bucket, charges)
        self._past.late(late, float(newest))
        self._history.late(late, self._rows["budget"], newest)
        self._burn.late(late)

    def roll(self, start: float, at: float) -> list[Alert]:
        """Open new periods for rows whose period ended by `start`; their alerts resolve at `at`."""
        self._newest = float(start)
        self._uncounted.counted(int(start))
        revisions = [resolved(alert, at) for alert in self._gone]
        self._gone = []
        rows = self._rows
        for row in np.flatnonzero(rows["parent_end"] <= start).tolist():
            rows.begin_parent(row, start)
        due = np.flatnonzero(rows["period_end"] <= start)
        for row in due.tolist():
            revisions += self._end(row, at)
        for budget in np.unique(rows["budget"][due]).tolist():
            revisions += self._begin(int(budget), due[rows["budget"][due] == budget], start, at)
        return revisions + self._past.close(at)

    def _match(self, start: float) -> None:
        """Rows for series that came since the last call."""
        new = self._rows.match(start)
        self._take_new(new, start)
        for row in new:
            self._past.begin(row, start)

    def _take_new(self, new: Sequence[int], start: float) -> None:
        for row in new:
            self._history.begin(row, int(self._rows["budget"][row]), start)
            self._amounts.add(row)
        self._burn.grow(len(self._rows))

    # --- periods and amounts --------------------------------------------------------------------------------------

    def _end(self, row: int, at: float) -> list[Alert]:
        """The period of a row is over."""
        highest = self._amounts.highest(row)
        self._amounts.end(row)
        alerts = self._firing.pop(row, {})
        self._paging.discard(row)
        self._early.discard(row)
        if self._past.end(row, highest, at, alerts.get(_SPENT)):
            alerts.pop(_SPENT, None)
        spent, more = alerts.pop(_SPENT, None), [resolved(alert, at) for alert in alerts.values()]
        if spent is not None:
            threshold = _threshold_of(spent)
            (status,) = self._view.statuses([row], [threshold], float(self._rows["period_end"][row]))
            more.insert(0, resolved(spent, at, **self._write.ended(row, status, at)))
        return [*more, *self._rates.end(row, at)]

    def _begin(self, number: int, due: Ints, start: float, at: float) -> list[Alert]:
        """Open the new period of the rows `due` of one budget; an alert on an expansion fires until it ends."""
        alerts = []
        for expansion in self._amounts.begin(number, due, start):
            alert = self._write.expanded(expansion, start, at)
            self._firing.setdefault(expansion.row, {})[_EXPANDED] = alert
            alerts.append(alert)
        return alerts

    def _resolve_freed(self, moment: Moment) -> list[Alert]:
        """Resolve alerts whose threshold a raised amount has moved out of reach; it may fire again."""
        revisions = []
        for row in sorted(self._amounts.raised):
            freed, alert = self._amounts.rearm(row), self._firing.get(row, {}).get(_SPENT)
            threshold = _threshold_of(alert)
            if alert is None or threshold not in freed:
                continue
            (status,) = self._view.statuses([row], [threshold], moment.end)
            self._paging.discard(row)
            self._early.discard(row)
            del self._firing[row][_SPENT]
            revisions.append(resolved(alert, moment.at, budget=status, explanation=words.raised(status)))
        self._amounts.raised.clear()
        return revisions

    # --- thresholds -----------------------------------------------------------------------------------------------

    def _cross(self, moment: Moment, *, early: bool = False) -> list[Alert]:
        reached = self._rows.reached().tolist()
        crossed = {row: self._amounts.cross(row) for row in reached}
        roots = {row: self._root(row, crossed) for row in crossed}
        below: dict[int, list[str]] = {}
        for row, root in roots.items():
            if root is not None:
                below.setdefault(root, []).append(f"{self._view.who(row)} ({max(crossed[row]):g} %)")
        fired = [row for row in crossed if roots[row] is None]
        statuses = self._view.statuses(fired, [max(crossed[row]) for row in fired], moment.end)
        alerts = [
            self._open_or_raise(row, status, moment, below.get(row, []))
            for row, status in zip(fired, statuses, strict=True)
        ]
        if early:
            self._early |= set(fired) & self._paging
        return alerts

    def _root(self, row: int, crossed: Mapping[int, Sequence[float]]) -> int | None:
        """The highest row above that crosses now in the same tier or a higher one; it names this row.

        A hard cap always has its own alert, because actions follow it.
        """
        if self._rows.budget(row).hard and max(crossed[row], default=0.0) >= 100:
            return None
        root, above = None, self._rows.parent(row)
        while above is not None:
            if crossed.get(above) and _loudness(crossed[above]) >= _loudness(crossed[row]):
                root = above
            above = self._rows.parent(above)
        return root

    def _open_or_raise(self, row: int, status: BudgetStatus, moment: Moment, below: Sequence[str]) -> Alert:
        """The alert of a row at a threshold that it crossed now."""
        alert = self._firing.get(row, {}).get(_SPENT)
        if alert is None:
            alert = self._write.crossed(row, status, moment, below)
        else:
            at, fields = max(moment.at, alert.updated_at), self._write.threshold(row, status, moment, below)
            if TIER_RANK[fields["tier"]] > TIER_RANK[alert.tier]:
                fields["tier_since"] = at
            alert = revised(alert, at, **fields)
        self._firing.setdefault(row, {})[_SPENT] = alert
        if alert.tier == "page":
            self._paging.add(row)
        return alert

    def _revise_pages(self, moment: Moment) -> list[Alert]:
        """Revise pages while spend goes on, when their figures have moved by much."""
        every_s = self._settings.alerts.update_every_s
        due = []
        for row in sorted(self._paging):
            alert, now = self._firing[row][_SPENT], self._rows.figures(row, moment.rate)
            if self._settles(row, alert) or is_material(alert, now, moment.at, every_s):
                due.append(row)
        thresholds = [_threshold_of(self._firing[row][_SPENT]) for row in due]
        statuses = self._view.statuses(due, thresholds, moment.end)
        revisions = []
        for row, status in zip(due, statuses, strict=True):
            fields = self._write.threshold(row, status, moment, [])
            before = self._firing[row][_SPENT]
            self._firing[row][_SPENT] = revised(before, max(moment.at, before.updated_at), **fields)
            revisions.append(self._firing[row][_SPENT])
        return revisions

    def _settles(self, row: int, alert: Alert) -> bool:
        """Whether a page that fired before its bucket closed is counted now: it gets the figures of the bucket."""
        rows, share = self._rows, _threshold_of(alert) / 100
        counted = row in self._early and rows.counted_usd(row) >= rows["amount_usd"][row] * share
        if counted:
            self._early.remove(row)
        return bool(counted)

    # --- saved and restored ---------------------------------------------------------------------------------------

    def dump(self) -> tuple[BudgetDump, dict[str, NDArray[Any]]]:
        slots, burn = self._burn.dump()
        dump = BudgetDump(
            rows=self._rows.saved(),
            matched=self._rows.matched,
            newest=self._newest,
            fired={str(row): thresholds for row, thresholds in self._amounts.fired.items()},
            firing={str(row): alerts for row, alerts in self._firing.items()},
            burning={str(row): burning for row, burning in self._rates.burning.items()},
            slots=slots,
            increases=list(self._amounts.increases.records.values()),
            incidents=self._amounts.incidents.seen,
            raised=sorted(self._amounts.raised),
            gone=self._gone,
            early=[(row, _SPENT) for row in sorted(self._early)],
            charges=self.charges.dump(),
            billed=self._view.billed,
            past={str(row): periods for row, periods in self._past.periods.items()},
        )
        return dump, self._rows.dump() | self._history.dump() | burn

    def end_at(self, end: float) -> None:
        """The newest bucket ended at `end` (epoch seconds), whatever its length was."""
        self._newest = int(end) - self._settings.bucket_s

    def load(self, dump: BudgetDump, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load what `dump` gave. Budgets that count the same dollars as before keep their sums; new ones start now."""
        self._newest, self._gone = dump.newest, list(dump.gone)
        self.charges.load(dump.charges)
        self._view.billed = dict(dump.billed)
        self._amounts.increases.records = {record.id: record for record in dump.increases}
        self._amounts.incidents.seen = dict(dump.incidents)
        if not dump.rows and not dump.matched:
            return
        start = dump.newest + self._settings.bucket_s
        kept = self._rows.load(dump.rows, arrays, start, dump.matched)
        numbers = np.array(kept, np.int64)
        self._history.load(arrays, numbers)
        self._burn.load(dump.slots, arrays, numbers)
        if len(kept) < len(dump.rows):
            logger.warning("budgets changed: rows that are not configured are dropped", extra={"kept": len(kept)})
        row_of = {number: row for row, number in enumerate(kept)}
        self._load_alerts(dump, row_of)
        self._early = {row_of[row] for row, _ in dump.early if row in row_of} & self._paging
        self._past.load(dump.past, row_of)
        self._amounts.raised = {row_of[row] for row in dump.raised if row in row_of}
        self._take_new(range(len(kept), len(self._rows)), start)
        for row in range(len(kept)):
            self._amounts.reprice(row)

    def _load_alerts(self, dump: BudgetDump, row_of: Mapping[int, int]) -> None:
        """Load the alerts of rows and thresholds that stay; the others resolve with the next bucket."""
        for number, thresholds in dump.fired.items():
            row = row_of.get(int(number))
            if row is not None:
                self._amounts.fired[row] = [each for each in thresholds if each in self._rows.budget(row).thresholds]
        for number, alerts in dump.firing.items():
            row = row_of.get(int(number))
            known, over = _one_a_row(alerts)
            self._gone += over
            for key, alert in known.items():
                if row is None or (key == _SPENT and _threshold_of(alert) not in self._amounts.fired.get(row, [])):
                    self._gone.append(alert)
                    continue
                self._firing.setdefault(row, {})[key] = alert
                if key == _SPENT and alert.tier == "page":
                    self._paging.add(row)
        for number, burning in dump.burning.items():
            row = row_of.get(int(number))
            if row is not None:
                self._rates.burning[row] = burning
            elif burning.firing:
                self._gone.append(burning.alert)


def _loudness(thresholds: Sequence[float]) -> int:
    return max((TIER_RANK[tier_of(each)] for each in thresholds), default=-1)


def _threshold_of(alert: Alert | None) -> float:
    """The threshold (percent) that an alert on what was spent is about; 0 without one."""
    return alert.budget.threshold if alert is not None and alert.budget is not None else 0.0


def _one_a_row(alerts: Mapping[str, Alert]) -> tuple[dict[str, Alert], list[Alert]]:
    """The alerts of a row by key, and those that are over.

    Earlier versions had one for each threshold: the highest goes on as the alert of the row, under its own id.
    """
    known = {key: alert for key, alert in alerts.items() if key in (_SPENT, _EXPANDED)}
    by_threshold = sorted(((float(key), alert) for key, alert in alerts.items() if key not in known), key=_first)
    if not by_threshold:
        return known, []
    *lower, (_, highest) = by_threshold
    return {_SPENT: highest, **known}, [alert for _, alert in lower]


def _first(pair: tuple[float, Alert]) -> float:
    return pair[0]
