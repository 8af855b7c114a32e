"""Budgets of a shard: spend of each amount in its period, and an alert per crossed threshold."""

from __future__ import annotations

import logging
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
from curb.detector.budgets.daily import DailyHistory
from curb.detector.budgets.outlook import Forecast, outlook
from curb.detector.budgets.rows import BudgetRows, SavedRow
from curb.detector.budgets.status import BudgetView
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.revisions import needs_revision, resolved, revised
from curb.stream.records.spend import TIER_RANK, Alert, BudgetIncrease, BudgetStatus

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Key of the alert on an expansion, beside those of thresholds.
_EXPANDED = "expanded"


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


class Budgets:
    """A row is one budget on one subject. Spend counts by event time into the period that is open."""

    def __init__(self, settings: BudgetSettings, registry: SeriesRegistry, forecast: Forecast = outlook) -> None:
        self._settings = settings
        self._rows = BudgetRows(settings, registry)
        self._history, self._burn = DailyHistory(self._rows.zones), BurnWindows(settings.bucket_s)
        self._amounts = BudgetAmounts(settings, self._rows)
        self._view = BudgetView(self._rows, self._burn, self._history, forecast)
        self._write = BudgetAlerts(settings.alerts, self._rows, self._burn, self._view)
        self._rates = RateAlerts(settings.alerts, self._rows, self._burn)
        #: Start of the newest closed bucket, epoch seconds.
        self._newest = 0.0
        #: Alerts of the open period that fire, by row and key: the threshold, or the word for an expansion.
        self._firing: dict[int, dict[str, Alert]] = {}
        #: Pages that are revised while spend goes on: (row, key).
        self._paging: set[tuple[int, str]] = set()
        #: Alerts whose row or threshold is no longer configured; they resolve with the next bucket.
        self._gone: list[Alert] = []

    # --- for people and other rules -------------------------------------------------------------------------------

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [*(alert for each in self._firing.values() for alert in each.values()), *self._rates.firing]

    def status(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Tags and status of every row; `threshold` is the highest that fired (percent), or 0."""
        rows = range(len(self._rows))
        thresholds = [self._amounts.highest(row) for row in rows]
        now = self._newest + self._settings.bucket_s
        return list(zip(self._rows.tags, self._view.statuses(rows, thresholds, now), strict=True))

    def increase(self, record: BudgetIncrease) -> None:
        """Raise the amount of matching rows until the record expires; alerts resolve with the next bucket."""
        self._amounts.increases.put(record)
        self._amounts.apply_increases([record.budget])

    def incident(self, alert: Alert) -> None:
        """Record an alert of another rule: a budget with incidents does not grow by itself."""
        self._amounts.incidents.note(alert)

    def pardon(self, alert_id: str) -> None:
        """Record that a person marked an alert as no anomaly, or as planned."""
        self._amounts.incidents.pardon(alert_id)

    # --- as buckets close -----------------------------------------------------------------------------------------

    def close(self, bucket: ClosedBucket) -> list[Alert]:
        """Count a closed bucket; returns new alerts, revisions of firing ones, and those that end with their period."""
        self._match(bucket.start)
        revisions = self.roll(bucket.start, bucket.at)
        if not len(self._rows):
            return revisions
        self._amounts.apply_increases(self._amounts.increases.expire(bucket.end))
        usd = self._rows.add(bucket.cost)
        self._history.add(bucket.start, self._rows["budget"], usd)
        self._burn.add(bucket.start, usd)
        rate, requests = self._rows.sum(bucket.scores.rate), self._rows.sum(bucket.scores.requests_rate)
        moment = Moment(bucket.end, bucket.at, rate, requests)
        revisions += self._resolve_freed(moment)
        revisions += self._revise_pages(moment)
        revisions += self._cross(moment)
        step_s, describe = bucket.end - bucket.start, self._describe_burn(moment)
        return revisions + self._rates.close(moment, step_s, describe, self._view.who)

    def _describe_burn(self, moment: Moment) -> Describe:
        return lambda report: self._write.burning(report, self._amounts.highest(report.row), moment)

    def late(self, index: Ints, cost: Floats, bucket: Ints, newest: int) -> None:
        """Count sums whose buckets, up to `newest`, were closed before, if their period is still open.

        Alerts come with the next bucket. A negative sum lowers the spend and changes no alert.
        """
        self._match(newest)
        if not len(self._rows):
            return
        late = self._rows.late(index, cost, bucket)
        self._history.late(late, self._rows["budget"][late.rows])
        self._burn.late(late)

    def roll(self, start: float, at: float) -> list[Alert]:
        """Open new periods for rows whose period ended by `start`; their alerts resolve at `at`."""
        self._newest = float(start)
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
        return revisions

    def _match(self, start: float) -> None:
        """Rows for series that came since the last call."""
        self._take_new(self._rows.match(start), start)

    def _take_new(self, new: Sequence[int], start: float) -> None:
        for row in new:
            self._history.begin(row, int(self._rows["budget"][row]), start)
            self._amounts.add(row)
        self._burn.grow(len(self._rows))

    # --- periods and amounts --------------------------------------------------------------------------------------

    def _end(self, row: int, at: float) -> list[Alert]:
        """The period of a row is over."""
        self._amounts.end(row)
        alerts = self._firing.pop(row, {})
        self._paging -= {(row, key) for key in alerts}
        return [*(resolved(alert, at) for alert in alerts.values()), *self._rates.end(row, at)]

    def _begin(self, number: int, due: Ints, start: float, at: float) -> list[Alert]:
        """Open the new period of the rows `due` of one budget; an alert on an expansion fires until it ends."""
        alerts = []
        for expansion in self._amounts.begin(number, due, start):
            alert = self._write.expanded(expansion, start, at)
            self._firing.setdefault(expansion.row, {})[_EXPANDED] = alert
            alerts.append(alert)
        return alerts

    def _resolve_freed(self, moment: Moment) -> list[Alert]:
        """Resolve thresholds that a raised amount has moved out of reach; they may fire again."""
        revisions = []
        for row in sorted(self._amounts.raised):
            freed = self._amounts.rearm(row)
            for status in self._view.statuses([row] * len(freed), freed, moment.end):
                key = f"{status.threshold:g}"
                self._paging.discard((row, key))
                alert = self._firing.get(row, {}).pop(key, None)
                if alert is not None:
                    revisions.append(resolved(alert, moment.at, budget=status, explanation=words.raised(status)))
        self._amounts.raised.clear()
        return revisions

    # --- thresholds -----------------------------------------------------------------------------------------------

    def _cross(self, moment: Moment) -> list[Alert]:
        reached = np.flatnonzero(self._rows["spent_usd"] >= self._rows["next_usd"]).tolist()
        crossed = {row: self._amounts.cross(row) for row in reached}
        roots = {row: self._root(row, crossed) for row in crossed}
        below: dict[int, list[str]] = {}
        for row, root in roots.items():
            if root is not None:
                below.setdefault(root, []).append(f"{self._view.who(row)} ({max(crossed[row]):g} %)")
        fired = [(row, each) for row, reached in crossed.items() if roots[row] is None for each in reached]
        statuses = self._view.statuses([row for row, _ in fired], [each for _, each in fired], moment.end)
        return [
            self._open(row, status, moment, below.get(row, []) if status.threshold == max(crossed[row]) else [])
            for (row, _), status in zip(fired, statuses, strict=True)
        ]

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

    def _open(self, row: int, status: BudgetStatus, moment: Moment, below: Sequence[str]) -> Alert:
        alert, key = self._write.crossed(row, status, moment, below), f"{status.threshold:g}"
        self._firing.setdefault(row, {})[key] = alert
        if alert.tier == "page":
            self._paging.add((row, key))
        return alert

    def _revise_pages(self, moment: Moment) -> list[Alert]:
        """Revise pages while spend goes on, because somebody acts on them: when the rate has moved, not too often."""
        every_s = self._settings.alerts.update_every_s
        due = []
        for row, key in sorted(self._paging):
            alert = self._firing[row][key]
            if moment.at - alert.updated_at >= every_s and needs_revision(
                alert, alert.updated_at, float(moment.rate[row]), every_s
            ):
                due.append((row, key))
        thresholds = [float(key) for _, key in due]
        statuses = self._view.statuses([row for row, _ in due], thresholds, moment.end)
        revisions = []
        for (row, key), status in zip(due, statuses, strict=True):
            fields = self._write.threshold(row, status, moment, [])
            self._firing[row][key] = revised(self._firing[row][key], moment.at, **fields)
            revisions.append(self._firing[row][key])
        return revisions

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
        )
        return dump, self._rows.dump() | self._history.dump() | burn

    def load(self, dump: BudgetDump, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load what `dump` gave. Budgets that count the same dollars as before keep their sums; new ones start now."""
        self._newest, self._gone = dump.newest, list(dump.gone)
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
            for key, alert in alerts.items():
                if row is None or (key != _EXPANDED and float(key) not in self._amounts.fired.get(row, [])):
                    self._gone.append(alert)
                    continue
                self._firing.setdefault(row, {})[key] = alert
                if key != _EXPANDED and alert.tier == "page":
                    self._paging.add((row, key))
        for number, burning in dump.burning.items():
            row = row_of.get(int(number))
            if row is not None:
                self._rates.burning[row] = burning
            elif burning.firing:
                self._gone.append(burning.alert)


def _loudness(thresholds: Sequence[float]) -> int:
    return max((TIER_RANK[tier_of(each)] for each in thresholds), default=-1)
