"""A notice as Alertmanager's webhook sends it (version 4), for receivers that understand that already."""

from __future__ import annotations

import re
from typing import Any

from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Notice
from curb.stream.records.spend import Alert, LedgerEntry
from curb.stream.time import iso

#: Alertmanager's own severities, by tier.
SEVERITIES = {"page": "critical", "notice": "warning", "digest": "info", "soft": "info"}
_NOT_OVER = "0001-01-01T00:00:00Z"
#: Labels of ours; a tag of the same name becomes tag_<name>.
_OURS = frozenset({"alertname", "severity", "incident", "scope"})


def payload(notice: Notice, receiver: str) -> dict[str, Any]:
    """The body of the POST. Labels hold what does not change while an alert lasts; figures are annotations."""
    alerts = [notice.lead, *(each for each in (notice.alert, *notice.others) if each is not notice.lead)]
    return _payload(alerts, notice.ledger, notice.lead.alert_id, receiver, notice.telling.dashboard_url or "")


def digest_payload(digest: DayDigest, receiver: str) -> dict[str, Any]:
    """The alerts of a digest, as one group."""
    url = digest.telling.dashboard_url or ""
    return _payload(list(digest.alerts), digest.ledger, digest.key, receiver, url)


def label(tag: str) -> str:
    """A tag's name as Prometheus allows a label to be called."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", tag)
    return f"tag_{name}" if name in _OURS or not re.match(r"[a-zA-Z_]", name) or name.startswith("__") else name


def _payload(
    alerts: list[Alert], ledger: tuple[LedgerEntry, ...], incident: str, receiver: str, url: str
) -> dict[str, Any]:
    shown = [_alert(alert, ledger, incident, url) for alert in alerts]
    labels = [each["labels"].items() for each in shown]
    common = dict(set(labels[0]).intersection(*labels)) if labels else {}
    return {
        "version": "4",
        "groupKey": f'{{}}:{{incident="{incident}"}}',
        "truncatedAlerts": 0,
        "status": "firing" if any(alert.status == "firing" for alert in alerts) else "resolved",
        "receiver": receiver,
        "groupLabels": {"incident": incident},
        "commonLabels": dict(sorted(common.items())),
        "commonAnnotations": {},
        "externalURL": url,
        "alerts": shown,
    }


def _dollars(alert: Alert) -> dict[str, float]:
    """A budget has a sum and an amount; other alerts have what they burn."""
    if alert.kind == "budget" and alert.budget is not None:
        spent = {"spent_usd": alert.budget.spent_usd, "budget_usd": alert.budget.amount_usd}
        return {**spent, "excess_usd": alert.excess_usd}
    unit, hours = ("day", 24.0) if wording.is_by_day(alert) else ("hour", 1.0)
    rates = {"burning": alert.usd_per_hour, "expected": alert.expected_usd_per_hour}
    return {**{f"{name}_usd_per_{unit}": hours * rate for name, rate in rates.items()}, "excess_usd": alert.excess_usd}


def _alert(alert: Alert, ledger: tuple[LedgerEntry, ...], incident: str, url: str) -> dict[str, Any]:
    newest = {entry.action_id: entry for entry in ledger if entry.alert_id == alert.alert_id}
    own = {
        "alertname": f"Curb{alert.kind.title().replace('_', '')}",
        "severity": SEVERITIES[alert.tier],
        "incident": incident,
        "scope": alert.scope,
    }
    annotations = {
        "summary": wording.title(alert),
        "description": wording.clean(alert.explanation or alert.reason, 800),
        **{name: f"{amount:.2f}" for name, amount in _dollars(alert).items()},
        "at_risk_usd": f"{alert.dollars_at_risk:.2f}",
        "actions": "\n".join(wording.step(entry) for entry in newest.values()),
    }
    ended = alert.resolved_at or alert.updated_at
    return {
        "status": alert.status,
        "labels": {label(tag): value for tag, value in alert.tags.items()} | own,
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": iso(alert.fired_at, "milliseconds"),
        "endsAt": _NOT_OVER if alert.status == "firing" else iso(ended, "milliseconds"),
        "generatorURL": url,
        "fingerprint": alert.fingerprint,
    }
