"""What a message says, as a short hash, and whether that is news: pure functions."""

from __future__ import annotations

import hashlib

from curb.actions.ledger.ledger import ActionState
from curb.actions.notify.grouping import Bundle
from curb.actions.notify.thread import worth_telling
from curb.stream.records.spend import NoticeEntry


def says(channel: str, bundle: Bundle, actions: list[ActionState], *more: str) -> str:
    """A short hash of what a message would say. Figures are left out: they alone are no news."""
    words = [channel]
    for fact in sorted(bundle.facts, key=lambda fact: (fact is not bundle.lead, fact.alert.alert_id)):
        words += [fact.alert.alert_id, fact.alert.status, fact.top_tier]
    words += [action.news for action in actions if worth_telling(action)]
    return hashlib.sha256("\0".join([*words, *more]).encode()).hexdigest()[:20]


def next_key(digest: str, bundle: Bundle, last: NoticeEntry | None, every_s: float) -> str:
    """The key of the message that is due now, or "" when people know all of it.

    New figures alone are due only where the message can be edited (it has a reference), every `every_s` seconds.
    """
    fresh_key = f"{digest}-{bundle.revision}"
    if last is None or last.told_with or last.key.rpartition("-")[0] != digest:
        return fresh_key
    if last.state == "sending":
        return last.key
    can_edit = last.state == "sent" and last.ref
    if can_edit and bundle.is_firing and bundle.updated_at >= last.at + every_s and fresh_key != last.key:
        return fresh_key
    return ""
