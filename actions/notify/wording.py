"""The sentences and figures of a notice, shared by all channels, as plain text. Tag values are data, never markup."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from curb.actions.notify.protocol import DayDigest, Notice, NotifyConfig, Reply, ReplyKind
from curb.stream.money import usd
from curb.stream.records.spend import Alert, LedgerEntry
from curb.stream.time import utc

#: Characters of a value and a reason; causes, other alerts and lines of a message. By hand: a screen of a phone.
_LONGEST_VALUE, _LONGEST_REASON, _MOST_CAUSES, _MOST_OTHERS, _MOST_LINES = 80, 400, 5, 8, 20
#: Characters of the whole sentence. By hand: five causes fit.
_LONGEST_EXPLANATION = 800
_TELLING = NotifyConfig()
#: Dollars below which nothing is said. By hand: half a cent reads as none.
_LEAST_USD = 0.005
_KINDS = {
    "runaway": "Runaway spend",
    "abusive": "Abusive use",
    "unit_cost": "More expensive requests",
    "idle": "Paid but idle",
    "growth": "Growth",
    "budget": "Budget",
    "pricing": "Pricing hole",
    "feed": "Feed problem",
    "ceiling": "Ceiling",
    "commitment": "Commitment in vain",
    "waste": "Waste",
}
_STEPS = {
    "planned": "Planned",
    "proposed": "Waiting for approval",
    "denied": "Not done",
    "approved": "Approved",
    "shadow": "Would be done (shadow mode)",
    "restored": "Undone",
    "failed": "Failed",
    "drift": "Left as it is, somebody else changed it since",
    "skipped": "Skipped",
}
#: Kinds whose dollars are no rate: what was spent, what was priced by fallback, what was not counted or scored.
_NO_RATE = frozenset({"budget", "pricing", "feed", "ceiling"})
#: Hours of the unit of rates that are billed. By definition: a bill is known by the day.
_DAY_H = 24.0
#: An action in force says what it did, and whether that helped.
_DONE = {"cheaper_model": "Routed", "pause": "Paused", "block": "Blocked"}
#: Summaries of plans start with one of these.
_VERBS = frozenset({"limit", "cap", "shave", "route", "reroute", "pause", "block"})
#: How the lines of a thread begin that end with the title.
_REPLIES: dict[ReplyKind, str] = {
    "tier": "Now a {tier}: ",
    "also": "Also: ",
    "again": "Firing again: ",
    "repeat": "Still firing since {since}: ",
}
_HELPED = {"effective": "spend fell", "ineffective": "spend did not fall, please look"}


def clean(text: str, longest: int = _LONGEST_VALUE) -> str:
    """One printable line of at most `longest` characters: no control or formatting characters get through."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def link(notice: Notice) -> str:
    """The address of the alert on the dashboard, or ""."""
    url = notice.telling.dashboard_url
    if not url:
        return ""
    alert_id = quote(notice.alert.alert_id, safe="")
    return url.replace("{alert_id}", alert_id) if "{alert_id}" in url else f"{url.rstrip('/')}/alerts/{alert_id}"


def subject(alert: Alert) -> str:
    """Such as "team=search api_key=ab12…"."""
    return " ".join(f"{clean(key)}={clean(value)}" for key, value in alert.tags.items()) or alert.scope


