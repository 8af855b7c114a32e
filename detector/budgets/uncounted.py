"""Dollars that are on the log and that budgets do not count yet, because their bucket has not closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from curb.detector.budgets.budget import Budget, BudgetSettings
from curb.detector.budgets.rows import BudgetRows, matches, row_id, subject
from curb.detector.state.columns import Floats
from curb.detector.state.reader import PartialSum

#: Sums are kept in whole units, so many to a dollar, so that what was added can be taken off without a rest.
_UNITS = 1e9


class BudgetSubject(NamedTuple):
    """A budget and the tags of one of its rows, which may not exist yet."""

    id: str
    budget: int
    tags: dict[str, str]


class _Sum(msgspec.Struct):
    """Dollars in units: all of them, and those of buckets that are still open."""

    units: int = 0
    fresh: int = 0

    def add(self, units: int, fresh: int) -> None:
        self.units += units
        self.fresh += fresh


class Uncounted:
    """Sums by row id and period, each until the bucket closes with which budgets count it.

    Nothing of it is in a snapshot: after a restart the shard adds again what waits.
    """

    def __init__(self, settings: BudgetSettings, rows: BudgetRows) -> None:
        self._budgets, self._rows, self._bucket_s = settings.budgets, rows, settings.bucket_s
        self._scopes = {budget.scope for budget in settings.budgets}
        self._subjects: dict[tuple[str, bytes], list[BudgetSubject]] = {}
        #: (row id, start of the period) → sum; and the parts of it by the bucket that counts them.
        self._sums: dict[tuple[str, float], _Sum] = {}
        self._by_close: dict[int, dict[tuple[str, float], _Sum]] = {}
        self._periods: dict[int, tuple[float, float]] = {}

    def add(self, parts: Iterable[PartialSum], due: int) -> list[tuple[BudgetSubject, float]]:
        """Add sums that are counted when the bucket at `due`, or their own later one, closes.

        Returns their subjects, each with the start of the period that it belongs to.
        """
        touched: dict[tuple[str, float], BudgetSubject] = {}
        for part in parts:
            if part.scope not in self._scopes or not part.effective_cost:
                continue
            bucket = part.bucket_start
            for each in self._of(part.scope, bytes(part.tags)):
                usd = self._rows.counting.usd(part.effective_cost, part.charges, each.budget)
                units = round(usd * _UNITS)
                fresh = 0 if part.counted_only or part.charges or bucket < due else units
                key = (each.id, self._period(each.budget, bucket))
                touched[key] = each
                counted = self._by_close.setdefault(max(due, bucket), {})
                for sums in (self._sums, counted):
                    sums.setdefault(key, _Sum()).add(units, fresh)
        return [(each, start) for (_, start), each in touched.items()]

    def counted(self, start: int) -> None:
        """The bucket at `start` has closed, and with it all that was due."""
        for close in [close for close in self._by_close if close <= start]:
            for key, part in self._by_close.pop(close).items():
                total = self._sums[key]
                total.add(-part.units, -part.fresh)
                if not total.units:
                    del self._sums[key]

    def clear(self) -> None:
        """Forget all; row ids depend on the configuration."""
        self._sums, self._by_close = {}, {}

    def usd(self, id: str, period_start: float) -> float:
        """Dollars of a row in the period that starts then."""
        known = self._sums.get((id, period_start))
        return known.units / _UNITS if known is not None else 0.0

    def by_row(self) -> tuple[Floats, Floats]:
        """Dollars in the open period by row: all, and those of buckets that are still open."""
        usd, fresh = np.zeros(len(self._rows)), np.zeros(len(self._rows))
        starts = self._rows["period_start"].tolist()
        for row, key in enumerate(zip(self._rows.ids, starts, strict=True)):
            known = self._sums.get(key)
            if known is not None:
                usd[row], fresh[row] = known.units / _UNITS, known.fresh / _UNITS
        return usd, fresh

    def _of(self, scope: str, raw_tags: bytes) -> Sequence[BudgetSubject]:
        """The rows that count a series."""
        known = self._subjects.get((scope, raw_tags))
        if known is None:
            tags = msgspec.json.decode(raw_tags, type=dict[str, str])
            known = self._subjects[(scope, raw_tags)] = [
                self._subject(number, budget, tags)
                for number, budget in enumerate(self._budgets)
                if budget.scope == scope and matches(budget.match, tags)
            ]
        return known

    def _subject(self, number: int, budget: Budget, tags: dict[str, str]) -> BudgetSubject:
        own = subject(budget, tags)
        return BudgetSubject(row_id(budget.name, own), number, own)

    def _period(self, budget: int, at: float) -> float:
        """The start of the period of a budget around `at`."""
        start, end = self._periods.get(budget, (np.inf, -np.inf))
        if not start <= at < end:
            start, end = self._periods[budget] = self._rows.period(budget, at)
        return start
