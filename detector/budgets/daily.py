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
from curb.detector.state.monthly import AHEAD_DAYS, CHARGE_DAYS, charges_to_come

#: Complete days kept: eight weeks, of which weekdays and the level are learned.
DAYS = 56


class DailyHistory:
    """A ring of complete days and the current day, by row; each row has the days of its budget's time zone."""

    def __init__(self, zones: Sequence[ZoneInfo], on_bills: Sequence[bool] = ()) -> None:
        """`zones` by number of the budget, and whether it is on bills alone."""
        self._zones = list(zones)
        self._on_bills = np.array(on_bills or [False] * len(zones), np.bool_)
        self.columns = Columns(
            {
                "usd": Column((DAYS,)),
                "today_usd": Column(),
                #: What of the dollars of a day is no pace, by number of the day.
                "charges": Column((CHARGE_DAYS if any(on_bills) else 0,)),
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

    def add(self, start: float, budgets: Ints, usd: Floats, flow: Floats) -> None:
        """Count a closed bucket: number of the budget, dollars, and what of them is a pace, by row, shape (rows,)."""
        day = self._come_to(start, budgets)
        self.columns["today_usd"][...] += flow
        if self._on_bills.any():
            self.columns["charges"][day % CHARGE_DAYS, np.arange(len(day))] += usd - flow

    def _come_to(self, at: float, budgets: Ints) -> Ints:
        """Begin the local day of `at` (epoch seconds) in every row where it has not begun; returns it by row."""
        day = np.array([self._day(budget, at) for budget in range(len(self._zones))], np.int64)[budgets]
        changed = np.flatnonzero(day > self.columns["day"])
        if len(changed):
            self._turn(changed, day[changed])
        return day

    def _turn(self, rows: Ints, to: Ints) -> None:
        """Put the current day into the ring; days between were silent. Time never goes back."""
        ring, day = self.columns["usd"], self.columns["day"]
        ring[day[rows] % DAYS, rows] = self.columns["today_usd"][rows]
        for ahead in range(1, int(min(DAYS + 1, (to - day[rows]).max()))):
            silent = day[rows] + ahead < to
            ring[(day[rows] + ahead)[silent] % DAYS, rows[silent]] = 0.0
        self.columns["today_usd"][rows] = 0.0
        for ahead in range(1, int(min(CHARGE_DAYS, (to - day[rows]).max())) + 1 if self._on_bills.any() else 1):
            passed = day[rows] + ahead <= to
            self.columns["charges"][(day[rows] + AHEAD_DAYS + ahead)[passed] % CHARGE_DAYS, rows[passed]] = 0.0
        day[rows] = to

    def late(self, late: Late, all_budgets: Ints, newest: float) -> None:
        """Count dollars of buckets that were closed before, up to `newest`, in their own days.

        `all_budgets` is the number of the budget by row. A row that was opened early may be days behind.
        """
        self._come_to(newest, all_budgets)
        budgets = all_budgets[late.rows]
        ring, today = self.columns["usd"], self.columns["today_usd"]
        day_of = {
            (budget, start): self._day(budget, start)
            for budget, start in set(zip(budgets.tolist(), late.start.tolist(), strict=True))
        }
        pairs = zip(budgets.tolist(), late.start.tolist(), strict=True)
        day = np.fromiter((day_of[pair] for pair in pairs), np.int64, len(late.rows))
        age = self.columns["day"][late.rows] - day
        np.add.at(today, late.rows[age <= 0], late.flow[age <= 0])
        if self._on_bills.any():
            # A bill is known from where it begins, however late it is read.
            billed = self._on_bills[budgets]
            np.minimum.at(self.columns["first_day"], late.rows[billed], day[billed])
            kept = billed & (age < CHARGE_DAYS - AHEAD_DAYS) & (age >= -AHEAD_DAYS)
            usd = (late.usd - late.flow)[kept]
            np.add.at(self.columns["charges"], (day[kept] % CHARGE_DAYS, late.rows[kept]), usd)
        past = (age > 0) & (age <= DAYS) & (day >= self.columns["first_day"][late.rows])
        np.add.at(ring, (day[past] % DAYS, late.rows[past]), late.flow[past])

    def days(self, rows: Ints, before: int | None = None, known: int | None = None) -> Floats:
        """Dollars of complete days before that one (default: the current), oldest first, shape (DAYS, rows).

        NaN before the row was known and, on a bill, from the day `known` on.
        """
        ago = np.arange(DAYS, 0, -1)[:, None]
        now, first = self.columns["day"][rows], self.columns["first_day"][rows]
        day = (now if before is None else before) - ago
        usd: Floats = np.where(day == now, self.columns["today_usd"][rows], self.columns["usd"][day % DAYS, rows])
        # The first day was counted in part only; that of a bill is whole.
        is_known = (day > first - (before is not None)) & (day >= now - DAYS) & (day <= now)
        return np.where(is_known if known is None else is_known & (day < known), usd, np.nan)

    def since(self, rows: Ints, day: int) -> Floats:
        """Dollars of a pace that are known of `day` and the days after it, by row."""
        of = np.arange(day, int(self.columns["day"][rows].max(initial=day)))[-DAYS:, None]
        now = self.columns["day"][rows]
        kept = np.where(of < now, self.columns["usd"][of % DAYS, rows], 0.0).sum(axis=0)
        usd: Floats = kept + self.columns["today_usd"][rows]
        return usd

    def charges(self, rows: Ints, start: int, end: int) -> tuple[Floats, Floats]:
        """Charges that are no pace and are still to come on the days from `start` until before `end`: dollars by day
        and row, and the deviation of all, by row.

        Those of a day are the mean of the same day of the last months, less what is known of it.
        """
        ring, first = self.columns["charges"], self.columns["first_day"][rows]
        return charges_to_come(lambda days: ring[days[:, None] % CHARGE_DAYS, rows], first, start, end)

    def day(self, budget: int, at: float) -> int:
        """The local day of `at` (epoch seconds), in days since 1970."""
        return self._day(budget, at)

    def _day(self, budget: int, at: float) -> int:
        return local_hour(int(at), self._zones[budget]).day

    def dump(self) -> dict[str, NDArray[Any]]:
        return self.columns.dump("budget_day")

    def load(self, arrays: Mapping[str, NDArray[Any]], kept: Ints) -> None:
        """Take over the rows of `dump` whose numbers are in `kept`."""
        self.columns.grow(len(kept))
        for name, column in self.columns.dump("budget_day").items():
            if name in arrays and arrays[name].shape[:-1] == column.shape[:-1]:  # an older state has fewer
                column[...] = arrays[name][..., kept]
