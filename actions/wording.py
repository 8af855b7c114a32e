"""The sentences and figures of a notice, shared by all channels, as plain text. Tag values are data, never markup."""

from __future__ import annotations

from datetime import UTC, datetime

from actions.notifier import Notice
from stream.records import Alert, LedgerEntry

_LONGEST_VALUE, _LONGEST_REASON, _MOST_CAUSES = 80, 400, 5
_KINDS = {
    "runaway": "Runaway spend",
    "abusive": "Abusive use",
    "unit_cost": "Dearer requests",
    "idle": "Paid but idle",
    "growth": "Growth",
    "budget": "Budget",
    "pricing": "Pricing hole",
    "feed": "Feed problem",
}
_STEPS = {
    "planned": "About to",
    "shadow": "Would have (shadow mode)",
    "applied": "Did",
    "effective": "Did, and the burn fell",
    "ineffective": "Did, but it did not help; please look",
    "restored": "Undone",
    "failed": "Could not",
    "drift": "Left alone: somebody else changed it since",
    "skipped": "Did nothing",
}


def clean(text: str, longest: int = _LONGEST_VALUE) -> str:
    """One printable line of at most `longest` characters: no control or formatting characters get through."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def usd(amount: float) -> str:
    digits = 2 if abs(amount) < 1000 else 0
    return f"-${-amount:,.{digits}f}" if amount < 0 else f"${amount:,.{digits}f}"


def utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def subject(alert: Alert) -> str:
    """Such as "team=search api_key=ab12…"."""
    return " ".join(f"{clean(key)}={clean(value)}" for key, value in alert.tags.items()) or alert.scope


def title(alert: Alert) -> str:
    state = "resolved" if alert.status == "resolved" else alert.tier
    return f"{_KINDS.get(alert.kind, alert.kind)} ({state}): {usd(alert.usd_per_hour)}/h, {subject(alert)}"


def figures(alert: Alert) -> list[tuple[str, str]]:
    """(label, value) pairs. Waiting costs the excess rate: what an hour without anybody doing anything adds."""
    excess_rate = max(0.0, alert.usd_per_hour - alert.expected_usd_per_hour)
    pairs = [
        ("Burning", f"{usd(alert.usd_per_hour)}/h"),
        ("Expected", f"{usd(alert.expected_usd_per_hour)}/h"),
        ("Over so far", usd(alert.excess_usd)),
        ("At risk", usd(alert.dollars_at_risk)),
    ]
    if alert.status == "firing":
        pairs.append(("Cost of waiting one hour", usd(excess_rate)))
    if alert.confidence > 0:
        pairs.append(("Confidence", f"{alert.confidence:.0%}"))
    if alert.budget is not None:
        budget = alert.budget
        spent = f"{usd(budget.spent_usd)} of {usd(budget.amount_usd)}"
        pairs.append(("Budget", f"{clean(budget.name)}: {spent} ({clean(budget.period)})"))
    return [*pairs, ("Money", alert.money)]


def reason(alert: Alert) -> str:
    """What was seen and why it counts, as a sentence; empty where the alert does not say."""
    words = clean(alert.reason, _LONGEST_REASON).strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "…")) else ".") if words else ""


def causes(alert: Alert) -> list[str]:
    """One line per cause: which part of the subject explains how much of the excess; none where no part stands out."""
    lines = []
    for cause in alert.causes[:_MOST_CAUSES]:
        own = {key: value for key, value in cause.tags.items() if alert.tags.get(key) != value}
        if own:
            tags = " ".join(f"{clean(key)}={clean(value)}" for key, value in own.items())
            lines.append(f"{tags}: {usd(cause.excess_usd)} ({cause.share:.0%})")
    return lines


def newest_per_action(notice: Notice) -> list[LedgerEntry]:
    newest: dict[str, LedgerEntry] = {}
    for entry in notice.ledger:
        newest[entry.action_id] = entry
    return list(newest.values())


def step(entry: LedgerEntry) -> str:
    """What Curb did, without the end of the lease (channels show times in their own way)."""
    parts = [_STEPS[entry.state]]
    if entry.plan.summary:
        parts.append(clean(entry.plan.summary, 200))
    if entry.detail:
        parts.append(clean(entry.detail, 300))
    if entry.usd_per_hour_before is not None and entry.usd_per_hour_after is not None:
        parts.append(f"{usd(entry.usd_per_hour_before)}/h → {usd(entry.usd_per_hour_after)}/h")
    return ": ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:])


def in_force(entry: LedgerEntry) -> bool:
    return entry.state in ("applied", "effective", "ineffective")


def plain_lines(notice: Notice) -> list[str]:
    """The whole notice as lines of text."""
    alert = notice.alert
    lines = [title(alert), "  " + "  ".join(f"{label}: {value}" for label, value in figures(alert))]
    if alert.explanation:
        lines.append("  " + clean(alert.explanation, 800))
    elif alert.reason:
        lines.append("  " + reason(alert))
    lines += [f"  cause {line}" for line in causes(alert)]
    for entry in newest_per_action(notice):
        lease = f"; until {utc(entry.lease_expires_at)}" if in_force(entry) and entry.lease_expires_at else ""
        undo = f"; undo: curb actions undo {entry.action_id}" if in_force(entry) else ""
        lines.append(f"  {step(entry)}{lease}{undo}")
    lines.append(f"  alert {alert.alert_id} since {utc(alert.started_at)}")
    return lines
