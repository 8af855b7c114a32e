"""The schemas of everything on the log, under the field's standard names (FOCUS, OTel GenAI, DCGM, Alertmanager).

Every record carries a schema version `v`; fields a reader does not know are ignored. Times are float seconds since the
Unix epoch, UTC. Money is US dollars as float64. Unknown is None, never 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from curb.stream.records.actions import ActionsMessage as ActionsMessage  # noqa: PLC0414 (exported)
from curb.stream.records.actions import LedgerEntry as LedgerEntry  # noqa: PLC0414 (exported)
from curb.stream.records.actions import LedgerState as LedgerState  # noqa: PLC0414 (exported)
from curb.stream.records.actions import NoticeEntry as NoticeEntry  # noqa: PLC0414 (exported)
from curb.stream.records.actions import Plan as Plan  # noqa: PLC0414 (exported)
from curb.stream.records.base import Record

#: The tag value that stands for "this record does not carry the tag".
UNTAGGED = "__untagged__"
#: The tag value into which the cardinality guard folds new values past its limit.
OTHER = "__other__"


# --- raw records: curb.usage, curb.costs, curb.gpu ----------------------------------------------------------------


class SpendRecord(Record, kw_only=True):
    """The common part of the three raw records; the rollup reads only this."""

    #: Unique per source event; a second record with the same id is a duplicate and counts nothing.
    id: str
    #: Start of what is charged, event time.
    charge_period_start: float
    #: When Curb (or the recorder of a replayed stream) received it.
    received_at: float
    #: Dollars after discounts. Finite; negative only in billing records.
    effective_cost: float
    tags: dict[str, str]
    #: The connector's configured name.
    source: str = ""
    #: "reported" by the source, "priced" from the price book, "fallback" for a model that no book knows.
    cost_source: Literal["reported", "priced", "fallback"] = "reported"
    request_model: str = ""
    requests: int = 0
    errors: int = 0
    #: Distinct end users of the step, where the source knows them.
    users: int = 0
    #: Includes cached tokens (OTel GenAI).
    input_tokens: int = 0
    output_tokens: int = 0


class UsageRecord(SpendRecord, kw_only=True):
    """Tokens and requests at a gateway or provider (OTel GenAI)."""

    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    #: Content hash of the price book that priced it.
    price_book: str = ""


class CostRecord(SpendRecord, kw_only=True):
    """A billing delta (FOCUS)."""

    billed_cost: float = 0.0
    billing_currency: str = "USD"
    charge_period_end: float = 0.0
    charge_category: str = "Usage"
    service_name: str = ""
    sub_account_id: str = ""
    resource_id: str = ""
    #: The kind of report: spend of an open charge period; unknown spend of a complete one; or a change of
    #: known spend. Only new usage, of category Usage, raises alerts; totals and budgets count all.
    delta: Literal["new_usage", "late", "restatement"] = "new_usage"


class GpuRecord(SpendRecord, kw_only=True):
    """One GPU or node sample and what it cost (DCGM)."""

    #: Percent, 0 to 100; None when the exporter had no value.
    gpu_utilization: float | None = None
    #: GiB.
    memory_used: float | None = None
    #: W.
    power_usage: float | None = None
    #: GPUs times seconds that are charged; a share of a GPU counts its part.
    gpu_seconds: float = 0.0
    #: Content hash of the price list that priced it.
    price_book: str = ""


# --- curb.spend ---------------------------------------------------------------------------------------------------


class SpendPartial(Record, tag="partial", tag_field="type", kw_only=True):
    """A part of the sum of one series in one event-time bucket; parts add up."""

    scope: str
    #: Exactly the scope's `group_by` keys, in that order.
    tags: dict[str, str]
    bucket_start: int
    effective_cost: float
    events: int
    requests: int = 0
    errors: int = 0
    users: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    #: Samples that had a GPU utilization, the sum of their percents, and of their GiB of memory in use.
    gpu_samples: int = 0
    gpu_utilization: float = 0.0
    memory_used: float = 0.0
    #: The part of `effective_cost` that raises no alert: billing deltas that are not new usage.
    unscored_cost: float = 0.0


class SpendTick(Record, tag="tick", tag_field="type", kw_only=True):
    """Time has come to `at` for everything the rollup of `source` has read: buckets that ended before it may close."""

    at: float
    #: The input partition it comes from, such as "curb.usage/0".
    source: str = ""
    #: The source has read all there is and goes with the clock. While it is not live it works off a backlog, and
    #: scoring waits for it.
    live: bool = False
    #: Dollars that came from the source since its tick before.
    effective_cost: float = 0.0


class PricingHole(Record, tag="pricing_hole", tag_field="type", kw_only=True):
    """Usage whose model no price book knows, or that was reported with tokens at zero cost."""

    model: str
    source: str
    reason: Literal["unknown_model", "zero_cost"]
    at: float
    requests: int = 0
    tokens: int = 0
    #: Of GPUs that no price list knows.
    gpu_hours: float = 0.0
    #: Dollars at the fallback price.
    fallback_usd: float = 0.0


class PlannedActivity(Record, tag="plan", tag_field="type", kw_only=True):
    """Work that somebody announced: it raises what is expected of matching spend by its cap, and mutes nothing."""

    id: str
    #: When it was announced.
    at: float
    tags: dict[str, str]
    start: float
    end: float
    max_usd: float
    reason: str = ""
    by: str = ""


class Annotation(Record, tag="annotation", tag_field="type", kw_only=True):
    """Something that happened and that an explanation should name."""

    id: str
    at: float
    kind: Literal["deploy", "launch", "note"]
    tags: dict[str, str]
    text: str = ""
    by: str = ""


class Feedback(Record, tag="feedback", tag_field="type", kw_only=True):
    """A person's feedback on an alert."""

    id: str
    at: float
    alert_id: str
    verdict: Literal["real", "not_an_anomaly", "planned"]
    by: str = ""
    note: str = ""


