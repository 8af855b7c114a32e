"""The schemas of curb.actions: the ledger of actions, and the outbox of messages."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from curb.stream.records.base import Record

#: `proposed` waits for a person's answer; `denied` was refused by a person, or not answered in time; `approved` changes
#: nothing by itself: it allows ceilings.
LedgerState = Literal[
    "planned",
    "shadow",
    "applied",
    "effective",
    "ineffective",
    "restored",
    "failed",
    "drift",
    "skipped",
    "proposed",
    "denied",
    "approved",
]


class Plan(Record, kw_only=True):
    """One thing Curb would change: absolute values before and after, so that repeating it changes nothing."""

    #: Name of the configured action, and what it acts on, such as "litellm/key/<hash>".
    action: str
    target: str
    summary: str
    before: dict[str, Any]
    after: dict[str, Any]
    #: False when undo cannot bring back what is lost (a training job that is stopped); done only with an approval.
    reversible: bool = True
    #: A warning for people before they approve, a sentence.
    warning: str = ""
    #: How many subjects of this kind run where the target runs, itself included; None when nobody counts them.
    population: int | None = None
    #: The mark on the target itself (a label, a tag): critical, important, non_critical, or "" for none.
    criticality: str = ""
    #: Why and until when, for the target's own records: set when the plan is entered to be carried out.
    note: str = ""
    #: What makes the target this one and no other that was made later under its name: a uid, a time of creation. Empty
    #: where the other side has no such thing, and in plans of older versions.
    identity: str = ""
    #: Of a plan that routes calls to cheaper models: their price as a part of that before, the highest of them; None
    #: where it is not known, and for other plans.
    price_part: float | None = None


class LedgerEntry(Record, tag="action", tag_field="type", kw_only=True):
    """One step in the life of one action; the fold over its entries is its state."""

    action_id: str
    state: LedgerState
    at: float
    alert_id: str
    fingerprint: str
    plan: Plan
    #: "curb" or the person who asked.
    by: str = "curb"
    lease_expires_at: float | None = None
    detail: str = ""
    #: Burn of the subject when planned and when verified.
    usd_per_hour_before: float | None = None
    usd_per_hour_after: float | None = None
    #: Tags of the alert.
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    #: Which rung of the alert's ladder asked for it, from 1, what that rung wants, and where its figures come from.
    #: Rung 0 is a soft cap, -1 a ceiling.
    rung: int = 1
    do: str = ""
    why: str = ""
    #: The burn the rung wants to leave, where that is known.
    aim_usd_per_hour: float | None = None
    #: Length of the lease; counted from the approval where there is one.
    lease_s: float | None = None
    #: Targets of the same ask; one answer is for all of them. The rest follows when the first reads back as planned.
    also: list[str] = msgspec.field(default_factory=list)
    #: proposed: until when an answer counts, and who may say yes to it.
    answer_by: float | None = None
    approvers: list[str] = msgspec.field(default_factory=list)
    #: The person who approved, where that was needed.
    approved_by: str = ""
    #: The command that this entry answers.
    command_id: str = ""
    #: The target was read back and held what was planned.
    read_back: bool = False
    #: It should be over, and giving it back is refused or the target cannot be reached.
    overdue: bool = False
    #: It is being given back, by `by`: it must not be applied any more, and it is tried until it is over.
    ending: bool = False
    #: Why it is being given back; in entries of older versions that is the `detail`.
    ending_why: str = ""
    #: How often giving it back was tried in vain, the newest reason of the other side, and when it is tried again.
    tries: int = 0
    refusal: str = ""
    next_try_at: float | None = None
    #: Cost of the incident at planning, the start of its count, and the time of the measurement.
    spent_usd_before: float | None = None
    spent_since: float | None = None
    measured_at: float | None = None
    #: Requests per minute, and those that had failed, at planning.
    requests_per_minute_before: float | None = None
    failed_requests_before: float | None = None
    #: Dollars saved so far: what the burn before would have cost, less what was spent, and at most what the refused
    #: requests would have cost; never negative.
    saved_usd: float | None = None
    #: Requests turned away so far, where the target counts them.
    rejected: int | None = None
    #: Of a ceiling: the policy that wants it, its requests per minute, and how often its lease was renewed.
    standing: str = ""
    limit_per_minute: int | None = None
    renewals: int = 0


class NoticeEntry(Record, tag="notice", tag_field="type", kw_only=True):
    """The outbox: a message is `sending` before the call and `sent` (with the other side's reference) after it."""

    #: Unique per (channel, alert_id, what it says); never sent twice.
    key: str
    channel: str
    alert_id: str
    state: Literal["sending", "sent", "failed"]
    at: float
    #: The other side's name of the message, for edits in place (Slack: channel and ts).
    ref: str = ""
    detail: str = ""
    #: Which reply in the message's thread, such as "step:<action_id>:applied"; "" is the message itself.
    part: str = ""
    #: The alert whose message includes this one; "" when it has a message of its own.
    sent_with: str = msgspec.field(default="", name="told_with")


ActionsMessage = LedgerEntry | NoticeEntry
