"""Spend counted against budgets: a row for each budget and subject, fed by the series that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.budgets.budget import Budget, BudgetSettings
from curb.detector.budgets.changes import RowFigures
from curb.detector.budgets.charges import Counting
from curb.detector.state.columns import Column, Columns, Floats, Ints
from curb.detector.state.registry import SeriesRegistry
from curb.stream.records.spend import CHARGE_PARTS, NOT_USAGE
from curb.stream.time import period_around


class SavedRow(msgspec.Struct, frozen=True):
    """Identity of a row. `counts` holds the settings that decide which dollars it counts; others may change."""

    budget: str
    tags: dict[str, str]
    counts: str


class Late(NamedTuple):
    """Dollars that came after their bucket was closed, by row; arrays of one length. `start` is the bucket's."""

    rows: Ints
    usd: Floats
    start: Ints
    #: What of the dollars is a pace.
    flow: Floats


class BudgetRows:
    """Rows are numbered in the order of their first series. A series may belong to several rows, a shared row has many.

    Spend counts by event time into the period that is open.
    """

    def __init__(self, settings: BudgetSettings, registry: SeriesRegistry) -> None:
        self.budgets = settings.budgets
        self._registry = registry
        self._groups = {scope.name: {*scope.group_by, *scope.also_by} for scope in settings.scopes}
        self._by_name = {budget.name: budget for budget in self.budgets}
        self._number_of = {budget.name: number for number, budget in enumerate(self.budgets)}
        billed = {scope.name for scope in settings.scopes if scope.is_billed}
        #: Per budget, whether it is on bills alone. Their days and months are those of the bill, wherever people live.
        self.on_bills = [budget.scope in billed for budget in self.budgets]
        self.zones = [
            ZoneInfo("UTC" if on_bills else budget.time_zone or settings.time_zone)
            for budget, on_bills in zip(self.budgets, self.on_bills, strict=True)
        ]
        self.counting = Counting(self.budgets)
        self._zone_of = dict(zip(self._by_name, self.zones, strict=True))
        self.columns = Columns(
            {
                "budget": Column(dtype=np.int64),
                "spent_usd": Column(),
                #: Dollars of the open period that calls without usage are estimated at; they are not in `spent_usd`.
                "estimated_usd": Column(),
                "period_start": Column(),
                "period_end": Column(),
                #: Counting began here; earlier spend is not known.
                "since": Column(),
                #: Dollars spent in the open period of the row above, and that period.
                "in_parent_usd": Column(),
                "parent_start": Column(fill=-np.inf),
                "parent_end": Column(fill=np.inf),
                "base_usd": Column(),
                "carried_usd": Column(),
                "expanded_usd": Column(),
                "increased_usd": Column(),
                "amount_usd": Column(),
                #: Dollars at which the next threshold fires.
                "next_usd": Column(fill=np.inf),
                #: $/h, the usual $/h and requests per minute when a bucket closed last.
                "rate": Column(),
                "usual": Column(),
                "requests": Column(),
            },
            16,
        )
        #: Which series count for which row, in the order of the series, and the dollars of each in the row's period.
        self.links = Columns({"series": Column(dtype=np.int64), "row": Column(dtype=np.int64), "usd": Column()}, 16)
        self._of_series = Columns({"first": Column(dtype=np.int64), "count": Column(dtype=np.int64)}, 16)
        self.tags: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.parent_ids: list[str | None] = []
        self._numbers: dict[str, int] = {}
        self._children: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    def budget(self, row: int) -> Budget:
        """The budget of a row."""
        return self.budgets[int(self["budget"][row])]

    def is_billed(self, row: int) -> bool:
        """Whether the budget of a row is on bills alone."""
        return self.on_bills[int(self["budget"][row])]

    def figures(self, row: int, rate: Floats) -> RowFigures:
        """What a row has spent, of what, and its part of `rate`, $/h by row."""
        return RowFigures(float(self["spent_usd"][row]), float(self["amount_usd"][row]), float(rate[row]))

    def parent(self, row: int) -> int | None:
        """The row above, None at the root or when its series are counted elsewhere."""
        parent_id = self.parent_ids[row]
        return None if parent_id is None else self._numbers.get(parent_id)

    def children(self, row: int) -> list[int]:
        """The rows below."""
        return self._children.get(self.ids[row], [])

    # --- which rows there are -------------------------------------------------------------------------------------

    @property
    def matched(self) -> int:
        """How many series have been matched."""
        return self._of_series.n

    def match(self, start: float, until: int | None = None) -> list[int]:
        """Rows for series that came since the last call, up to number `until`; counting of new rows begins at `start`.

        Returns the new rows.
        """
        before = len(self)
        for i in range(self.matched, len(self._registry) if until is None else until):
            first = self.links.n
            scope, tags = self._registry.scopes[i], self._registry.tags[i]
            for budget in self.budgets:
                if budget.scope == scope and matches(budget.match, tags):
                    self._link(i, self._row(budget, subject(budget, tags), start))
            self._of_series.grow(i + 1)
            self._of_series["first"][i], self._of_series["count"][i] = first, self.links.n - first
        return list(range(before, len(self)))

    def find(self, id: str) -> int | None:
        """The row of an id, None if there is none yet."""
        return self._numbers.get(id)

    def open(self, budget: int, tags: dict[str, str], start: float) -> int:
        """The row of budget number `budget` with `tags`, also before a series of it is known."""
        return self._row(self.budgets[budget], tags, start)

    def _link(self, series: int, row: int) -> None:
        at = self.links.n
        self.links.grow(at + 1)
        self.links["series"][at], self.links["row"][at] = series, row

    def _row(self, budget: Budget, tags: dict[str, str], start: float) -> int:
        known = self._numbers.get(row_id(budget.name, tags))
        if known is not None:
            return known
        row = self._append(budget, tags)
        self["since"][row] = start
        self["period_start"][row], self["period_end"][row] = self.period(self._number_of[budget.name], start)
        self.begin_parent(row, start)
        return row

    def _append(self, budget: Budget, tags: dict[str, str]) -> int:
        row, own = len(self), row_id(budget.name, tags)
        self.columns.grow(row + 1)
        self["budget"][row] = self._number_of[budget.name]
        parent_id = self._parent_id(budget, tags)
        self.tags.append(tags)
        self.ids.append(own)
        self.parent_ids.append(parent_id)
        self._numbers[own] = row
        if parent_id is not None:
            self._children.setdefault(parent_id, []).append(row)
        return row

    def _parent_id(self, budget: Budget, tags: Mapping[str, str]) -> str | None:
        """The id of the row above, known by the tags alone: its series may be counted in another process."""
        if budget.parent is None:
            return None
        parent = self._by_name[budget.parent]
        if not matches(parent.match, tags):
            return None
        known = {tag: value for tag, value in tags.items() if tag in self._groups[parent.scope]}
        return row_id(parent.name, subject(parent, known))

    def period(self, budget: int, at: float) -> tuple[float, float]:
        """Start and end of the period of budget number `budget` around `at` (epoch seconds)."""
        each = self.budgets[budget]
        return period_around(at, each.period, self.zones[budget], each.length_days, each.anchor)

    def begin_parent(self, row: int, start: float) -> None:
        """Start counting for the open period of the row above."""
        self["in_parent_usd"][row] = 0.0
        above = self.budget(row).parent
        if above is not None:
            period = self.period(self._number_of[above], start)
            self["parent_start"][row], self["parent_end"][row] = period

    # --- counting -------------------------------------------------------------------------------------------------

    def sum(self, per_series: Floats) -> Floats:
        """The sums of a figure of the series by row, shape (rows,)."""
        values = per_series[self.links["series"]]
        return np.bincount(self.links["row"], values, minlength=len(self)).astype(np.float64, copy=False)

    def add(self, cost: Floats, charges: Floats | None = None) -> tuple[Floats, Floats]:
        """Count a closed bucket: dollars by series, and those of them that are no usage, shape (`NOT_USAGE`, series).

        Returns dollars by row: all, and what of them is a pace.
        """
        series, rows = self.links["series"], self.links["row"]
        counted = flow = cost[series]
        if charges is not None or not self.counting.plain:
            charges = np.zeros((len(NOT_USAGE), len(cost))) if charges is None else charges
            counted, flow = self.counting.split(counted, charges[:, series], self["budget"][rows])
        usd, pace = (np.bincount(rows, each, len(self)).astype(np.float64, copy=False) for each in (counted, flow))
        for column in ("spent_usd", "in_parent_usd"):
            self.columns[column][...] += usd
        self.links["usd"][...] += counted
        return usd, pace

    def estimate(self, usd: Mapping[int, float]) -> None:
        """Count what calls without usage of a closed bucket are estimated at, by series."""
        for series, each in usd.items():
            if series < self.matched:
                first, count = int(self._of_series["first"][series]), int(self._of_series["count"][series])
                np.add.at(self["estimated_usd"], self.links["row"][first : first + count], each)

    def counted_usd(self, row: int) -> float:
        """Dollars that count for the thresholds of a row: hard caps count estimates as well."""
        estimated = self["estimated_usd"][row] if self.budget(row).hard else 0.0
        return float(self["spent_usd"][row] + estimated)

    def reached(self) -> Ints:
        """Rows that are at or over their next threshold."""
        hard = np.array([budget.hard for budget in self.budgets], np.bool_)[self["budget"]]
        counted = self["spent_usd"] + np.where(hard, self["estimated_usd"], 0.0)
        return np.flatnonzero(counted >= self["next_usd"])

    def late(self, index: Ints, cost: Floats, bucket: Ints, charges: Floats | None = None) -> Late:
        """Count sums of closed buckets into the periods that are still open; returns them by row."""
        first, count = self._of_series["first"][index], self._of_series["count"][index]
        which = np.repeat(np.arange(len(index)), count)
        link = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        rows, start = self.links["row"][link], bucket[which]
        usd = flow = cost[which]
        if charges is not None or not self.counting.plain:
            charges = np.zeros((len(NOT_USAGE), len(cost))) if charges is None else charges
            usd, flow = self.counting.split(usd, charges[:, which], self["budget"][rows])
        counts = (self["period_start"][rows] <= start) & (start < self["period_end"][rows])
        np.add.at(self["spent_usd"], rows[counts], usd[counts])
        np.add.at(self.links["usd"], link[counts], usd[counts])
        in_parent = (self["parent_start"][rows] <= start) & (start < self["parent_end"][rows])
        np.add.at(self["in_parent_usd"], rows[in_parent], usd[in_parent])
        on_bills = np.array(self.on_bills, np.bool_)[self["budget"][rows]]
        # A bill is known from where it begins, however late it is read.
        np.minimum.at(self["since"], rows[on_bills], start[on_bills])
        return Late(rows, usd, start, flow)

    def forget_period(self, rows: Ints) -> None:
        """Set the spend of `rows` to zero."""
        self["spent_usd"][rows] = self["estimated_usd"][rows] = 0.0
        over = np.zeros(len(self), np.bool_)
        over[rows] = True
        self.links["usd"][over[self.links["row"]]] = 0.0

    def series_of(self, row: int) -> list[tuple[dict[str, str], float]]:
        """Tags and dollars of this period of the series that count for a row, most dollars first."""
        at = np.flatnonzero(self.links["row"] == row)
        at = at[np.argsort(-self.links["usd"][at], kind="stable")]
        pairs = zip(self.links["series"][at].tolist(), self.links["usd"][at].tolist(), strict=True)
        return [(self._registry.tags[series], usd) for series, usd in pairs]

    # --- saved and restored ---------------------------------------------------------------------------------------

    def saved(self) -> list[SavedRow]:
        """Which rows there are, for `load`."""
        of = [(budget.name, self._counts(budget)) for budget in self.budgets]
        numbers = zip(self["budget"].tolist(), self.tags, strict=True)
        return [SavedRow(of[number][0], tags, of[number][1]) for number, tags in numbers]

    def dump(self) -> dict[str, NDArray[Any]]:
        return self.columns.dump("budget") | self.links.dump("budget_link")

    def load(
        self, saved: Sequence[SavedRow], arrays: Mapping[str, NDArray[Any]], start: float, matched: int
    ) -> list[int]:
        """Load the rows whose budgets count the same dollars as before; rows of new budgets count from `start`.

        `matched` is how many series had been matched. Returns the old numbers of the rows kept; they come first now.
        """
        counts = {name: self._counts(budget) for name, budget in self._by_name.items()}
        kept = [number for number, row in enumerate(saved) if counts.get(row.budget) == row.counts]
        for number in kept:
            self._append(self._by_name[saved[number].budget], saved[number].tags)
        which = np.array(kept, np.int64)
        for name, column in self.columns.dump("budget").items():
            # Budgets are numbered by the current configuration; an older state has fewer columns.
            if name != "budget.budget" and name in arrays:
                column[...] = arrays[name][which]
        for row in range(len(kept)):
            if self._parent_changed(row):
                self.begin_parent(row, start)
        self.match(start, matched)
        self._load_links(kept, arrays)
        return kept

    def _parent_changed(self, row: int) -> bool:
        """True when the row above has another period than the one counted for."""
        above = self.budget(row).parent
        if above is None:
            return False
        start = float(self["parent_start"][row])
        return not np.isfinite(start) or self.period(self._number_of[above], start)[0] != start

    def _load_links(self, kept: Sequence[int], arrays: Mapping[str, NDArray[Any]]) -> None:
        number_of = {number: row for row, number in enumerate(kept)}
        saved = (arrays[f"budget_link.{name}"].tolist() for name in ("series", "row", "usd"))
        usd_of = {(series, number_of.get(row)): usd for series, row, usd in zip(*saved, strict=True)}
        pairs = zip(self.links["series"].tolist(), self.links["row"].tolist(), strict=True)
        self.links["usd"][...] = [usd_of.get(pair, 0.0) for pair in pairs]

    def _counts(self, budget: Budget) -> str:
        """The settings that decide which dollars a row of the budget counts, and when."""
        chosen = () if set(budget.include) == set(CHARGE_PARTS) else (sorted(budget.include),)
        return repr(
            (
                budget.scope,
                sorted(budget.match.items()),
                budget.shared,
                budget.period,
                budget.length_days,
                budget.anchor,
                self._zone_of[budget.name].key,
                *chosen,
            )
        )


def matches(patterns: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """True when every pattern (with * and ?) matches its tag."""
    return all(tag in tags and fnmatchcase(tags[tag], pattern) for tag, pattern in patterns.items())


def subject(budget: Budget, tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a row: those of the series, or, when it is shared, those that the budget fixes."""
    if not budget.shared:
        return dict(tags)
    return {tag: value for tag, value in budget.match.items() if not set(value) & set("*?[")}


def row_id(budget: str, tags: Mapping[str, str]) -> str:
    """The same text for the same budget and subject, in every process."""
    return budget + msgspec.json.encode(sorted(tags.items())).decode()
