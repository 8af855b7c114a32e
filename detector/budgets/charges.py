"""What of a bill is no usage: fees, purchases, taxes and credits count in a budget by choice, and are no pace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curb.detector.budgets.budget import Budget
from curb.detector.state.columns import Floats, Ints
from curb.detector.state.reader import PartialRun, by_part
from curb.stream.records.spend import NOT_USAGE


class Counting:
    """Which parts each budget counts."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._usage = np.array([float("usage" in budget.include) for budget in budgets])
        #: Shape (`NOT_USAGE`, budgets).
        self._others = np.array([[float(part in budget.include) for budget in budgets] for part in NOT_USAGE])
        #: Whether each counts usage, so that dollars without charges count as they are.
        self.plain = bool(self._usage.all())

    def split(self, cost: Floats, charges: Floats, budgets: Ints) -> tuple[Floats, Floats]:
        """Dollars of all, the parts of them that are no usage, and the number of a budget for each → what counts, and
        what of it is a pace."""
        usage = (cost - charges.sum(axis=0)) * self._usage[budgets]
        return usage + (charges * self._others[:, budgets]).sum(axis=0), usage

    def usd(self, cost: float, charges: Mapping[str, float], budget: int) -> float:
        """What of a sum a budget counts."""
        if not charges and self.plain:
            return cost
        counted, _ = self.split(np.array([cost]), by_part([charges]), np.array([budget]))
        return float(counted[0])


class OpenCharges:
    """Charges of buckets that did not close yet: bucket → series → dollars by part. Few, as bills come late."""

    def __init__(self) -> None:
        self.buckets: dict[int, dict[int, dict[str, float]]] = {}

    def add(self, run: PartialRun) -> None:
        """Keep the charges of sums until their bucket closes."""
        if run.charges is None:
            return
        for index, bucket, usd in zip(run.index.tolist(), run.bucket.tolist(), run.charges.T.tolist(), strict=True):
            if any(usd):
                kept = self.buckets.setdefault(bucket, {}).setdefault(index, {})
                for part, each in zip(NOT_USAGE, usd, strict=True):
                    kept[part] = kept.get(part, 0.0) + each

    def pop(self, start: int, series: int) -> Floats | None:
        """Take out those of the bucket at `start`, shape (`NOT_USAGE`, series); None without any."""
        for old in [bucket for bucket in self.buckets if bucket < start]:  # passed over
            del self.buckets[old]
        kept = self.buckets.pop(start, None)
        if kept is None:
            return None
        usd = np.zeros((len(NOT_USAGE), series))
        for index, parts in kept.items():
            usd[:, index] = [parts.get(part, 0.0) for part in NOT_USAGE]
        return usd

    def of(self, bucket: int, index: int) -> dict[str, float]:
        """Those of one series."""
        return self.buckets.get(bucket, {}).get(index, {})

    def dump(self) -> dict[str, dict[str, dict[str, float]]]:
        """For `load`; keys of maps are text."""
        return {str(at): {str(n): parts for n, parts in of.items()} for at, of in self.buckets.items()}

    def load(self, saved: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Take over what was saved."""
        self.buckets = {int(at): {int(n): dict(parts) for n, parts in of.items()} for at, of in saved.items()}
