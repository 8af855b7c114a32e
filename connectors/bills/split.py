"""Split cost allocation of a CUR: pods and tasks take their share of the instance that they ran on.

AWS adds lines for pods (EKS) and tasks (ECS) to a report, each with its share of an instance's hour: what it used and
its part of what nobody used. Their own cost is 0, and the instance's line still has all of it. Here a share is the cost
of its line and is taken off the instance, so that the total stays and the tags of pods count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curb.connectors.bills.cells.values import amounts, as_text
from curb.connectors.bills.files import canonical
from curb.connectors.bills.sums import Floats

_PARENT, _RESOURCE = "splitlineitemparentresourceid", "lineitemresourceid"
_START = "lineitemusagestartdate"
_SHARES = ("splitlineitemsplitcost", "splitlineitemunusedcost")


class NotSplitError(Exception):
    """A report without split cost allocation."""


class SplitCosts:
    """The shares of one delivery: `add` every batch, then `applied` to every batch again, in any order."""

    def __init__(self) -> None:
        #: Canonical → own name of the columns that are needed.
        self._at: dict[str, str] = {}
        #: (instance, start of the hour as the report writes it) → dollars that its pods still take off it.
        self._taken: dict[tuple[str, str], float] = defaultdict(float)
        self._parents: set[str] = set()

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read. Raises NotSplitError where there are none."""
        there = {canonical(name): name for name in names}
        wanted = (_PARENT, _RESOURCE, _START, *_SHARES)
        if any(name not in there for name in (_PARENT, _RESOURCE, _START, _SHARES[0])):
            raise NotSplitError
        self._at = {name: there[name] for name in wanted if name in there}
        return list(self._at.values())

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the shares of a batch."""
        parents, starts = self._texts(batch, _PARENT), self._texts(batch, _START)
        shares = self._shares(batch)
        for row in np.flatnonzero(self._children(batch)).tolist():
            if np.isfinite(shares[row]):
                self._taken[parents[row], starts[row]] += float(shares[row])
                self._parents.add(parents[row])

    def applied(self, batch: pa.RecordBatch, effective: Floats) -> Floats:
        """Dollars of the lines of a batch: a share is its line's, and is taken off its instance's largest line."""
        if not self._parents:
            return effective
        children = self._children(batch)
        found = np.where(children, self._shares(batch), effective)
        resources, starts = self._texts(batch, _RESOURCE), self._texts(batch, _START)
        rows = [row for row in np.flatnonzero(~children).tolist() if resources[row] in self._parents]
        for row in sorted(rows, key=lambda row: -found[row]):
            left = self._taken.get((resources[row], starts[row]), 0.0)
            if left > 0 and found[row] > 0:
                share = min(left, float(found[row]))
                found[row] -= share
                self._taken[resources[row], starts[row]] = left - share
        return found

    def _children(self, batch: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([bool(text) for text in self._texts(batch, _PARENT)], np.bool_)

    def _shares(self, batch: pa.RecordBatch) -> Floats:
        found = [amounts(batch.column(self._at[name])) for name in _SHARES if name in self._at]
        return np.asarray(sum(found[1:], found[0]), np.float64)

    def _texts(self, batch: pa.RecordBatch, name: str) -> list[str]:
        return [text or "" for text in as_text(batch.column(self._at[name])).to_pylist()]
