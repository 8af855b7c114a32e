"""Alerts of a state that was made again from the log go on as those that were sent before, under the same ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from curb.stream.log.protocol import Message
from curb.stream.records.revisions import newest, resolved
from curb.stream.records.spend import Alert


def carry_on(
    firing: Sequence[Alert], messages: Iterable[Message], is_own: Callable[[Alert], bool], at: float
) -> list[Alert]:
    """Give alerts that fire the ids and revisions of what was sent about the same; returns what is to be sent now.

    `messages` is all that is on the topic of alerts. What fires and was never sent is sent; what was sent, fires no
    more and belongs to the state (`is_own`) is resolved at `at` (epoch seconds).
    """
    sent = newest(messages)
    by_id = {alert.alert_id: alert for alert in sent}
    same: dict[object, Alert] = {}
    for alert in sorted(sent, key=lambda each: each.fired_at):
        same[alert.fingerprint] = same[_about(alert)] = alert
    now: list[Alert] = []
    going_on: set[str] = set()
    for alert in firing:
        before = by_id.get(alert.alert_id) or same.get(alert.fingerprint) or same.get(_about(alert))
        if before is None or before.alert_id in going_on or not _meet(before, alert):
            now.append(alert)
            continue
        going_on.add(before.alert_id)
        alert.alert_id, alert.fired_at = before.alert_id, before.fired_at
        alert.revision = max(alert.revision, before.revision)
        if before.status == "resolved":
            alert.revision += 1
            now.append(alert)
    over = (each for each in sent if each.status == "firing" and each.alert_id not in going_on and is_own(each))
    return now + [resolved(each, max(at, each.updated_at)) for each in over]


def _about(alert: Alert) -> object:
    """What an alert is about, for versions that made fingerprints otherwise."""
    subject = alert.kind, alert.scope, tuple(sorted(alert.tags.items())), alert.money, alert.tier == "soft"
    if alert.budget is None:
        return subject
    rule = alert.channel.rpartition("/")[2]  # a threshold in percent, or the word for another rule
    return *subject, alert.budget.name, alert.budget.period_start, "" if rule[:1].isdigit() else rule


def _meet(before: Alert, alert: Alert) -> bool:
    """Whether both are of one time."""
    return before.resolved_at is None or before.resolved_at >= alert.fired_at
