"""What all series of a scope have cost together, which no shard sees by itself: every tick tells it to all of them."""

from __future__ import annotations

from collections.abc import Sequence

from curb.detector.state.scopes import Scope
from curb.stream.records.spend import SpendTick


class Spent:
    """Dollars so far per topic of raw records."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._topics = {scope.name: [f"curb.{source}" for source in scope.sources] for scope in scopes}
        #: None when it was not counted from the start.
        self._usd: dict[str, float] | None = {}

    def add(self, tick: SpendTick) -> None:
        """Count what a tick tells."""
        topic = tick.source.rpartition("/")[0]
        if self._usd is not None:
            self._usd[topic] = self._usd.get(topic, 0.0) + tick.effective_cost

    def share(self, scope: str, total_usd: float, excess_usd: float) -> float | None:
        """Which part of a scope's dollars those of one series are, both without its excess; None when not known.

        A part of all time, not of now: it does not change with the hour of the day. Rounded, because sums of floats
        depend on where they were cut.
        """
        if self._usd is None:
            return None
        of_all = sum(self._usd.get(topic, 0.0) for topic in self._topics.get(scope, ()))
        normal, all_normal = total_usd - max(0.0, excess_usd), of_all - max(0.0, excess_usd)
        return round(min(1.0, max(0.0, normal / all_normal)), 4) if all_normal > 0 else None

    def dump(self) -> dict[str, float] | None:
        return self._usd

    def load(self, usd: dict[str, float] | None) -> None:
        self._usd = usd
