"""Dollars of each budget row per local day, for the forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from curb.detector.budgets.rows import Late
from curb.detector.state.columns import Column, Columns, Floats, Ints
from curb.detector.state.local_time import local_hour

#: Complete days kept: eight weeks, of which weekdays and the level are learned.
DAYS = 56


class DailyHistory:
    """A ring of complete days and the current day, by row; each row has the days of its budget's time zone."""

    def __init__(self, zones: Sequence[ZoneInfo]) -> None:
        """`zones` by number of the budget."""
        self._zones = list(zones)
        self.columns = Columns(
            {
                "usd": Column((DAYS,)),
                "today_usd": Column(),
                #: Days since 1970-01-01, local: the current one, and the first of the row.
                "day": Column(dtype=np.int64),
                "first_day": Column(dtype=np.int64),
            },
            16,
        )

    def begin(self, row: int, budget: int, start: float) -> None:
        """Add a row, whose first day is that of `start` (epoch seconds)."""
        self.columns.grow(row + 1)
        day = self._day(budget, start)
        self.columns["day"][row] = self.columns["first_day"][row] = day

    def add(self, start: float, budgets: Ints, usd: Floats) -> None:
        """Count a closed bucket: number of the budget and dollars by row, shape (rows,)."""
        day = np.array([self._day(budget, start) for budget in range(len(self._zones))], np.int64)[budgets]
        changed = np.flatnonzero(day != self.columns["day"])
        if len(changed):
            self._turn(changed, day[changed])
        self.columns["today_usd"][...] += usd

    def _turn(self, rows: Ints, to: Ints) -> None:
        """Put the current day into the ring; days between were silent. Time never goes back."""
        ring, day = self.columns["usd"], self.columns["day"]
        ring[day[rows] % DAYS, rows] = self.columns["today_usd"][rows]
        for ahead in range(1, int(min(DAYS + 1, (to - day[rows]).max()))):
            silent = day[rows] + ahead < to
            ring[(day[rows] + ahead)[silent] % DAYS, rows[silent]] = 0.0
        self.columns["today_usd"][rows] = 0.0
        day[rows] = to

    def late(self, late: Late, budgets: Ints) -> None:
        """Count dollars of buckets that were closed before in their own days."""
        ring, today = self.columns["usd"], self.columns["today_usd"]
        day_of = {
            (budget, start): self._day(budget, start)
            for budget, start in set(zip(budgets.tolist(), late.start.tolist(), strict=True))
        }
        pairs = zip(budgets.tolist(), late.start.tolist(), strict=True)
        day = np.fromiter((day_of[pair] for pair in pairs), np.int64, len(late.rows))
        age = self.columns["day"][late.rows] - day
        np.add.at(today, late.rows[age <= 0], late.usd[age <= 0])
        past = (age > 0) & (age <= DAYS) & (day >= self.columns["first_day"][late.rows])
        np.add.at(ring, (day[past] % DAYS, late.rows[past]), late.usd[past])

    def days(self, rows: Ints) -> Floats:
        """Dollars of complete days, oldest first, shape (DAYS, rows); NaN before the row was known."""
        ago = np.arange(DAYS, 0, -1)[:, None]
        day = self.columns["day"][rows] - ago
        usd: Floats = self.columns["usd"][day % DAYS, rows]
        # The first day was counted in part only.
        return np.where(day > self.columns["first_day"][rows], usd, np.nan)

    def _day(self, budget: int, at: float) -> int:
        return local_hour(int(at), self._zones[budget]).day

    def dump(self) -> dict[str, NDArray[Any]]:
        return self.columns.dump("budget_day")

    def load(self, arrays: Mapping[str, NDArray[Any]], kept: Ints) -> None:
        """Take over the rows of `dump` whose numbers are in `kept`."""
        self.columns.grow(len(kept))
        for name, column in self.columns.dump("budget_day").items():
            column[...] = arrays[name][..., kept]