class Silence(Record, tag="silence", tag_field="type", kw_only=True):
    """Alerts whose tags match are kept in the digest until `until`; one in the past lifts an earlier one."""

    id: str
    at: float
    matchers: dict[str, str]
    until: float
    reason: str = ""
    by: str = ""


class BudgetIncrease(Record, tag="budget_increase", tag_field="type", kw_only=True):
    """More money for a budget until `expires_at`."""

    id: str
    at: float
    budget: str
    match: dict[str, str]
    amount_usd: float
    expires_at: float
    by: str = ""


#: Entries by people; they reach scoring on the spend topic, in order of time like everything else.
Knowledge = PlannedActivity | Annotation | Feedback | Silence | BudgetIncrease

SpendMessage = SpendPartial | SpendTick | PricingHole | Knowledge


# --- curb.alerts --------------------------------------------------------------------------------------------------

Tier = Literal["page", "notice", "digest"]
#: Order of tiers, the most urgent highest.
TIER_RANK: dict[Tier, int] = {"digest": 0, "notice": 1, "page": 2}
AlertKind = Literal["runaway", "abusive", "unit_cost", "idle", "growth", "budget", "pricing", "feed"]


class Baseline(Record, kw_only=True):
    """The normal level of the series that fired; a throttle limits to this, not to zero."""

    expected_usd_per_hour: float
    #: 95th percentile and mean of requests in active minutes before the incident; None without requests.
    requests_per_minute_p95: float | None = None
    requests_per_minute_mean: float | None = None
    known_days: float = 0.0


