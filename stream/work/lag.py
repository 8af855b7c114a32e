"""How far a worker is behind, in seconds: when did the log end where the worker is now?

Offsets have no time, and the time of the data is not the time of their arrival. So the ends of the log are noted as
they grow, and passed one after the other.
"""

from __future__ import annotations

from collections import deque

from curb.stream.log.protocol import Positions

#: Ends are noted at most so many times over the time that they span; more would say little.
_MOST_ENDS = 100


class ReadUntil:
    """Everything that was on the log `lag_s` ago has been processed. Times are monotonic seconds.

    What was on the log at the first note counts from then, however old it is.
    """

    def __init__(self) -> None:
        #: When the log ended where, oldest first; only ends that are not reached yet.
        self._ends: deque[tuple[float, Positions]] = deque()
        self._read_at: float | None = None

    def lag_s(self, now: float) -> float:
        """0 before the first note."""
        return 0.0 if self._read_at is None else max(0.0, now - self._read_at)

    def note(self, now: float, ends: Positions, done: Positions) -> None:
        """Both of the partitions with messages that wait: where they end, and how far each was processed."""
        if self._read_at is None or not done:
            self._read_at = now
        if not done:
            self._ends.clear()
            return
        if not self._ends or now - self._ends[-1][0] >= (now - self._ends[0][0]) / _MOST_ENDS:
            self._ends.append((now, ends))
        while self._ends and all(at not in done or done[at] >= end for at, end in self._ends[0][1].items()):
            self._read_at = self._ends.popleft()[0]
