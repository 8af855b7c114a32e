"""Turns scores of any range into ranks: what share of a series' own past scores were lower."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort

#: As many scores are remembered; a rank cannot say anything finer than one over this.
MEMORY = 2000


class Ranks:
    """The last 2,000 scores of one series. A tie is not lower: a detector that always says the same says nothing."""

    def __init__(self) -> None:
        self._sorted = array("d")
        self._newest = array("d")
        self._next = 0

    def of(self, score: float) -> float:
        """0 to 1 - 1/2001. Before there are 1/(1 - threshold) scores no threshold is reached."""
        return bisect_left(self._sorted, score) / (len(self._sorted) + 1)

    def add(self, score: float) -> None:
        """Remember a finite score; the oldest one goes."""
        if len(self._newest) < MEMORY:
            self._newest.append(score)
        else:
            oldest = self._newest[self._next]
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._newest[self._next] = score
            self._next = (self._next + 1) % MEMORY
        insort(self._sorted, score)