class BudgetStatus(Record, kw_only=True):
    """A budget at the moment of the alert."""

    name: str
    period: str
    period_start: float
    period_end: float
    amount_usd: float
    spent_usd: float
    #: Percent of `amount_usd` that was crossed.
    threshold: float
    #: One budget on one subject, and the one above it in the tree; `scope` is that of the series it counts.
    id: str = ""
    parent_id: str | None = None
    scope: str = ""
    #: Counted from here on, where that is later than the start of the period.
    counted_from: float = 0.0
    #: At 100 % of a hard cap, actions may throttle.
    hard: bool = False
    #: The configured amount in its own currency; `amount_usd` is what it is worth, with what was added to it.
    amount: float | None = None
    currency: str = "USD"
    carried_usd: float = 0.0
    expanded_usd: float = 0.0
    increased_usd: float = 0.0
    #: Spent within the running period of the budget above.
    spent_in_parent_usd: float | None = None
    #: Pace of the last hours, what the period will come to (80 % interval), when and how likely it is over the amount.
    usd_per_hour: float | None = None
    forecast_usd: float | None = None
    forecast_low_usd: float | None = None
    forecast_high_usd: float | None = None
    breach_at: float | None = None
    breach_probability: float | None = None


class Cause(Record, kw_only=True):
    """A share of the excess that one set of tags explains."""

    tags: dict[str, str]
    excess_usd: float
    share: float


class Alert(Record, kw_only=True):
    """One revision of one incident. `alert_id` is one firing episode of `fingerprint`; revisions count from 1."""

    fingerprint: str
    alert_id: str
    revision: int
    status: Literal["firing", "resolved"]
    kind: AlertKind
    tier: Tier
    scope: str
    tags: dict[str, str]
    fired_at: float
    updated_at: float
    resolved_at: float | None = None
    #: Estimated begin of the excess; `*_usd` below count from here to `updated_at`.
    started_at: float
    expected_usd: float
    actual_usd: float
    excess_usd: float
    #: Current burn (5-minute average) and what is expected now.
    usd_per_hour: float
    expected_usd_per_hour: float
    #: Requests per minute now (5-minute average); None for series without requests.
    requests_per_minute: float | None = None
    #: The subject's part of all that its scope's sources have cost so far, without what is in excess, 0 to 1; None
    #: where nobody adds it up.
    share: float | None = None
    dollars_at_risk: float
    score: float
    #: Which statistic or rule decided, such as "dollars/30min", "budget/80".
    channel: str
    #: Which clock the dollars are on.
    money: Literal["estimated", "billed"] = "estimated"
    baseline: Baseline | None = None
    budget: BudgetStatus | None = None
    causes: list[Cause] = msgspec.field(default_factory=list)
    #: How sure it is that somebody wants to know, 0 to 1, from the rule, its score and how long the series is known.
    confidence: float = 0.0
    #: Whether actions wait until the subject is known for their warm-up. None in records of before this field.
    needs_warmup: bool | None = None
    #: The observation and its reason, a clause; `explanation` is the whole sentence.
    reason: str = ""
    explanation: str = ""


#: Channels that needed no warm-up when alerts did not say so themselves.
_NO_WARMUP_BEFORE = frozenset({"new_principal"})


def waits_for_warmup(alert: Alert) -> bool:
    """Whether actions on it wait until its subject is known, also for alerts written before they carried this."""
    return alert.channel not in _NO_WARMUP_BEFORE if alert.needs_warmup is None else alert.needs_warmup


# --- curb.commands, curb.cursors, curb.dead_letter --------------------------------------------------------------------


class Command(Record, kw_only=True):
    """A request by a person."""

    id: str
    kind: Literal["halt", "resume", "undo", "approve", "deny", "snooze"]
    at: float
    by: str
    #: For undo, approve and deny: {"action_id": ...}; for halt: {"reason": ...}; for snooze: {"alert_id": ...,
    #: "until": ...}, in seconds since the Unix epoch.
    args: dict[str, str] = msgspec.field(default_factory=dict)


class DeadLetter(Record, kw_only=True):
    """An unreadable record: its place and the reason. The content itself is not kept: it may hold a prompt."""

    source: str
    #: One of a closed list, see stream/records/dead_letters.py.
    reason: str
    detail: str
    at: float
    #: Where to find it: "file:line", "topic/partition/offset", "POST /v1/ingest/...#index".
    location: str
    size_bytes: int
    sha256: str
