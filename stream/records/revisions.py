"""Identity of an alert, its next revision, and when a change is worth one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from curb.stream import metrics
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.spend import Alert

#: A revision follows when the rate has moved by more than this share and by more than these $/h. Chosen by hand.
_MOVED_SHARE, _MOVED_USD_PER_HOUR = 0.1, 0.1


def fingerprint_of(*parts: object) -> str:
    """The same 16 hex digits for the same parts, on every machine."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def alert_id_of(fingerprint: str, fired_at: float) -> str:
    """One firing episode of a fingerprint."""
    return f"{fingerprint}-{int(fired_at)}"


def first_without_spend(alert_id: str, at: float, *, fingerprint: str = "", **fields: Any) -> Alert:
    """The first revision of an alert that is about no dollars; without a `fingerprint` it is about nothing else."""
    return Alert(
        fingerprint=fingerprint or alert_id,
        alert_id=alert_id,
        revision=1,
        status="firing",
        fired_at=at,
        updated_at=at,
        started_at=at,
        expected_usd=0.0,
        actual_usd=0.0,
        excess_usd=0.0,
        usd_per_hour=0.0,
        expected_usd_per_hour=0.0,
        dollars_at_risk=0.0,
        score=0.0,
        **fields,
    )


def revised(alert: Alert, at: float, **changes: Any) -> Alert:
    """The next revision of an alert."""
    return msgspec.structs.replace(alert, revision=alert.revision + 1, updated_at=at, **changes)


def resolved(alert: Alert, at: float, **changes: Any) -> Alert:
    """The last revision of an episode."""
    return revised(alert, at, status="resolved", resolved_at=at, **changes)


def newest(messages: Iterable[Message]) -> list[Alert]:
    """The newest revision of each alert in messages of the topic of alerts; lines that cannot be read are skipped."""
    kept: dict[str, Alert] = {}
    for message in messages:
        for alert in decode_lines(message.value, Alert, lambda *_: None):
            known = kept.get(alert.alert_id)
            if known is None or known.revision <= alert.revision:
                kept[alert.alert_id] = alert
    return list(kept.values())


def needs_revision(alert: Alert, at: float, rate: float, update_every_s: float) -> bool:
    """True when a rate of `rate` $/h is worth a revision at `at` (epoch seconds)."""
    moved = abs(rate - alert.usd_per_hour)
    return (
        moved > max(_MOVED_SHARE * alert.usd_per_hour, _MOVED_USD_PER_HOUR) or at - alert.updated_at >= update_every_s
    )


def count_opened(alerts: Sequence[Alert]) -> None:
    """Count first revisions in the metrics."""
    for alert in alerts:
        if alert.revision == 1:
            metrics.ALERTS.labels(kind=alert.kind, tier=alert.tier).inc()
