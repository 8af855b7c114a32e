"""Budgets: what each matching series has spent of its amount in the period, and an alert per crossed threshold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector import explain
from detector.alerts import alert_id_of, fingerprint_of, is_news, resolved, revised
from detector.closed import ClosedBucket
from detector.columns import Column, Columns
from detector.periods import period_around
from detector.series import SeriesRegistry
from detector.settings import Budget, DetectorSettings
from stream.records import Alert, BudgetStatus, Tier

logger = logging.getLogger(__name__)


class BudgetDump(msgspec.Struct):
    """State that is no array; `names` tells whether the configuration changed in between."""

    names: list[str]
    fired: dict[str, list[float]]
    firing: dict[str, Alert]
    matched: int


class Budgets:
    """A row is one budget on one series. Spend counts by event time into the period that is open."""

    def __init__(self, settings: DetectorSettings, registry: SeriesRegistry) -> None:
        self._settings, self._registry = settings, registry
        self._zones = [ZoneInfo(budget.time_zone or settings.time_zone) for budget in settings.budgets]
        self._rows = Columns(
            {
                "series": Column(dtype=np.int64),
                "budget": Column(dtype=np.int64),
                "spent_usd": Column(),
                #: Dollars at which the next threshold fires.
                "next_usd": Column(fill=np.inf),
                "period_start": Column(),
                "period_end": Column(),
            },
            16,
        )
        self._matched = 0
        #: Alerts of the open period by "row/threshold", and the thresholds that fired by row.
        self._firing: dict[str, Alert] = {}
        self._fired: dict[int, list[float]] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return list(self._firing.values())

    def status(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Every row: the tags of its series and where it stands; `threshold` is the highest that fired, or 0."""
        return [
            (self._registry.tags[int(self._rows["series"][row])], self._status(row, max(self._fired.get(row, [0.0]))))
            for row in range(self._rows.n)
        ]

    def close(self, bucket: ClosedBucket) -> list[Alert]:
        """Count a closed bucket; returns new alerts, news of firing ones, and ends of periods."""
        self._match(bucket.start)
        revisions = self.roll(bucket.start, bucket.at)
        if not self._rows.n:
            return revisions
        spent = self._rows["spent_usd"]
        spent += bucket.cost[self._rows["series"]]
        revisions += self._tell_news(bucket)
        for row in np.flatnonzero(spent >= self._rows["next_usd"]).tolist():
            revisions += self._cross(row, bucket)
        return revisions

    def late(self, index: NDArray[np.int64], cost: NDArray[np.float64], bucket: NDArray[np.int64], newest: int) -> None:
        """Count sums whose buckets, up to `newest`, were closed before, if their period is still open."""
        self._match(newest)
        if not self._rows.n:
            return
        for i, usd, start in zip(index.tolist(), cost.tolist(), bucket.tolist(), strict=True):
            rows = (self._rows["series"] == i) & (self._rows["period_start"] <= start)
            self._rows["spent_usd"][rows & (start < self._rows["period_end"])] += usd

    def roll(self, start: float, at: float) -> list[Alert]:
        """Begin new periods for rows whose period ended by `start`; their alerts resolve at `at`."""
        revisions = []
        for row in np.flatnonzero(self._rows["period_end"] <= start).tolist():
            for threshold in self._fired.pop(row, []):
                alert = self._firing.pop(f"{row}/{threshold:g}", None)
                if alert is not None:
                    revisions.append(resolved(alert, at))
            self._begin(row, start)
        return revisions

    def _match(self, start: int) -> None:
        """Rows for series that came since the last call."""
        for i in range(self._matched, len(self._registry)):
            scope, tags = self._registry.scopes[i], self._registry.tags[i]
            for at, budget in enumerate(self._settings.budgets):
                if budget.scope == scope and _matches(budget, tags):
                    row = self._rows.n
                    self._rows.grow(row + 1)
                    self._rows["series"][row], self._rows["budget"][row] = i, at
                    self._begin(row, start)
        self._matched = len(self._registry)

    def _begin(self, row: int, start: float) -> None:
        at = int(self._rows["budget"][row])
        begin, end = period_around(start, self._settings.budgets[at].period, self._zones[at])
        self._rows["period_start"][row], self._rows["period_end"][row] = begin, end
        self._rows["spent_usd"][row] = 0.0
        self._set_next(row)

    def _set_next(self, row: int) -> None:
        budget, fired = self._budget(row), self._fired.get(row, [])
        left = [threshold for threshold in budget.thresholds if threshold not in fired]
        self._rows["next_usd"][row] = budget.amount_usd * left[0] / 100 if left else np.inf

    def _budget(self, row: int) -> Budget:
        return self._settings.budgets[int(self._rows["budget"][row])]

    def _cross(self, row: int, bucket: ClosedBucket) -> list[Alert]:
        budget, spent_usd = self._budget(row), float(self._rows["spent_usd"][row])
        fired = self._fired.setdefault(row, [])
        alerts = []
        for threshold in budget.thresholds:
            if threshold not in fired and spent_usd >= budget.amount_usd * threshold / 100:
                fired.append(threshold)
                alert = self._open(row, threshold, bucket)
                self._firing[f"{row}/{threshold:g}"] = alert
                alerts.append(alert)
        self._set_next(row)
        return alerts

    def _open(self, row: int, threshold: float, bucket: ClosedBucket) -> Alert:
        i, budget = int(self._rows["series"][row]), self._budget(row)
        scope, tags = self._registry.scopes[i], self._registry.tags[i]
        period_start = float(self._rows["period_start"][row])
        fingerprint = fingerprint_of("budget", scope, sorted(tags.items()), budget.name, threshold, period_start)
        return Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, bucket.at),
            revision=1,
            status="firing",
            kind="budget",
            tier=_tier(threshold),
            scope=scope,
            tags=tags,
            fired_at=bucket.at,
            updated_at=bucket.at,
            started_at=period_start,
            channel=f"budget/{threshold:g}",
            **self._figures(row, threshold, bucket),
        )

    def _tell_news(self, bucket: ClosedBucket) -> list[Alert]:
        """Pages are told anew while they burn, since somebody acts on them: when the rate moved, not too often."""
        revisions, every_s = [], self._settings.alerts.update_every_s
        for key, alert in self._firing.items():
            row = int(key.split("/")[0])
            rate = float(bucket.scores.rate[int(self._rows["series"][row])])
            if alert.tier != "page" or bucket.at - alert.updated_at < every_s or alert.budget is None:
                continue
            if is_news(alert, alert.updated_at, rate, every_s):
                self._firing[key] = revised(alert, bucket.at, **self._figures(row, alert.budget.threshold, bucket))
                revisions.append(self._firing[key])
        return revisions

    def _figures(self, row: int, threshold: float, bucket: ClosedBucket) -> dict[str, Any]:
        """Expected is an even pace through the period; at risk is what would be over by the time a person is there."""
        i, status, alerts = int(self._rows["series"][row]), self._status(row, threshold), self._settings.alerts
        rate, length_s = float(bucket.scores.rate[i]), status.period_end - status.period_start
        expected_usd = status.amount_usd * min(1.0, (bucket.end - status.period_start) / length_s)
        response_s = alerts.response_page_s if _tier(threshold) == "page" else alerts.response_notice_s
        left_s = max(0.0, status.period_end - bucket.end)
        who = explain.subject(self._registry.scopes[i], self._registry.tags[i])
        projected_usd = status.spent_usd + rate * min(response_s, left_s) / 3600
        return {
            "expected_usd": expected_usd,
            "actual_usd": status.spent_usd,
            "excess_usd": status.spent_usd - expected_usd,
            "usd_per_hour": rate,
            "expected_usd_per_hour": status.amount_usd / length_s * 3600,
            "requests_per_minute": bucket.requests_per_minute(i),
            "dollars_at_risk": max(0.0, projected_usd - status.amount_usd),
            "score": 100 * status.spent_usd / status.amount_usd,
            "budget": status,
            "explanation": explain.budget(
                who, status.name, status.spent_usd, status.amount_usd, status.period, rate, left_s
            ),
        }

    def _status(self, row: int, threshold: float) -> BudgetStatus:
        budget = self._budget(row)
        return BudgetStatus(
            name=budget.name,
            period=budget.period,
            period_start=float(self._rows["period_start"][row]),
            period_end=float(self._rows["period_end"][row]),
            amount_usd=budget.amount_usd,
            spent_usd=float(self._rows["spent_usd"][row]),
            threshold=threshold,
        )

    def dump(self) -> tuple[BudgetDump, dict[str, NDArray[Any]]]:
        """What `load` takes."""
        fired = {str(row): thresholds for row, thresholds in self._fired.items()}
        return BudgetDump(self._names(), fired, self._firing, self._matched), self._rows.dump("budget")

    def load(self, dump: BudgetDump, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave. With budgets that have changed since, counting begins anew."""
        if dump.names != self._names():
            logger.warning("budgets changed: spending of the running periods is counted from now on")
            self._matched = 0
            return
        self._rows.load("budget", arrays)
        self._firing, self._matched = dump.firing, dump.matched
        self._fired = {int(row): thresholds for row, thresholds in dump.fired.items()}

    def _names(self) -> list[str]:
        """Every budget in full: any change of one makes other rows or other thresholds."""
        return [budget.model_dump_json() for budget in self._settings.budgets]


def _matches(budget: Budget, tags: Mapping[str, str]) -> bool:
    return all(tag in tags and fnmatchcase(tags[tag], pattern) for tag, pattern in budget.match.items())


def _tier(threshold: float) -> Tier:
    if threshold >= 100:
        return "page"
    return "notice" if threshold > 50 else "digest"
