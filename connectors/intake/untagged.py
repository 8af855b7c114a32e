"""How much of what each connector brings lacks a tag it should carry, over the last day, as a metric."""

from __future__ import annotations

from collections.abc import Sequence

from curb.stream import metrics
from curb.stream.records.spend import CostRecord, SpendRecord

_HOURS = 24


class UntaggedSpend:
    """Dollars of usage per connector and hour of receipt, and how many of them lacked each of `tags`.

    Taxes, credits and fees carry no tags anywhere, and corrections repeat what was counted: they are left out.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self._tags = tuple(tags)
        #: Since the last `publish`: dollars, then dollars without each tag.
        self._sums = [0.0] * (len(self._tags) + 1)
        self._hours: dict[str, dict[int, list[float]]] = {}

    def add(self, record: SpendRecord, missing: Sequence[str]) -> None:
        """Count one record."""
        usd = record.effective_cost
        if usd <= 0 or (isinstance(record, CostRecord) and record.charge_category != "Usage"):
            return
        self._sums[0] += usd
        if missing:
            for at, tag in enumerate(self._tags, 1):
                if tag in missing:
                    self._sums[at] += usd

    def publish(self, source: str, at: float) -> None:
        """What was added came from `source`, at `at` (epoch seconds); set its metrics."""
        hour = int(at // 3600)
        hours = self._hours.setdefault(source, {})
        kept = hours.setdefault(hour, [0.0] * len(self._sums))
        for number, usd in enumerate(self._sums):
            kept[number] += usd
            self._sums[number] = 0.0
        for old in [each for each in hours if each <= hour - _HOURS]:
            del hours[old]
        total, *without = (sum(column) for column in zip(*hours.values(), strict=True))
        if total > 0:
            for tag, usd in zip(self._tags, without, strict=True):
                metrics.UNTAGGED_PERCENT.labels(connector=source, tag=tag).set(100 * usd / total)
                metrics.UNTAGGED_USD.labels(connector=source, tag=tag).set(usd)
