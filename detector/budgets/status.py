"""Budget rows for people: status, forecast and who spent the money."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from curb.detector.budgets import wording as words
from curb.detector.budgets.burn import BurnWindows
from curb.detector.budgets.daily import DailyHistory
from curb.detector.budgets.outlook import Forecast, Pace
from curb.detector.budgets.rows import BudgetRows
from curb.detector.state.columns import Floats, Ints
from curb.detector.state.local_time import WHOLE_SHARE
from curb.detector.state.wording import billed_until
from curb.stream.records.spend import BudgetStatus, Cause
from curb.stream.time import DAY_S

#: Causes named in an alert. Chosen by hand, so that the text stays short.
_CAUSES = 5
#: Seconds behind the newest of bills from which one is no longer waited for. By hand: bills are done within ten days.
_FORGOTTEN_S = 10 * DAY_S
_OUTLOOK = ("forecast_usd", "forecast_low_usd", "forecast_high_usd", "breach_at", "breach_probability")


#: Columns of the rows that a status has under the same name.
_FIGURES = (
    *("period_start", "period_end", "amount_usd", "spent_usd", "estimated_usd"),
    *("carried_usd", "expanded_usd", "increased_usd"),
)
_BREACH = ("breach_at", "breach_probability")


def _or_none(values: Floats) -> list[float | None]:
    """The numbers, None where there is none, such as no breach."""
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN is not itself


class BudgetRest(NamedTuple):
    """Rows of one budget taken together; `tags` are the names of tags that tell them apart."""

    name: str
    scope: str
    tags: tuple[str, ...]
    amount_usd: float
    spent_usd: float


class BudgetView:
    """Reads what budgets have counted and changes nothing."""

    def __init__(self, rows: BudgetRows, burn: BurnWindows, history: DailyHistory, forecast: Forecast) -> None:
        self._rows, self._burn, self._history, self._forecast = rows, burn, history, forecast
        #: How far each bill is known, epoch seconds, by its messages' key.
        self.billed: dict[str, float] = {}

    def statuses(self, rows: Sequence[int], thresholds: Sequence[float], now: float) -> list[BudgetStatus]:
        """The status of `rows` at `now` (epoch seconds), each with its threshold (percent)."""
        if not rows:
            return []
        numbers = np.array(rows, np.int64)
        # A column at a time, as numbers of Python: there may be 100,000 rows.
        pace = self._burn.pace(now, self._rows["since"])[numbers].tolist()
        since = np.maximum(self._rows["since"], self._rows["period_start"])[numbers].tolist()
        in_parent = self._rows["in_parent_usd"][numbers].tolist()
        columns = [self._rows[name][numbers].tolist() for name in _FIGURES]
        found, outlooks = [], self._outlooks(numbers, now)
        for at, (row, figures) in enumerate(zip(rows, zip(*columns, strict=True), strict=True)):
            known = dict(zip(_FIGURES, figures, strict=True)) | outlooks[at]
            known |= {"threshold": thresholds[at], "usd_per_hour": pace[at], "counted_from": since[at]}
            found.append(self._status(row, in_parent[at], known))
        return found

    def fullest(self, most: int) -> tuple[list[int], list[BudgetRest]]:
        """Rows with the largest share of their amount spent, `most` of each budget at most, and the sums of others."""
        rows: list[int] = []
        rest = []
        of, spent, amount = self._rows["budget"], self._rows["spent_usd"], self._rows["amount_usd"]
        for number in np.unique(of).tolist():
            at = np.flatnonzero(of == number)
            share = spent[at] / np.where(amount[at] > 0, amount[at], np.nan)
            at = at[np.argsort(-np.nan_to_num(share, nan=-np.inf), kind="stable")]
            rows += at[:most].tolist()
            if len(others := at[most:]):
                budget, names = self._rows.budgets[number], tuple(self._rows.tags[int(others[0])])
                sums = float(amount[others].sum()), float(spent[others].sum())
                rest.append(BudgetRest(budget.name, budget.scope, names, *sums))
        return rows, rest

    def _status(self, row: int, in_parent_usd: float, known: dict[str, Any]) -> BudgetStatus:
        rows, budget = self._rows, self._rows.budget(row)
        parent_id = rows.parent_ids[row]
        return BudgetStatus(
            name=budget.name,
            period=budget.period,
            id=rows.ids[row],
            parent_id=parent_id,
            scope=budget.scope,
            hard=budget.hard,
            amount=budget.amount,
            currency=budget.currency,
            spent_in_parent_usd=None if parent_id is None else in_parent_usd,
            **known,
        )

    def _outlooks(self, rows: Ints, now: float) -> list[dict[str, Any]]:
        """The forecast by row, made for all rows of one budget at a time: they share a calendar.

        A row without a whole day of history has none, as in `curb forecast`.
        """
        found: list[dict[str, Any]] = [{}] * len(rows)
        budgets = self._rows["budget"][rows]
        for budget in np.unique(budgets).tolist():
            at = np.flatnonzero(budgets == budget)
            pace = self._pace(int(budget), rows[at], now)
            outlook = self._forecast(pace)
            known_days = np.isfinite(pace.daily_usd).sum(axis=0)
            # The first day is among them only later: it counts as in `curb forecast`, if most of it was seen.
            since = self._rows["since"][rows[at]]
            has_history = ((known_days > 0) | (since <= pace.day_end - (1 + WHOLE_SHARE) * DAY_S)).tolist()
            is_spent = (pace.spent_usd >= pace.amount_usd).tolist()
            for n, values in enumerate(zip(*(_or_none(each) for each in outlook), strict=True)):
                of = dict(zip(_OUTLOOK, values, strict=True))
                if not has_history[n]:
                    # The pace of an hour says nothing of a period. That the amount is spent stays true.
                    of = {name: of[name] for name in _BREACH if is_spent[n]}
                found[int(at[n])] = of
        return found

    def _pace_of_bill(self, budget: int, rows: Ints, now: float) -> Pace:
        """The pace of a bill, which is known up to a day before now: what is charged since then is still to come."""
        known = min(now, self._known_until())
        begin, end = float(self._rows["period_start"][rows[0]]), float(self._rows["period_end"][rows[0]])
        until, history = self._history.day(budget, known), self._history
        day = max(until, history.day(budget, begin))
        daily = history.days(rows, day, until)
        week = np.where(np.isfinite(daily[-7:]), daily[-7:], 0.0)
        charges, charges_sd = history.charges(rows, day, history.day(budget, end))
        return Pace(
            daily_usd=daily,
            spent_usd=self._rows["spent_usd"][rows],
            amount_usd=self._rows["amount_usd"][rows],
            usd_per_hour=week.sum(axis=0) / np.maximum(np.isfinite(daily[-7:]).sum(axis=0), 1) / 24,
            now=float(day * DAY_S),
            day_end=float((day + 1) * DAY_S),
            weekday=(day + 3) % 7,  # 1970 began on a Thursday
            period_end=end,
            ahead_usd=history.since(rows, day),
            charges_usd=charges,
            charges_sd=charges_sd,
        )

    def _pace(self, budget: int, rows: Ints, now: float) -> Pace:
        if self._rows.on_bills[budget]:
            return self._pace_of_bill(budget, rows, now)
        here = datetime.fromtimestamp(now, self._rows.zones[budget])
        midnight = here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0) + timedelta(days=1)
        return Pace(
            daily_usd=self._history.days(rows),
            spent_usd=self._rows["spent_usd"][rows],
            amount_usd=self._rows["amount_usd"][rows],
            usd_per_hour=self._burn.pace(now, self._rows["since"])[rows],
            now=now,
            day_end=midnight.timestamp(),
            weekday=here.weekday(),
            period_end=float(self._rows["period_end"][rows[0]]),
        )

    def billed_until(self, row: int) -> str:
        """How far the bills of a row are known, in words; empty for usage."""
        return billed_until(self._known_until()) if self.billed and self._rows.is_billed(row) else ""

    def _known_until(self) -> float:
        """How far all bills are known that still come, epoch seconds; infinite without any."""
        newest = max(self.billed.values(), default=np.inf)
        return min((at for at in self.billed.values() if at > newest - _FORGOTTEN_S), default=np.inf)

    def who(self, row: int) -> str:
        """The subject of a row, in words."""
        return words.who(self._rows.budget(row), self._rows.tags[row])

    def causes(self, row: int) -> list[Cause]:
        """The rows below, or the series of a shared row, that spent most of it; most dollars first."""
        rows = self._rows
        spent_usd = float(rows["spent_usd"][row])
        below = rows.children(row)
        if below:
            used = sorted(((rows.tags[each], float(rows["in_parent_usd"][each])) for each in below), key=_by_usd)
        else:
            used = rows.series_of(row) if rows.budget(row).shared else []
        if spent_usd <= 0:
            return []
        return [Cause(tags=tags, excess_usd=usd, share=usd / spent_usd) for tags, usd in used[:_CAUSES] if usd > 0]

    def sentences(self, row: int, status: BudgetStatus, first: str, below: Sequence[str]) -> str:
        """The explanation of an alert: the sentence `first`, then parts, forecast, users and the rows `below`."""
        number = int(self._rows["budget"][row])
        children = self._rows.children(row)
        scope = self._rows.budget(children[0] if children else row).scope
        more = (
            words.parts(status),
            words.outlook(status, self._rows.zones[number], by_day=self._rows.on_bills[number]),
            words.users(self.causes(row), scope),
            words.with_it(below),
            words.estimated(status),
            words.hard(status),
            self.billed_until(row),
        )
        return " ".join([first, *(each for each in more if each)])


def _by_usd(used: tuple[dict[str, str], float]) -> float:
    return -used[1]
