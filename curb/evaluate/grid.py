"""Lays a recorded stream on the grid of a back-test's buckets, and its alerts back on the clock of the stream.

Buckets begin at whole multiples of their length. Rows about hours that begin at 24 minutes past would be cut between
two of them and judged an hour later than they were known. A back-test has one grid, so it moves time by the 24 minutes
instead: what its rows cover are whole buckets again. For the same reason it waits for rows that always come late by
less than an hour or their length, rather than for the buckets after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from curb.detector.incidents.sentence import since
from curb.detector.settings import DetectorSettings
from curb.detector.state.columns import Floats
from curb.stream.records.revisions import alert_id_of
from curb.stream.records.spend import Alert, PlannedActivity, SpendRecord
from curb.stream.time import HOUR_S, grid_of

Event = SpendRecord | PlannedActivity

#: Shortest step of rows, seconds; what repeats faster are calls, whose grid is chance. Chosen by hand.
_SHORTEST_STEP_S = 60
#: Share of rows that are late from which all are waited for: else it is corrections that come late. By hand.
_MOST_LATE = 0.5
#: Shares of rows that are waited for; the second where it takes at most `_LONGER` times as long. As
#: `detector.rollup.timing` decides for sources.
_WAIT, _WAIT_LONGER, _LONGER = 0.98, 0.995, 1.25
#: A wait is rounded up to whole minutes, seconds.
_MINUTE_S = 60


class Grid(NamedTuple):
    """Where the rows of a stream begin, and when they come, seconds."""

    #: Length of a row.
    step_s: int
    #: From a multiple of the step to the starts of the rows.
    phase_s: int = 0
    #: From the end of a row to its receipt; 0 where most come at once. More than a step and an hour is not usual.
    late_s: float = 0.0

    def phase(self, bucket_s: int) -> int:
        """By how much time is moved for buckets of `bucket_s`."""
        return self.phase_s % bucket_s

    def settings(self, settings: DetectorSettings, bucket_s: int) -> DetectorSettings:
        """The settings with these buckets, and with the grace that their rows need."""
        grace_s = settings.grace_s
        if bucket_s >= self.step_s and self.late_s >= grace_s:  # more, as what comes when a bucket closes is late
            grace_s = (self.late_s // _MINUTE_S + 1) * _MINUTE_S
        return settings.model_validate({**settings.model_dump(), "bucket_s": bucket_s, "grace_s": grace_s})


def grid(records: Iterable[SpendRecord]) -> Grid:
    """The grid of some records. `received_at` before the end of a row says nothing of its delay."""
    times = [(record.charge_period_start, record.received_at) for record in records]
    on = grid_of(int(start) for start, _ in times)
    step = max(10, math.gcd(HOUR_S, on)) if on else 60
    if not on or step < _SHORTEST_STEP_S:
        return Grid(step)
    late = np.array([received - start - step for start, received in times])
    return Grid(step, int(times[0][0]) % step, _usual_wait(late, step))


def _usual_wait(late: Floats, step: int) -> float:
    """Seconds in which the rows that come late as usual have come; 0 unless most rows are late."""
    usual = late[late < max(step, HOUR_S)]
    if np.count_nonzero(late > 0) < _MOST_LATE * len(late) or not len(usual):
        return 0.0
    wait, longer = map(float, np.quantile(usual, (_WAIT, _WAIT_LONGER), method="higher"))
    return longer if longer <= _LONGER * wait else wait


def moved(event: Event, by_s: float) -> Event:
    """The event as if it had happened and come `by_s` seconds later."""
    if not by_s:
        return event
    replace = msgspec.structs.replace
    if isinstance(event, PlannedActivity):
        return replace(event, at=event.at + by_s, start=event.start + by_s, end=event.end + by_s)
    end = event.charge_period_end
    return replace(
        event,
        charge_period_start=event.charge_period_start + by_s,
        charge_period_end=end + by_s if end else end,
        received_at=event.received_at + by_s,
    )


def moved_alert(alert: Alert, by_s: float, settings: DetectorSettings) -> Alert:
    """The alert `by_s` seconds later, in its sentence too. The periods of budgets are of the calendar and stay."""
    if not by_s:
        return alert

    def later(at: float | None) -> float | None:
        return None if at is None else at + by_s

    zone, end = ZoneInfo(settings.time_zone), alert.updated_at - settings.grace_s
    said, says = (f"since {since(alert.started_at + by, end + by, zone)} (" for by in (0.0, by_s))
    return msgspec.structs.replace(
        alert,
        alert_id=alert_id_of(alert.fingerprint, alert.fired_at + by_s),
        fired_at=alert.fired_at + by_s,
        updated_at=alert.updated_at + by_s,
        started_at=alert.started_at + by_s,
        resolved_at=later(alert.resolved_at),
        tier_since=later(alert.tier_since),
        explanation=alert.explanation.replace(said, says, 1),
    )
