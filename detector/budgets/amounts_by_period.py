"""The amount of every budget row through its periods: its parts, its changes and the next threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from curb.detector.budgets.amounts import Increases, PastAlerts, base_usd, carried_usd, expansion_usd
from curb.detector.budgets.budget import BudgetSettings
from curb.detector.budgets.rows import BudgetRows
from curb.detector.state.columns import Floats, Ints
from curb.stream.time import DAY_S


class Expansion(NamedTuple):
    """A row whose amount grew by `usd`, of which the share `used` was spent in the last period."""

    row: int
    usd: float
    used: float


class BudgetAmounts:
    """Writes the amount columns of the rows and remembers the thresholds that fired in the open period."""

    def __init__(self, settings: BudgetSettings, rows: BudgetRows) -> None:
        self._rates, self._rows = settings.exchange_rates, rows
        self.increases, self.incidents = Increases(), PastAlerts(settings.budgets)
        self.fired: dict[int, list[float]] = {}
        #: Rows whose amount rose after thresholds had fired.
        self.raised: set[int] = set()

    # --- one row --------------------------------------------------------------------------------------------------

    def add(self, row: int) -> None:
        """Price a new row."""
        budget = int(self._rows["budget"][row])
        self._rows["base_usd"][row] = self._base_usd(budget, float(self._rows["period_start"][row]))
        self._increase(row)
        self._price(row)

    def reprice(self, row: int) -> None:
        """Price a row by the current configuration."""
        rows, budget = self._rows, self._rows.budget(row)
        base = self._base_usd(int(rows["budget"][row]), float(rows["period_start"][row]))
        if base != float(rows["base_usd"][row]) or budget.auto_expand is None:
            rows["expanded_usd"][row] = 0.0  # what was earned was earned on another amount
        rows["base_usd"][row] = base
        rows["carried_usd"][row] = carried_usd(budget.carry_over, base, rows["carried_usd"][row : row + 1])[0]
        self._increase(row)
        self._price(row)

    def apply_increases(self, budgets: Iterable[str]) -> None:
        """Price the rows of these budgets again: their increases have changed."""
        names = set(budgets)
        for row in range(len(self._rows)) if names else ():
            if self._rows.budget(row).name in names:
                self._increase(row)
                self._price(row)

    def _increase(self, row: int) -> None:
        self._rows["increased_usd"][row] = self.increases.usd(self._rows.budget(row).name, self._rows.tags[row])

    def _price(self, row: int) -> None:
        """The amount of a row from its parts, and the next threshold."""
        rows = self._rows
        parts = (float(rows[f"{part}_usd"][row]) for part in ("base", "carried", "expanded", "increased"))
        amount, before = sum(parts), float(rows["amount_usd"][row])
        rows["amount_usd"][row] = amount
        if amount > before and self.fired.get(row):
            self.raised.add(row)
        self.set_next(row)

    def set_next(self, row: int) -> None:
        """The dollars at which a row crosses its next threshold."""
        fired = self.fired.get(row, [])
        left = [threshold for threshold in self._rows.budget(row).thresholds if threshold not in fired]
        self._rows["next_usd"][row] = self._rows["amount_usd"][row] * left[0] / 100 if left else np.inf

    def first_usd(self, number: int, tags: dict[str, str], period_start: float) -> float:
        """The dollars at which a row of budget `number` that does not exist yet crosses its first threshold."""
        budget = self._rows.budgets[number]
        amount = self._base_usd(number, period_start) + self.increases.usd(budget.name, tags)
        return amount * budget.thresholds[0] / 100

    def cross(self, row: int) -> list[float]:
        """Mark the thresholds (percent) that a row has reached as fired; returns the new ones."""
        fired = self.fired.setdefault(row, [])
        spent, amount = self._rows.counted_usd(row), float(self._rows["amount_usd"][row])
        thresholds = self._rows.budget(row).thresholds
        new = [each for each in thresholds if each not in fired and spent >= amount * each / 100]
        fired += new
        self.set_next(row)
        return new

    def highest(self, row: int) -> float:
        """The highest threshold that fired, or 0."""
        return max(self.fired.get(row, []), default=0.0)

    def rearm(self, row: int) -> list[float]:
        """Thresholds (percent) that are out of reach since the amount was raised; they may fire again."""
        spent, amount = self._rows.counted_usd(row), float(self._rows["amount_usd"][row])
        freed = [each for each in self.fired.get(row, []) if spent < amount * each / 100]
        for each in freed:
            self.fired[row].remove(each)
        self.set_next(row)
        return freed

    # --- periods --------------------------------------------------------------------------------------------------

    def end(self, row: int) -> None:
        """The period of a row is over."""
        self.fired.pop(row, None)
        self.raised.discard(row)

    def begin(self, number: int, due: Ints, start: float) -> list[Expansion]:
        """Open a new period, with nothing spent, for the rows `due` of budget `number` whose periods ended by `start`.

        Returns the rows whose amount grew by itself.
        """
        rows, budget = self._rows, self._rows.budgets[number]
        begin, end = rows.period(number, start)
        # After a longer silence the period before this one passed with nothing spent.
        spent = np.where(rows["period_end"][due] == begin, rows["spent_usd"][due], 0.0)
        # Dollars of a period that was not counted from its start may have been spent before.
        whole = rows["since"][due] <= rows["period_start"][due]
        left, base = np.where(whole, self._own_usd(due) - spent, 0.0), self._base_usd(number, begin)
        used = spent / rows["amount_usd"][due]
        expansions = self._expand(due, used, begin)
        rows["carried_usd"][due] = carried_usd(budget.carry_over, base, left)
        rows["base_usd"][due], rows["period_start"][due], rows["period_end"][due] = base, begin, end
        rows.forget_period(due)
        rows["amount_usd"][due] = self._own_usd(due) + rows["increased_usd"][due]
        rows["next_usd"][due] = rows["amount_usd"][due] * budget.thresholds[0] / 100
        return expansions

    def _own_usd(self, rows: Ints) -> Floats:
        """Amounts without temporary increases, in dollars."""
        columns = self._rows.columns
        own: Floats = columns["base_usd"][rows] + columns["carried_usd"][rows] + columns["expanded_usd"][rows]
        return own

    def _expand(self, due: Ints, used: Floats, end: float) -> list[Expansion]:
        """Grow rows that used their amount well, after `clean_days` without an incident."""
        rows, rule = self._rows, self._rows.budget(int(due[0])).auto_expand
        if rule is None:
            return []
        clean_since = end - rule.clean_days * DAY_S
        well = (used >= rule.utilisation_percent / 100) & (rows["since"][due] <= clean_since)
        expansions = []
        for row, share in zip(due[well].tolist(), used[well].tolist(), strict=True):
            usd = expansion_usd(rule, float(rows["base_usd"][row]), float(rows["expanded_usd"][row]))
            if usd > 0 and self.incidents.clean(rows.tags[row], clean_since):
                rows["expanded_usd"][row] += usd
                expansions.append(Expansion(row, usd, share))
        return expansions

    def _base_usd(self, budget: int, period_start: float) -> float:
        return base_usd(self._rows.budgets[budget], self._rates, period_start, self._rows.zones[budget])
