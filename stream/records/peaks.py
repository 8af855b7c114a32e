"""The schema of curb.peaks: how much each principal ever needed, by which ceilings are set."""

from __future__ import annotations

from curb.stream.records.base import Record


class PrincipalPeak(Record, kw_only=True):
    """The highest honest minutes of one principal; the newest record of its key counts."""

    scope: str
    tags: dict[str, str]
    #: When it was written, event time.
    at: float
    #: Requests of its highest honest minute of the 31 days before this one; 0: none is known yet.
    highest_per_minute: float
    #: Requests of the highest minute of this day so far.
    today_per_minute: float = 0.0
    known_days: float = 0.0
    #: What a request of it costs on average; None where its requests cost nothing.
    usd_per_request: float | None = None
