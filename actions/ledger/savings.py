"""What an action saved, against what would have been spent without it; a pure function."""

from __future__ import annotations

from curb.stream.records.spend import Alert, LedgerEntry


def saved_usd(entry: LedgerEntry, alert: Alert | None, now: float) -> float | None:
    """Dollars saved since `entry` was planned, up to the newest word about its alert; None when nothing is known.

    Without the action the burn before would have gone on; what was really spent is subtracted. Where that is not
    counted on (the begin of the incident was estimated anew), the present burn stands for all of the time. Several
    targets of one ask share what they saved. Never negative, and never for time of which nothing was heard.
    """
    before, since = entry.usd_per_hour_before, entry.measured_at
    if alert is None or before is None or since is None:
        return entry.saved_usd
    hours = max(0.0, min(alert.updated_at, now) - since) / 3600.0
    spent = alert.usd_per_hour * hours
    if entry.spent_usd_before is not None and alert.started_at == entry.spent_since:
        counted = alert.actual_usd - entry.spent_usd_before
        spent = counted if counted > 0 else spent
    return max(0.0, before * hours - spent) / (1 + len(entry.also))
