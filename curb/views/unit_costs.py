"""Unit economics: dollars per request, per 1,000 tokens, per value of a tag such as customer, per run of a job.

They are quotients of the exact sums on the log, so they need no records of their own: `UnitSums` folds partial sums.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import Field

from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.records.spend import UNTAGGED, SpendPartial
from curb.stream.settings import Settings
from curb.stream.time import HOUR_S

#: Units that are counted; every other unit is a tag whose different values are counted.
COUNTED = ("requests", "tokens", "runs")
_TOKENS = 1000


class WantedUnitCost(Settings):
    """One figure to keep as a metric."""

    by: tuple[str, ...] = Field(min_length=1, description="Tags whose values get a figure each, such as team.")
    unit: str = Field(
        description="requests; tokens (a thousand of them); runs (of a job); or a tag, such as customer: its values."
    )
    scope: str | None = Field(
        default=None, description="Scope whose dollars count; default: the smallest that has all the tags."
    )


DEFAULT_UNIT_COSTS = (WantedUnitCost(by=("team",), unit="requests"), WantedUnitCost(by=("team",), unit="tokens"))


class Resolved(NamedTuple):
    """A figure and the scope it is taken from."""

    wanted: WantedUnitCost
    scope: Scope


def resolve(wanted: WantedUnitCost, detector: DetectorSettings) -> Resolved:
    """The scope of a figure. Raises ValueError, with what there is, where none has the tags."""
    needed = {*wanted.by} | ({wanted.unit} if wanted.unit not in COUNTED else set())
    tags = {scope.name: {*scope.group_by, *scope.also_by} for scope in detector.scopes}
    fitting = [each for each in detector.scopes if needed <= tags[each.name] and wanted.scope in (None, each.name)]
    if not fitting:
        known = "; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in tags.items())
        where = f"the scope {wanted.scope}" if wanted.scope else "no scope"
        lacks = "does not have" if wanted.scope else "has"
        raise ValueError(f"{where} {lacks} the tags {', '.join(sorted(needed))}; there are {known}")
    return Resolved(wanted, min(fitting, key=lambda scope: len(tags[scope.name])))


class _Sum:
    __slots__ = ("buckets", "count", "usd", "values")

    def __init__(self) -> None:
        self.usd: list[float] = []
        self.count = 0
        self.values: set[str] = set()
        self.buckets: set[int] = set()


class UnitSums:
    """Dollars and units per value of the tags. `add` every partial sum once; `rows` at any time."""

    def __init__(self, resolved: Resolved, *, run_gap_s: float) -> None:
        self.resolved, self._run_gap_s = resolved, run_gap_s
        self._sums: dict[tuple[str, ...], _Sum] = defaultdict(_Sum)

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum of the scope; those of others are passed over."""
        wanted = self.resolved.wanted
        if part.scope != self.resolved.scope.name:
            return
        value = part.tags.get(wanted.unit, UNTAGGED) if wanted.unit not in COUNTED else ""
        if value == UNTAGGED:
            return  # dollars of nobody are not dollars per customer
        found = self._sums[tuple(part.tags.get(tag, UNTAGGED) for tag in wanted.by)]
        found.usd.append(part.effective_cost)
        if len(found.usd) > 1000:
            found.usd = [math.fsum(found.usd)]
        if wanted.unit == "requests":
            found.count += part.requests
        elif wanted.unit == "tokens":
            found.count += part.input_tokens + part.output_tokens
        elif wanted.unit == "runs":
            found.buckets.add(part.bucket_start)
        else:
            found.values.add(value)

    def rows(self) -> list[dict[str, Any]]:
        """Tags, dollars, units and dollars per unit (None where no unit was counted), most dollars first."""
        rows = [self._row(key, found) for key, found in self._sums.items()]
        return sorted(rows, key=lambda row: -float(row["total_usd"]))

    def _row(self, key: tuple[str, ...], found: _Sum) -> dict[str, Any]:
        wanted = self.resolved.wanted
        usd = math.fsum(found.usd)
        units: float = found.count
        if wanted.unit == "tokens":
            units = found.count / _TOKENS
        elif wanted.unit == "runs":
            units = runs(found.buckets, self._run_gap_s)
        elif wanted.unit != "requests":
            units = len(found.values)
        tags = dict(zip(wanted.by, key, strict=True))
        return {"tags": tags, "total_usd": usd, "units": units, "usd_per_unit": usd / units if units else None}


class RecentUnits:
    """Unit costs over the last hours of event time, from partial sums as they come."""

    def __init__(self, resolved: Sequence[Resolved], *, run_gap_s: float, hours: int = 24) -> None:
        self._resolved, self._run_gap_s, self._hours = tuple(resolved), run_gap_s, hours
        self.scopes = frozenset(each.scope.name for each in resolved)
        self._run_scopes = {each.scope.name for each in resolved if each.wanted.unit == "runs"}
        self._parts: dict[int, dict[tuple[str, tuple[str, ...]], SpendPartial]] = {}

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum: those of one series and bucket are added up."""
        if part.scope not in self.scopes:
            return
        hour = part.bucket_start // HOUR_S
        newest = max(self._parts, default=hour)
        if hour <= newest - self._hours:
            return
        kept = self._parts.setdefault(hour, {})
        # Runs need ten-minute steps; for everything else the hour is enough.
        within = str(part.bucket_start // 600) if part.scope in self._run_scopes else ""
        key = (part.scope, (*part.tags.values(), within))
        known = kept.get(key)
        if known is None:
            kept[key] = part
        else:
            known.effective_cost += part.effective_cost
            known.requests += part.requests
            known.input_tokens += part.input_tokens
            known.output_tokens += part.output_tokens
        for old in [each for each in self._parts if each <= max(newest, hour) - self._hours]:
            del self._parts[old]

    def rows(self) -> list[tuple[WantedUnitCost, list[dict[str, Any]]]]:
        """Every figure with its rows."""
        sums = [UnitSums(each, run_gap_s=self._run_gap_s) for each in self._resolved]
        for kept in self._parts.values():
            for part in kept.values():
                for each in sums:
                    each.add(part)
        return [(each.resolved.wanted, each.rows()) for each in sums]


def runs(buckets: Iterable[int], gap_s: float) -> int:
    """How many runs the buckets with spend make: a longer pause than `gap_s` ends one."""
    ordered = sorted(buckets)
    return bool(ordered) + sum(after - before > gap_s for before, after in pairwise(ordered))


def untagged_percent(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Tag → percent of the dollars of the rows that have no value for it; only tags where there are any."""
    total = math.fsum(row["total_usd"] for row in rows)
    if total <= 0:
        return {}
    found: dict[str, float] = defaultdict(float)
    for row in rows:
        for tag, value in row["tags"].items():
            if value == UNTAGGED:
                found[tag] += 100 * row["total_usd"] / total
    return {tag: percent for tag, percent in found.items() if percent > 0}
