"""The time of usage that becomes known late: the time of the reading, while it is still recent."""

from __future__ import annotations

#: Usage that becomes known later than this keeps its own time, seconds.
NEWS_S = 3600.0
#: A reading so long after the one before brings what gathered in between, which is no rate of one minute, seconds.
PAUSE_S = 600.0


def counts_at(start: float, end: float, read_at: float) -> float:
    """Where usage between `start` and `end` belongs that was read at `read_at`; all are epoch seconds.

    A minute is judged once, half a minute after its end. Usage that is reported later would never be judged if it were
    dated by its start, so it is dated by the reading. After an hour it is history: it only counts.
    """
    return max(start, read_at) if read_at - end < NEWS_S else start


def is_pause(seconds: float, poll_interval_s: float) -> bool:
    """True so long after the last reading that all growth in one minute would look like a jump.

    What runs away through a pause is found by the readings behind it.
    """
    return seconds > max(PAUSE_S, 2 * poll_interval_s)
