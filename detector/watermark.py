"""How far time has come, when several inputs tell it and some lag behind."""

from __future__ import annotations


class Watermark:
    """Time is that of the slowest input, but at most `max_skew_s` behind the fastest; it never goes back."""

    def __init__(self, max_skew_s: float) -> None:
        self._max_skew_s = max_skew_s
        #: The latest tick of every input.
        self.ticks: dict[str, float] = {}

    def advance(self, source: str, at: float) -> float:
        """The time after `source` came to `at`."""
        self.ticks[source] = max(at, self.ticks.get(source, at))
        return max(min(self.ticks.values()), max(self.ticks.values()) - self._max_skew_s)
