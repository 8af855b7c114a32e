"""How far time has come, when several inputs tell it and some lag behind."""

from __future__ import annotations

from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import SpendTick

#: An input that works off a backlog is waited for this far behind those that are live; it is broken beyond.
_BACKLOG_S = 7 * 86400.0


class Watermark:
    """Time is that of the slowest input; one that was live and fell silent holds it up by `max_skew_s` at most."""

    def __init__(self, max_skew_s: float) -> None:
        self._max_skew_s = max_skew_s
        #: The latest tick of every input, and whether it was live then.
        self.ticks: dict[str, tuple[float, bool]] = {}

    def of(self, source: str) -> float:
        """How far `source` has come; 0 before its first tick."""
        return self.ticks.get(source, (0.0, False))[0]

    def advance(self, tick: SpendTick) -> float:
        """The time after this tick; it never goes back."""
        self.ticks[tick.source] = (max(tick.at, self.of(tick.source)), tick.live)
        # What people say today is no reason to give up waiting for a replay of last month.
        told = [tick for name, tick in self.ticks.items() if not name.startswith(COMMANDS)]
        newest = max((at for at, _ in told), default=0.0)
        # Nothing is live while a recording is replayed, so no input of it is given up, however unevenly they are read.
        newest_live = max((at for at, live in told if live), default=0.0)
        return min(
            max(at, newest - self._max_skew_s if live else newest_live - _BACKLOG_S) for at, live in self.ticks.values()
        )
