"""State made of the ticks of all inputs: how far time has come, and what the series of a scope cost together."""

from __future__ import annotations

from collections.abc import Sequence

from curb.detector.state.scopes import Scope
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import SpendTick

#: Seconds that an input with a backlog may be behind the live ones; beyond that it counts as broken. Chosen by hand.
_BACKLOG_S = 7 * 86400.0


class Watermark:
    """The time of the slowest input; an input that was live and fell silent delays it by at most `max_skew_s`."""

    def __init__(self, max_skew_s: float) -> None:
        self._max_skew_s = max_skew_s
        #: The latest tick of every input, and whether it was live then.
        self.ticks: dict[str, tuple[float, bool]] = {}
        #: How many inputs there are, as far as they say so.
        self.inputs = 0

    def of(self, source: str) -> float:
        """How far `source` has come; 0 before its first tick."""
        return self.ticks.get(source, (0.0, False))[0]

    def advance(self, tick: SpendTick) -> float:
        """The time after this tick; it never goes back."""
        self.inputs = max(self.inputs, tick.inputs)
        self.ticks[tick.source] = (max(tick.at, self.of(tick.source)), tick.live)
        # Commands of today do not end the wait for a replay of last month.
        others = [tick for name, tick in self.ticks.items() if not name.startswith(COMMANDS)]
        newest = max((at for at, _ in others), default=0.0)
        # No input is live while a recording is replayed, so none is given up, however unevenly they are read.
        newest_live = max((at for at, live in others if live), default=0.0)
        return min(
            max(at, newest - self._max_skew_s if live else newest_live - _BACKLOG_S) for at, live in self.ticks.values()
        )


class ScopeTotals:
    """Dollars so far per topic of raw records."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._topics = {scope.name: [f"curb.{source}" for source in scope.sources] for scope in scopes}
        #: None when dollars were not counted from the start.
        self._usd: dict[str, float] | None = {}

    def add(self, tick: SpendTick) -> None:
        """Count the dollars of a tick."""
        topic = tick.source.rpartition("/")[0]
        if self._usd is not None:
            self._usd[topic] = self._usd.get(topic, 0.0) + tick.effective_cost

    def share(self, scope: str, total_usd: float, excess_usd: float) -> float | None:
        """Share of one series in the dollars of its scope, both without its excess; None when unknown.

        It is a share of all time, so it does not change with the hour of the day. It is rounded, because sums of floats
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
