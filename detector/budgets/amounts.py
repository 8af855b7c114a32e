"""The parts of a budget's amount: exchange rates, carry-over, increases with an expiry, automatic expansion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from curb.detector.budgets.budget import AutoExpand, Budget, CarryOver, ExchangeRate
from curb.detector.budgets.rows import matches
from curb.detector.state.columns import Floats
from curb.stream.records.spend import Alert, BudgetIncrease
from curb.stream.time import DAY_S

#: Kinds of alerts after which a budget does not grow by itself. Chosen by hand: those about spend, not about feeds.
_INCIDENTS = frozenset({"runaway", "abusive", "unit_cost"})


def base_usd(budget: Budget, rates: Sequence[ExchangeRate], period_start: float, zone: ZoneInfo) -> float:
    """The configured amount in dollars, at the rate of the first day of the period (or the oldest one known)."""
    if budget.amount_usd is not None:
        return budget.amount_usd
    amount = budget.amount or 0.0
    own = sorted((rate for rate in rates if rate.currency == budget.currency), key=lambda rate: rate.since)
    if not own:
        return amount  # dollars need no rate
    day = datetime.fromtimestamp(period_start, zone).date()
    return amount * ([rate for rate in own if rate.since <= day] or own[:1])[-1].usd


def carried_usd(rule: CarryOver | None, base_usd: float, left_usd: Floats) -> Floats:
    """Dollars of `left_usd`, shape (rows,), that go into the next period: at least 0, at most the cap."""
    if rule is None:
        return np.zeros_like(left_usd)
    return np.clip(left_usd, 0.0, base_usd * rule.max_percent / 100)


def expansion_usd(rule: AutoExpand, base_usd: float, expanded_usd: float) -> float:
    """Dollars by which the amount grows now, at most up to `max_usd`; `base_usd` and `expanded_usd` make the amount."""
    amount_usd = base_usd + expanded_usd
    return max(0.0, min(amount_usd * rule.step_percent / 100, rule.max_usd - amount_usd))


class Increases:
    """Increases in force. A newer record replaces the one of its id; no dollars, or an expiry in the past, lifts it."""

    def __init__(self) -> None:
        self.records: dict[str, BudgetIncrease] = {}

    def put(self, record: BudgetIncrease) -> None:
        """Apply a record, unless a newer one of its id is known."""
        known = self.records.get(record.id)
        if known is not None and known.at > record.at:
            return
        if record.amount_usd > 0:
            self.records[record.id] = record
        else:
            self.records.pop(record.id, None)

    def expire(self, at: float) -> set[str]:
        """Drop increases that have expired by `at` (epoch seconds); returns the names of their budgets."""
        over = [record for record in self.records.values() if record.expires_at <= at]
        for record in over:
            del self.records[record.id]
        return {record.budget for record in over}

    def usd(self, budget: str, tags: Mapping[str, str]) -> float:
        """Dollars added to a row of `budget` with `tags` now."""
        fitting = (each for each in self.records.values() if each.budget == budget and matches(each.match, tags))
        return sum(each.amount_usd for each in fitting)


class PastAlert(msgspec.Struct):
    """When an alert was last revised (epoch seconds), and the tags it is about."""

    at: float
    tags: dict[str, str]
    pardoned: bool = False


class PastAlerts:
    """Recent alerts that stop a budget from growing by itself; kept for the longest `clean_days` of all budgets."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        days = [budget.auto_expand.clean_days for budget in budgets if budget.auto_expand is not None]
        self._keep_s = max(days) * DAY_S if days else None
        self.seen: dict[str, PastAlert] = {}

    def note(self, alert: Alert) -> None:
        """Remember an alert if its kind and tier count."""
        if self._keep_s is None or alert.kind not in _INCIDENTS or alert.tier == "digest":
            return
        known = self.seen.get(alert.alert_id)
        self.seen[alert.alert_id] = PastAlert(alert.updated_at, alert.tags, known is not None and known.pardoned)
        oldest = alert.updated_at - self._keep_s
        if len(self.seen) > 1000:
            self.seen = {key: each for key, each in self.seen.items() if each.at >= oldest}

    def judge(self, alert_id: str, *, pardoned: bool) -> None:
        """Note whether a person marked the alert as no anomaly or planned; the newest verdict counts."""
        if alert_id in self.seen:
            self.seen[alert_id].pardoned = pardoned

    def clean(self, tags: Mapping[str, str], since: float) -> bool:
        """True without an alert since `since` (epoch seconds) on these tags, a part or a whole of them."""
        alerts = (each for each in self.seen.values() if each.at >= since and not each.pardoned)
        return not any(_overlap(each.tags, tags) for each in alerts)


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    shared = one.keys() & other.keys()
    inside = len(shared) == len(one) or len(shared) == len(other)
    return inside and all(one[tag] == other[tag] for tag in shared)