def tags(alert: Alert, longest: int) -> dict[str, str]:
    """Tags with at most `longest` characters in all, names and values: whole, or cut to equal shares."""
    found = alert.tags
    if sum(len(key) + len(value) for key, value in found.items()) <= longest:
        return dict(found)
    share = max(1, longest // (2 * len(found)))
    return {clean(key, share): clean(value, share) for key, value in found.items()}


def period_end(alert: Alert) -> tuple[str, float]:
    """What ends next, and when: the period of its budget, else the calendar month (UTC)."""
    budget = alert.budget
    if budget is not None and budget.period_end > alert.updated_at:
        return "the budget's period", budget.period_end
    now = datetime.fromtimestamp(alert.updated_at, UTC)
    first = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return "the month", first.timestamp()


def excess_rate(alert: Alert) -> float:
    """Dollars an hour over what is expected, never negative: what an hour costs in which nobody does anything.

    Of a budget that is spent, all of its burn; until then none.
    """
    budget = alert.budget
    if alert.kind == "budget" and budget is not None:
        return max(0.0, alert.usd_per_hour) if budget.counted_usd >= budget.amount_usd else 0.0
    return max(0.0, alert.usd_per_hour - alert.expected_usd_per_hour)


def is_by_day(alert: Alert) -> bool:
    """Whether its rates are dollars a day, as those of bills."""
    return alert.money == "billed"


def per_time(alert: Alert, usd_per_hour: float) -> str:
    """A rate of an alert, such as "$36.80/h", of a bill "$883.20 a day"."""
    return f"{usd(_DAY_H * usd_per_hour)} a day" if is_by_day(alert) else f"{usd(usd_per_hour)}/h"


def has_rate(alert: Alert) -> bool:
    """Whether its dollars are a rate that can be compared with an expected one."""
    return alert.kind not in _NO_RATE


def dollars(alert: Alert) -> str:
    """The dollars that a title names: what it burns, or what a budget has spent; "" where there are none."""
    budget = alert.budget
    if alert.kind == "budget" and budget is not None:
        used = f" ({100 * budget.spent_usd / budget.amount_usd:.0f} %)" if budget.amount_usd > 0 else ""
        return f"{usd(budget.spent_usd)} of {usd(budget.amount_usd)}{used}"
    if alert.kind in _NO_RATE:
        return usd(alert.actual_usd) if alert.actual_usd else ""
    return per_time(alert, alert.usd_per_hour)


def over(alert: Alert, when: str = " so far") -> str:
    """What is over, in dollars: over what is expected, or over the amount of a budget; "" where nothing can be."""
    budget = alert.budget
    if alert.kind == "budget" and budget is not None:
        left = budget.amount_usd - budget.spent_usd
        return f"{usd(-left)} over the amount" if left < 0 else f"{usd(left)} left"
    return "" if alert.kind in _NO_RATE else f"{usd(alert.excess_usd)} over{when}"


def money(alert: Alert) -> str:
    """The dollars of an alert in one line."""
    if alert.kind in _NO_RATE:
        parts = [dollars(alert), over(alert)]
    else:
        expected = per_time(alert, alert.expected_usd_per_hour)
        parts = [f"burns {per_time(alert, alert.usd_per_hour)}, expected {expected}; {over(alert)}"]
    return ", ".join([*(each for each in parts if each), f"{usd(alert.dollars_at_risk)} at risk"])


def instead(alert: Alert) -> str:
    """What it burns and what it usually does, such as "$36.80/h instead of $2.74/h"; "" for what is no rate."""
    if alert.kind in _NO_RATE or alert.status != "firing":
        return ""
    return f"{per_time(alert, alert.usd_per_hour)} instead of {per_time(alert, alert.expected_usd_per_hour)}"


def minutes(amount: float) -> str:
    """A span of minutes in few words."""
    return f"{amount:g} min" if amount < 60 or amount % 60 else f"{amount / 60:g} h"


def lasting(alert: Alert, amount: float) -> str:
    """A span of minutes as the alert counts time: of a bill in days."""
    if not is_by_day(alert):
        return minutes(amount)
    days = max(1, round(amount / 60.0 / _DAY_H))
    return "1 day" if days == 1 else f"{days} days"


def kind_words(alert: Alert) -> str:
    """Its kind, such as "Runaway spend"."""
    return _KINDS.get(alert.kind, alert.kind)


def title(alert: Alert) -> str:
    state = "resolved" if alert.status == "resolved" else alert.tier
    said = dollars(alert)
    return f"{kind_words(alert)} ({state}): {f'{said}, ' if said else ''}{subject(alert)}"


def name(alert: Alert) -> str:
    """What an alert is called as long as it lasts: no figure, no state."""
    return f"Curb: {kind_words(alert)}, {subject(alert)} (alert {alert.alert_id})"


def figures(alert: Alert, telling: NotifyConfig = _TELLING) -> list[tuple[str, str]]:
    """(label, value) pairs; what waiting costs counts from the newest word about the alert."""
    rate = excess_rate(alert)
    pairs = [*_rates(alert, rate), ("At risk", usd(alert.dollars_at_risk))]
    if alert.status == "firing" and (rate > 0 or alert.kind not in _NO_RATE):
        answer = _DAY_H * 60 if is_by_day(alert) else telling.people_answer_after_minutes
        what, end = period_end(alert)
        pairs.append((f"Cost of waiting {lasting(alert, answer)}", usd(rate * answer / 60.0)))
        pairs.append((f"Waiting until {what} ends", usd(rate * max(0.0, end - alert.updated_at) / 3600.0)))
    if alert.confidence > 0:
        pairs.append(("Confidence", f"{alert.confidence:.0%}"))
    if alert.budget is not None:
        budget = alert.budget
        spent = f"{usd(budget.spent_usd)} of {usd(budget.amount_usd)}"
        pairs.append(("Budget", f"{clean(budget.name)}: {spent} ({clean(budget.period)})"))
    return [*pairs, ("Money", alert.money)]


def _rates(alert: Alert, over_usd_per_hour: float) -> list[tuple[str, str]]:
    """What it burns and what is over. A budget has a sum and an amount instead."""
    budget = alert.budget
    if alert.kind == "budget" and budget is not None:
        left = budget.amount_usd - budget.spent_usd
        pairs = [("Over the amount", usd(-left)) if left < 0 else ("Left", usd(left))]
        if alert.status == "firing" and alert.usd_per_hour >= _LEAST_USD:
            pairs.append(("Burning", per_time(alert, alert.usd_per_hour)))
        if alert.status == "firing" and budget.forecast_usd is not None:
            pairs.append(("Forecast of the period", usd(budget.forecast_usd)))
        return pairs
    if alert.kind in _NO_RATE:
        return [("Dollars", usd(alert.actual_usd))] if alert.actual_usd else []
    return [
        ("Burning", per_time(alert, alert.usd_per_hour)),
        ("Expected", per_time(alert, alert.expected_usd_per_hour)),
        ("Over expected", per_time(alert, over_usd_per_hour)),
        ("Over so far", usd(alert.excess_usd)),
    ]


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
    summary = clean(entry.plan.summary, 200)
    if entry.tries and entry.ending and (in_force(entry) or entry.state == "planned"):
        parts = [f"Cannot be given back so far: {summary}"]
    elif in_force(entry):
        verb, _, rest = summary.partition(" ")
        what = rest if verb in _VERBS else summary
        parts = [f"{_DONE.get(entry.do, 'Throttled')} {what}".strip()]
    else:
        parts = [f"{_STEPS[entry.state]}: {summary}" if summary else _STEPS[entry.state]]
    if entry.also:
        parts.append(f"and {len(entry.also)} more like it")
    if helped := _HELPED.get(entry.state):
        parts.append(helped)
    if entry.detail:
        parts.append(clean(entry.detail, 300))
    if entry.usd_per_hour_before is not None and entry.usd_per_hour_after is not None:
        parts.append(f"{usd(entry.usd_per_hour_before)}/h → {usd(entry.usd_per_hour_after)}/h")
    parts += achieved(entry)
    if entry.approved_by:
        parts.append(f"approved by {person(entry.approved_by)}")
    return "; ".join(parts)


def person(by: str) -> str:
    """Who it was, the name first: "slack:U123 (ana)" is "ana (U123)"."""
    who, _, name = by.removeprefix("slack:").partition(" (")
    return clean(f"{name.removesuffix(')')} ({who})" if name else who)


def achieved(entry: LedgerEntry) -> list[str]:
    """What an action saved, and whom it turned away, as far as both are known."""
    found = []
    was_done = entry.state not in ("planned", "proposed", "shadow")
    if was_done and entry.saved_usd is not None and entry.saved_usd >= _LEAST_USD:
        found.append(f"saved {usd(entry.saved_usd)} so far" if in_force(entry) else f"saved {usd(entry.saved_usd)}")
    if entry.rejected is not None:
        found.append(f"{entry.rejected:,} requests refused")
    return found


def worth(entry: LedgerEntry, alert: Alert) -> str:
    """What an action that was not done yet would save, and how many requests it would refuse; "" when not known."""
    before = alert.usd_per_hour
    stops = entry.do in ("block", "pause")
    left = 0.0 if stops else entry.aim_usd_per_hour
    if left is None:
        left = alert.expected_usd_per_hour if alert.baseline is not None else before
    saved, words = max(0.0, before - left), []
    if saved > 0:
        # Of its calls, those to other models stay as they are.
        words.append(f"would save {'up to ' if entry.do == 'cheaper_model' else ''}{per_time(alert, saved)}")
        if entry.lease_s:
            words[-1] += f", {usd(saved * entry.lease_s / 3600.0)} in its {minutes(round(entry.lease_s / 60.0))}"
    if (now := alert.requests_per_minute) is not None and entry.do not in ("pause", "cheaper_model"):
        allowed = 0.0 if stops else _requests_left(entry, alert, left / before if before > 0 else 1.0)
        if (refused := now - allowed) > 0:
            words.append(f"refuse about {refused:,.0f} of {now:,.0f} requests a minute")
    return " and ".join(words)


def _requests_left(entry: LedgerEntry, alert: Alert, share: float) -> float:
    """Requests per minute that a plan lets pass: as it says, else the share of the burn that it leaves."""
    for name, value in entry.plan.after.items():
        if "rpm" in name and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return (alert.requests_per_minute or 0.0) * min(1.0, share)


def waits(entry: LedgerEntry) -> bool:
    """Whether it waits for a person's answer."""
    return entry.state == "proposed"


def in_force(entry: LedgerEntry) -> bool:
    return entry.state in ("applied", "effective", "ineffective")


def others(notice: Notice) -> list[str]:
    """One line per other alert in the message, what fires and costs most first."""
    ranked = sorted(notice.others, key=lambda alert: (alert.status != "firing", -excess_rate(alert)))
    return [_with_over(alert, ", ") for alert in ranked[:_MOST_OTHERS]]


def _with_over(alert: Alert, between: str = "; ", when: str = " so far") -> str:
    said = over(alert, when)
    return f"{title(alert)}{between}{said}" if said else title(alert)


def began(alert: Alert) -> float:
    """When it began; of a budget, whose count began with its period, when it crossed its first threshold."""
    return alert.fired_at if alert.kind == "budget" else alert.started_at


def shown_time(alert: Alert, at: float) -> str:
    """A moment as the alert counts time: of a bill its day."""
    return utc(at).partition(" ")[0] if is_by_day(alert) else utc(at)


def reply(said: Reply) -> str:
    """A line of the thread."""
    alert = said.alert
    if said.entry is not None:
        what = step(said.entry)
        more = worth(said.entry, alert) if said.entry.state in ("proposed", "shadow") else ""
        return f"{what}. It {more}." if more else what
    if said.kind in _REPLIES:
        return _REPLIES[said.kind].format(tier=alert.tier, since=shown_time(alert, began(alert))) + _with_over(alert)
    if said.kind == "crossed" and alert.budget is not None:
        return f"Crossed {alert.budget.threshold:g} %: {_with_over(alert)}"
    if said.kind == "figures":
        return clean(alert.explanation, _LONGEST_EXPLANATION) or money(alert)
    if said.kind == "resolved":
        ended = alert.resolved_at or alert.updated_at
        lasted = lasting(alert, round(max(0.0, ended - began(alert)) / 60.0))
        more = over(alert, " in all")
        return f"Resolved after {lasted}: {subject(alert)}" + (f"; {more}" if more else "")
    return f"Spend of {subject(alert)}"


def digest_title(digest: DayDigest) -> str:
    saved = sum(entry.saved_usd or 0.0 for entry in digest.ledger)
    parts = [_counted(len(digest.alerts), "small alert"), _counted(len(digest.ledger), "action")]
    return f"Curb on {digest.day}: {', '.join(parts)}" + (f", {usd(saved)} saved" if saved else "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def digest_lines(digest: DayDigest) -> tuple[list[str], list[str]]:
    """One line per alert, the most dollars first, and one per action."""
    ranked = sorted(digest.alerts, key=lambda alert: -alert.excess_usd)
    listed = [_with_over(alert, when="") for alert in ranked[:_MOST_LINES]]
    if len(ranked) > _MOST_LINES:
        rest = sum(alert.excess_usd for alert in ranked[_MOST_LINES:])
        listed.append(f"and {len(ranked) - _MOST_LINES} more, {usd(rest)} over")
    alerts = {alert.alert_id: alert for alert in digest.alerts}
    newest = sorted(digest.ledger, key=lambda entry: entry.at)[-_MOST_LINES:]
    return listed, [_done(entry, alerts.get(entry.alert_id)) for entry in newest]


def _done(entry: LedgerEntry, alert: Alert | None) -> str:
    """What was done; of what would have been, as in shadow mode, also what it was worth when it was planned."""
    if alert is None or entry.state != "shadow" or entry.usd_per_hour_before is None:
        return step(entry)
    then = msgspec.structs.replace(
        alert, usd_per_hour=entry.usd_per_hour_before, requests_per_minute=entry.requests_per_minute_before
    )
    more = worth(entry, then)
    return f"{step(entry)}; {more}" if more else step(entry)


def digest_plain_lines(digest: DayDigest) -> list[str]:
    """The whole digest as lines of text."""
    listed, done = digest_lines(digest)
    return [digest_title(digest), *(f"  {line}" for line in listed), *(f"  {line}" for line in done)]


def plain_lines(notice: Notice) -> list[str]:
    """The whole notice as lines of text."""
    alert = notice.alert
    pairs = figures(alert, notice.telling)
    lines = [title(alert), "  " + "  ".join(f"{label}: {value}" for label, value in pairs)]
    if alert.explanation:
        lines.append("  " + clean(alert.explanation, 800))
    elif alert.reason:
        lines.append("  " + reason(alert))
    lines += [f"  cause {line}" for line in causes(alert)]
    lines += [f"  with it {line}" for line in others(notice)]
    for entry in newest_per_action(notice):
        lease = f"; until {utc(entry.lease_expires_at)}" if in_force(entry) and entry.lease_expires_at else ""
        undo = f"; undo: curb actions undo {entry.action_id}" if in_force(entry) else ""
        more = worth(entry, notice.alert_of(entry)) if entry.state in ("proposed", "shadow") else ""
        lines.append(f"  {step(entry)}{f'; {more}' if more else ''}{lease}{undo}{_approve(entry)}")
    lines.append(f"  alert {alert.alert_id} since {shown_time(alert, began(alert))}")
    return lines


def _approve(entry: LedgerEntry) -> str:
    if not waits(entry):
        return ""
    by = f" by {utc(entry.answer_by)}" if entry.answer_by is not None else ""
    return f"; answer{by}: curb actions approve {entry.action_id}, or deny"
