"""The daily digest: when it is due and what is in it; pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from curb.actions.ledger.inbox_state import AlertFact
from curb.actions.ledger.ledger import Ledger
from curb.actions.notify.grouping import LastNotice
from curb.actions.notify.protocol import DayDigest, NotifyConfig
from curb.stream.records.spend import LedgerEntry
from curb.stream.time import DAY_S

#: Of what only would have been done, or was not, a digest does not speak.
_NOTHING_DONE = frozenset({"planned", "skipped", "proposed"})


class Due(NamedTuple):
    """The newest moment at which a digest was due: its local day, and when that was."""

    day: str
    at: float


def due(telling: NotifyConfig, now: float) -> Due:
    """The newest one, at most a day ago."""
    zone = ZoneInfo(telling.time_zone)
    hour, _, minute = telling.digest.at.partition(":")
    local = datetime.fromtimestamp(now, UTC).astimezone(zone)
    at = local.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    if at.timestamp() > now:
        at -= timedelta(days=1)
    return Due(f"{at:%Y-%m-%d}", at.timestamp())


def goes_into_digest(fact: AlertFact, telling: NotifyConfig) -> bool:
    """Whether an alert waits for the digest instead of getting a message."""
    return bool(telling.digest.notify) and fact.top_tier == "digest"


def compose(
    channel: str, facts: Iterable[AlertFact], ledger: Ledger, last_notice: LastNotice, telling: NotifyConfig, now: float
) -> DayDigest | None:
    """The digest that is due, or None when there is nothing to say."""
    when = due(telling, now)
    alerts = tuple(
        fact.alert
        for fact in facts
        if goes_into_digest(fact, telling)
        and fact.alert.fired_at < when.at
        and last_notice(fact.alert.alert_id) is None
    )
    done = tuple(_done(ledger, when.at - DAY_S, when.at))
    if not alerts and not done:
        return None
    return DayDigest(f"digest-{channel}-{when.day}", when.day, when.at, alerts, done, telling)


def _done(ledger: Ledger, since: float, until: float) -> Iterable[LedgerEntry]:
    """The newest entry of every action that had one in these hours."""
    for state in ledger.actions():
        entries = [entry for entry in state.entries if since <= entry.at < until]
        if entries and entries[-1].state not in _NOTHING_DONE:
            yield entries[-1]
