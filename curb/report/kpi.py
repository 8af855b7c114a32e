"""Business figures from a CSV file, such as orders or active users per day and team: what spend is divided by."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from curb.report.span import ReportSpan

#: Faulty lines of a file that are named one by one: enough to see what is wrong. By hand.
_SHOWN_FAULTS = 3
#: Lines of a file that are read: bounds the memory, and is a value a day for 3,000 customers in a year. By hand.
_MOST_LINES = 1_000_000


class Kpi(NamedTuple):
    """One business figure. `level`: a state, such as active users, which is averaged over days instead of summed."""

    name: str
    tags: tuple[str, ...]
    level: bool
    values: dict[tuple[date, tuple[str, ...]], float]
    faults: list[str]

    def shared(self, by: Sequence[str]) -> tuple[str, ...]:
        """The tags of the file among `by`; its other tags are summed over."""
        return tuple(tag for tag in self.tags if tag in by)

    def units(self, span: ReportSpan, by: Sequence[str]) -> dict[tuple[str, ...], float]:
        """The figure in a span per values of the tags that it shares with `by`.

        A group of a finer kind than the file is divided by the whole figure of what it belongs to.
        """
        places = [self.tags.index(tag) for tag in self.shared(by)]
        by_day: dict[tuple[str, ...], dict[date, float]] = defaultdict(lambda: defaultdict(float))
        for (day, values), value in self.values.items():
            if span.first_day <= day <= span.last_day:
                by_day[tuple(values[place] for place in places)][day] += value
        totals = {key: math.fsum(days.values()) for key, days in by_day.items()}
        return {key: total / len(by_day[key]) if self.level else total for key, total in totals.items()}


def read_kpi(path: Path) -> Kpi:
    """The figure in a CSV file: `day`, any columns that are tags, and last `value` (summed) or `level` (averaged).

    A line that cannot be read is left out and named. Raises OSError, and ValueError for a file that is no such thing.
    """
    faults: list[str] = []
    values: dict[tuple[date, tuple[str, ...]], float] = defaultdict(float)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            header = [name.strip() for name in next(rows, [])]
            if len(header) < 2 or header[0] != "day" or header[-1] not in ("value", "level"):
                raise ValueError(f"{path}: the first line must be day, columns of tags, and value or level")
            for row in rows:
                if not row:
                    continue
                if rows.line_num > _MOST_LINES:
                    faults.append(f"after line {_MOST_LINES:,} nothing is read")
                    break
                _take(row, header, values, faults, rows.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no CSV in UTF-8: {error}") from None
    shown = [f"{path.name} {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > len(shown):
        shown.append(f"{path.name}: {len(faults) - len(shown)} more lines could not be read")
    return Kpi(path.stem, tuple(header[1:-1]), header[-1] == "level", dict(values), shown)


def _take(
    row: Sequence[str],
    header: Sequence[str],
    values: dict[tuple[date, tuple[str, ...]], float],
    faults: list[str],
    line: int,
) -> None:
    if len(row) != len(header):
        faults.append(f"line {line}: {len(row)} cells, not {len(header)}")
        return
    try:
        day, value = date.fromisoformat(row[0].strip()), float(row[-1])
    except ValueError as error:
        faults.append(f"line {line}: {error}")
        return
    if not math.isfinite(value) or value < 0:
        faults.append(f"line {line}: {row[-1]} is no amount")
        return
    values[day, tuple(cell.strip() for cell in row[1:-1])] += value
