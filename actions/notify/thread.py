"""What belongs into the thread of a message: a pure function of the alerts, the ledger and the time; each line once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from curb.actions.ledger.ledger import ActionState, Ledger
from curb.actions.notify.grouping import Bundle, is_same_subject
from curb.actions.notify.protocol import Notice, NotifyConfig, Reply, ReplyKind
from curb.stream.records.spend import TIER_RANK, Alert, LedgerEntry, LedgerState, NoticeEntry

#: Steps that somebody should look at.
_LOUD_STEPS: frozenset[LedgerState] = frozenset({"proposed", "ineffective", "failed", "drift"})
_VERIFIED: frozenset[LedgerState] = frozenset({"effective", "ineffective"})


class ThreadLine(NamedTuple):
    """A line that belongs into the thread; `part` names it in the outbox."""

    part: str
    kind: ReplyKind
    alert: Alert
    entry: LedgerEntry | None = None
    loud: bool = False

    def reply(self, channel: str, notice: Notice, lead_id: str) -> Reply:
        words = f"{channel}\0{lead_id}\0{self.part}"
        key = hashlib.sha256(words.encode()).hexdigest()[:20]
        return Reply(key, self.kind, notice, self.alert, self.entry, self.loud and notice.snoozed_until is None)


def state_shown(bundle: Bundle) -> str:
    """What the outbox remembers of a message that was sent, to know what is new in the next: tier, status, and the
    threshold of a budget."""
    status = "firing" if bundle.is_firing else "resolved"
    return f"{bundle.loudest.top_tier} {status} {threshold_of(bundle.loudest.alert)}".rstrip()


def threshold_of(alert: Alert) -> str:
    """The threshold that an alert is about; "" for other alerts. One on a burn rate names a threshold and is not."""
    threshold = "" if alert.budget is None else f"{alert.budget.threshold:g}"
    return threshold if alert.channel == f"budget/{threshold}" else ""


def lines(
    bundle: Bundle, ledger: Ledger, sent: NoticeEntry, telling: NotifyConfig, *, in_root: bool, now: float, quiet: bool
) -> Iterator[ThreadLine]:
    """All lines there should be by now. `sent` is the newest message; its detail is the `state_shown`.

    `in_root`: it was sent with all there is to say, so that nothing of it needs to be said aloud once more.
    """
    yield ThreadLine("figures", "figures", bundle.lead.alert)
    if not in_root:
        yield from _joined(bundle)
    yield from _escalated(bundle, sent)
    for fact in bundle.facts:
        for state in ledger.for_alert(fact.alert.alert_id):
            yield from _steps(state, fact.alert, aloud=not in_root)
    if not quiet:
        yield from _repeated(bundle, telling, now)
    yield from _over_before_the_budget(bundle)
    if not bundle.is_firing:
        alert = bundle.loudest.alert
        yield ThreadLine(f"resolved:{alert.resolved_at or alert.updated_at:.0f}", "resolved", alert)
    if telling.charts:
        yield ThreadLine(f"chart:{_stage(bundle, ledger)}", "chart", bundle.loudest.alert)


def _joined(bundle: Bundle) -> Iterator[ThreadLine]:
    for fact in bundle.others:
        if fact.alert.alert_id in bundle.joining:
            yield ThreadLine(f"also:{fact.alert.alert_id}", "also", fact.alert, loud=fact.top_tier == "page")


def _over_before_the_budget(bundle: Bundle) -> Iterator[ThreadLine]:
    """The end of a burn is said where only the budget of the same subject goes on, for as long as its period lasts."""
    firing = [fact for fact in bundle.facts if fact.alert.status == "firing"]
    if not firing or any(fact.alert.kind != "budget" for fact in firing):
        return
    for fact in bundle.facts:
        alert = fact.alert
        if alert.status == "resolved" and any(is_same_subject(each, fact) for each in firing):
            yield ThreadLine(f"over:{alert.alert_id}:{alert.resolved_at or alert.updated_at:.0f}", "resolved", alert)


def _escalated(bundle: Bundle, sent: NoticeEntry) -> Iterator[ThreadLine]:
    """An edit wakes nobody: a higher tier or threshold, and what fires again after it was over, are said again."""
    tier, status, threshold = (*sent.detail.split(" "), "", "")[:3]
    fact = bundle.loudest
    if not bundle.is_firing or fact.alert.alert_id in bundle.joining or tier not in TIER_RANK:
        return
    if TIER_RANK[fact.top_tier] > TIER_RANK[tier]:
        yield ThreadLine(f"tier:{fact.top_tier}", "tier", fact.alert, loud=fact.top_tier == "page")
    elif status == "resolved":
        yield ThreadLine(f"again:{sent.key}", "again", fact.alert, loud=fact.top_tier == "page")
    elif threshold and (now := threshold_of(fact.alert)) and float(now) > float(threshold):
        yield ThreadLine(f"crossed:{now}", "crossed", fact.alert, loud=fact.top_tier == "page")


def _steps(state: ActionState, alert: Alert, *, aloud: bool) -> Iterator[ThreadLine]:
    """One line per entry that changes the message key; what is planned is reported when it is done."""
    key = ""
    for count, entry in enumerate(state.entries, start=1):
        before, key = key, ActionState(state.entries[:count]).message_key
        if (entry.state != "planned" or entry.tries > 0) and key != before:
            loud = aloud and (entry.state in _LOUD_STEPS or entry.overdue)
            yield ThreadLine(f"step:{key}", "step", alert, entry, loud)


def _repeated(bundle: Bundle, telling: NotifyConfig, now: float) -> Iterator[ThreadLine]:
    if times := repeats(bundle, telling, now):
        yield ThreadLine(f"repeat:{times}", "repeat", bundle.loudest.alert, loud=True)


def repeats(bundle: Bundle, telling: NotifyConfig, now: float) -> int:
    """How many times an alert that still fires should have been sent again by now."""
    fact = bundle.loudest
    if fact.alert.status != "firing" or not telling.repeats(fact.top_tier):
        return 0
    since = fact.alert.tier_since or fact.alert.fired_at
    return max(0, int((now - since) // (telling.repeat_hours * 3600.0)))


def _stage(bundle: Bundle, ledger: Ledger) -> str:
    """How far the incident is; with every stage the picture is drawn again."""
    if not bundle.is_firing:
        return "resolved"
    states = [state for fact in bundle.facts for state in ledger.for_alert(fact.alert.alert_id)]
    verified = [state.last.action_id for state in states if any(entry.state in _VERIFIED for entry in state.entries)]
    return f"verified:{verified[-1]}" if verified else "opened"


def is_shown(state: ActionState) -> bool:
    """Whether an action shows in messages: what is only planned is about to become something else."""
    return state.last.state != "planned" or state.is_refused


def says(channel: str, bundle: Bundle, actions: list[ActionState], *more: str) -> str:
    """A short hash of what a message would say. Figures are left out: they alone make no new message."""
    words = [channel]
    for fact in sorted(bundle.facts, key=lambda fact: (fact is not bundle.lead, fact.alert.alert_id)):
        words += [fact.alert.alert_id, fact.alert.status, fact.top_tier]
        words += [threshold_of(fact.alert)] if threshold_of(fact.alert) else []
    words += [action.message_key for action in actions if is_shown(action)]
    return hashlib.sha256("\0".join([*words, *more]).encode()).hexdigest()[:20]


def next_key(digest: str, bundle: Bundle, last: NoticeEntry | None, every_s: float) -> str:
    """The key of the message that is due now, or "" when people know all of it.

    New figures alone are due only where the message can be edited (it has a reference), every `every_s` seconds.
    """
    fresh_key = f"{digest}-{bundle.revision}"
    if last is None or last.sent_with or last.key.rpartition("-")[0] != digest:
        return fresh_key
    if last.state == "sending":
        return last.key
    can_edit = last.state == "sent" and last.ref
    if can_edit and bundle.is_firing and bundle.updated_at >= last.at + every_s and fresh_key != last.key:
        return fresh_key
    return ""
