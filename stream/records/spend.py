"""The schemas of everything on the log, under the field's standard names (FOCUS, OTel GenAI, DCGM, Alertmanager).

Every record carries a schema version `v`; fields a reader does not know are ignored. Times are float seconds since the
Unix epoch, UTC. Money is US dollars as float64. Unknown is None, never 0.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from curb.stream.records.actions import ActionsMessage as ActionsMessage  # noqa: PLC0414 (exported)
from curb.stream.records.actions import LedgerEntry as LedgerEntry  # noqa: PLC0414 (exported)
from curb.stream.records.actions import LedgerState as LedgerState  # noqa: PLC0414 (exported)
from curb.stream.records.actions import NoticeEntry as NoticeEntry  # noqa: PLC0414 (exported)
from curb.stream.records.actions import Plan as Plan  # noqa: PLC0414 (exported)
from curb.stream.records.base import Record
from curb.stream.records.loops import LoopCall, LoopPrint

#: The tag value that stands for "this record does not carry the tag".
UNTAGGED = "__untagged__"
#: The tag value into which the cardinality guard folds new values past its limit.
OTHER = "__other__"
#: How the names of sources begin that are a recorded stream: it ends, and is then not missed.
REPLAYED = "replay-"


# --- raw records: curb.usage, curb.costs, curb.gpu ----------------------------------------------------------------


class SpendRecord(Record, kw_only=True):
    """The common part of the three raw records; the rollup reads only this."""

    #: Unique per source event; a second record with the same id is a duplicate and counts nothing.
    id: str
    #: Start of what is charged, event time.
    charge_period_start: float
    #: Its end, where the source names one; 0: a moment, or not known.
    charge_period_end: float = 0.0
    #: When Curb (or the recorder of a replayed stream) received it.
    received_at: float
    #: Dollars after discounts. Finite; negative only in billing records.
    effective_cost: float
    tags: dict[str, str]
    #: The connector's configured name.
    source: str = ""
    #: "reported" by the source, "priced" from the price book, "fallback" for a model that no price book knows.
    cost_source: Literal["reported", "priced", "fallback"] = "reported"
    request_model: str = ""
    requests: int = 0
    errors: int = 0
    #: Of the errors, those that a limit of the gateway refused: they reached no model.
    refused: int = 0
    #: Distinct end users of the step, where the source knows them.
    users: int = 0
    #: Includes cached tokens (OTel GenAI).
    input_tokens: int = 0
    output_tokens: int = 0
    #: Read from the source's own past: it says nothing about how late the source reports.
    backfilled: bool = False


class UsageRecord(SpendRecord, kw_only=True):
    """Tokens and requests at a gateway or provider (OTel GenAI)."""

    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    #: Content hash of the price book that priced it.
    price_book: str = ""
    #: What it says of loops; None unless `loops` is on and its source shows prompts.
    loop: LoopPrint | None = None


#: What a charge of a bill is for.
ChargeKind = Literal["usage", "commitment", "fee", "purchase", "tax", "credit", "refund", "adjustment"]
#: What of a bill a budget may count. Commitments are usage: their cost is spread over the time in which they hold.
ChargePart = Literal["usage", "fees", "purchases", "tax", "credits"]
CHARGE_PARTS: tuple[ChargePart, ...] = get_args(ChargePart)
#: Parts that are no usage, in the order in which arrays have them.
NOT_USAGE: tuple[ChargePart, ...] = tuple(part for part in CHARGE_PARTS if part != "usage")
#: By kind of charge. A refund and an adjustment correct what was paid, as a credit does.
PART_OF_KIND: dict[ChargeKind, ChargePart] = {
    "usage": "usage",
    "commitment": "usage",
    "fee": "fees",
    "purchase": "purchases",
    "tax": "tax",
    "credit": "credits",
    "refund": "credits",
    "adjustment": "credits",
}


class CostRecord(SpendRecord, kw_only=True):
    """A billing delta (FOCUS)."""

    billed_cost: float = 0.0
    billing_currency: str = "USD"
    charge_category: str = "Usage"
    service_name: str = ""
    sub_account_id: str = ""
    resource_id: str = ""
    #: FOCUS: who provides the service, and where; empty where the bill or `dimensions` does not say.
    provider_name: str = ""
    region_id: str = ""
    #: The vendor's meter, such as "USW2-BoxUsage:m5.large" (CUR) or an Azure meter; empty unless it is wanted.
    usage_type: str = ""
    #: Finer than the category: `commitment` is the unused part of a reservation or plan, `fee` recurs or
    #: comes once.
    charge_kind: ChargeKind = "usage"
    #: FOCUS CommitmentDiscountStatus: paid by a reservation or plan ("Used"), or what of it nobody used ("Unused").
    commitment_discount_status: Literal["", "Used", "Unused"] = ""
    #: Charge periods of its source that ended by then (epoch seconds) are complete. Only on the last records of a
    #: delivery, and on the mark that follows it in every partition: once that is read, all of it is.
    complete_until: float | None = None
    #: The kind of report: spend of an open charge period; unknown spend of a complete one; or a change of
    #: known spend. Only new usage, of category Usage, raises alerts; totals and budgets count all. A mark is no charge:
    #: it says how far its source is complete.
    delta: Literal["new_usage", "late", "restatement", "mark"] = "new_usage"


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


#: How an intake report starts on the log: readers of raw records pass over it.
INTAKE_REPORT = b'{"type":"intake"'


class IntakeReport(Record, tag="intake", tag_field="type", kw_only=True):
    """What a connector received and did not append as records; in a message of its own on `curb.usage`."""

    source: str
    #: When it was received.
    at: float
    #: Events refused, by the reason of their dead letters.
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    #: Events that are no usage, by name, such as the spans of other libraries.
    ignored: dict[str, int] = msgspec.field(default_factory=dict)
    #: Records dated ahead of their receipt, which count at the receipt, and the most they were ahead in seconds.
    skewed: int = 0
    skew_s: float = 0.0


# --- curb.spend ---------------------------------------------------------------------------------------------------


class SpendSums(Record, kw_only=True):
    """Sums of one series in one bucket; those of one kind add up."""

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
    #: The part of `effective_cost` that is no usage, by part of a bill (`ChargePart`).
    charges: dict[str, float] = msgspec.field(default_factory=dict)
    #: Requests that ended well and reported neither tokens nor a cost.
    unmetered: int = 0
    #: Of the errors, those that a limit of the gateway refused.
    refused: int = 0
    #: The latest receipt when it was written; 0 in records of before this field.
    received_at: float = 0.0
    #: Seconds from `bucket_start` that the sum covers, where that is more than its bucket: spend of the past.
    covers_s: int = 0


class Slots(msgspec.Struct, array_like=True, gc=False):
    """A sum that spans several slots of the fast lane, by slot; lists of one length."""

    #: Seconds from the start of the bucket to the start of each.
    starts: list[int]
    #: Requests without those that a limit of the gateway refused.
    requests: list[int]
    effective_cost: list[float]
    users: list[int]
    #: The latest receipt of each.
    received_at: list[float]


class SpendPartial(SpendSums, tag="partial", tag_field="type", kw_only=True):
    """A part of the sum of one series in one event-time bucket."""

    #: Counts in totals and budgets only; a `SpendScored` stands for it where spend is judged.
    counted_only: bool = False
    #: Seconds from the start of the bucket to the start of the slot that the fast lane judges; -1: it judges none.
    slot: int = -1
    #: Where it spans several slots; `slot` is -1 then.
    slots: Slots | None = None
    #: The newest calls of the principal in the bucket, where they have loop prints; the sums beside them are 0.
    calls: list[LoopCall] = msgspec.field(default_factory=list)


class SpendScored(SpendSums, tag="scored", tag_field="type", kw_only=True):
    """What is judged in one bucket of spend that happened earlier: its source reports late. It adds to no total."""


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
    #: When that was known, where it is not `at`: a bill is read long after what it is about.
    known_at: float = 0.0
    #: How many inputs there are of this kind, all of which time waits for; 0 where each is waited for from its first
    #: tick on.
    inputs: int = 0


#: What dollars of a bill are: those that a commitment pays for, or could pay for; and what may be wasted. Of starts of
#: spot machines it is their number.
BillUse = Literal[
    "used",
    "unused",
    "on_demand",
    "storage",
    "reads",
    "volumes",
    "snapshots",
    "machines",
    "spot",
    "spot_starts",
]


class BillPart(Record, tag="bill_part", tag_field="type", kw_only=True):
    """Dollars of a bill by what they are, in messages of their own; those of one time add up."""

    source: str
    use: BillUse
    provider: str
    account: str
    service: str
    region: str = ""
    start: int
    seconds: int
    effective_cost: float


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


class SourceTally(Record, tag="source_tally", tag_field="type", kw_only=True):
    """What became of the records of a source that one input received within an hour; tallies of an hour add up.

    Received is what was counted, what was refused and what was a duplicate; scored is what was counted and not missed.
    """

    source: str
    #: Start of the hour of receipt.
    hour: int
    kind: Literal["usage", "costs", "gpu"] = "usage"
    #: The latest receipt.
    last_at: float = 0.0
    counted: int = 0
    counted_usd: float = 0.0
    #: Counted, and scored later than its bucket closed: by the usual delay of its source, or in the windows still open.
    late: int = 0
    late_usd: float = 0.0
    #: Counted, and too late to be scored; a record that covers a time may be missed in part.
    missed: float = 0.0
    missed_usd: float = 0.0
    duplicates: int = 0
    duplicate_usd: float = 0.0
    #: By the reason of their dead letters; dollars where they could be read.
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    refused_usd: float = 0.0
    #: Events that are no usage, by name.
    ignored: dict[str, int] = msgspec.field(default_factory=dict)
    #: Counted, at the price of models that no price book knows.
    fallback: int = 0
    fallback_usd: float = 0.0
    #: Requests that ended well and reported neither tokens nor a cost.
    unmetered: int = 0
    #: Records dated ahead of their receipt, and the most they were ahead in seconds.
    skewed: int = 0
    skew_s: float = 0.0
    #: The delay by which the source is scored later now, seconds.
    delay_s: float = 0.0


class ScopeTally(Record, tag="scope_tally", tag_field="type", kw_only=True):
    """Records and dollars of one scope and hour of receipt that no series of their own shows; tallies add up."""

    scope: str
    #: Start of the hour of receipt.
    hour: int
    #: In `__other__`: folded by the cardinality guard.
    folded: int = 0
    folded_usd: float = 0.0
    #: The largest of what is folded: the values of its tags, and dollars, at most, since the process began.
    largest: list[tuple[str, float]] = msgspec.field(default_factory=list)
    #: In a series that lacks a tag of the scope.
    untagged: int = 0
    untagged_usd: float = 0.0


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

#: What became of records, beside the sums of them.
Tally = SourceTally | ScopeTally

SpendMessage = SpendPartial | SpendScored | SpendTick | PricingHole | Tally | Knowledge


# --- curb.alerts --------------------------------------------------------------------------------------------------

#: A soft alert only asks for a soft cap: it ends by itself, and people read of it in the digest.
Tier = Literal["page", "notice", "digest", "soft"]
#: Order of tiers, the most urgent highest.
TIER_RANK: dict[Tier, int] = {"soft": -1, "digest": 0, "notice": 1, "page": 2}
AlertKind = Literal[
    "runaway", "abusive", "unit_cost", "idle", "growth", "budget", "pricing", "feed", "ceiling", "commitment", "waste"
]


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
    #: What calls without usage are estimated at; not in `spent_usd`, and counted for the thresholds of hard caps.
    estimated_usd: float = 0.0
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

    @property
    def counted_usd(self) -> float:
        """What counts for the thresholds."""
        return self.spent_usd + (self.estimated_usd if self.hard else 0.0)


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
    #: When its tier rose, for alerts on budgets: people and ladders wait from then on. None: since `fired_at`.
    tier_since: float | None = None
    #: Estimated begin of the excess; `*_usd` below count from here to `updated_at`. For a budget they are the amount,
    #: what was spent, and what of it is over the amount.
    started_at: float
    expected_usd: float
    actual_usd: float
    excess_usd: float
    #: Current burn (5-minute average) and what is expected now.
    usd_per_hour: float
    expected_usd_per_hour: float
    #: Requests per minute now (5-minute average); None for series without requests.
    requests_per_minute: float | None = None
    #: Requests that failed or were refused since `started_at`; None where nobody counts them.
    failed_requests: float | None = None
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
    kind: Literal["halt", "resume", "undo", "leave", "extend", "approve", "deny", "snooze", "propose"]
    at: float
    by: str
    #: For undo, leave, extend, approve and deny: {"action_id": ...}; for halt: {"reason": ...}; for snooze:
    #: {"alert_id": ..., "until": ...}, in seconds since the Unix epoch; for propose: {"alert_id": ..., "action": ...,
    #: "reason": ...}.
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
    #: How many like it this one stands for.
    count: int = 1
