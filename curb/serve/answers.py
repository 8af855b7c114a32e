"""The answers of the API that are no records of the log, as types: their schemas are in /openapi.json."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from curb.stream.records.spend import Alert, LedgerEntry


class HealthAnswer(TypedDict):
    """Whether the daemon's loop goes round, and for how many seconds it has stood still; 503 from ten seconds on."""

    ok: bool
    stalled_s: float


class ReadyAnswer(TypedDict):
    """Whether everything on the log was read once and what is sent is counted in time; `connectors` says when each
    last brought something.
    """

    ready: bool
    rollup: NotRequired[bool]
    detector: NotRequired[bool]
    #: Why the log cannot be read or written now, such as a full disk; empty while it can.
    log: str
    #: Seconds that each worker is behind.
    lag_s: NotRequired[dict[str, float]]
    connectors: dict[str, str | None]


class SeriesAnswer(TypedDict):
    """One series now; rates are averages of 5 minutes."""

    scope: str
    tags: dict[str, str]
    usd_per_hour: float
    expected_usd_per_hour: float
    today_usd: float
    total_usd: float


class SpendAnswer(TypedDict):
    """The series of a scope that burn most."""

    scope: str
    series: list[SeriesAnswer]


class BudgetAnswer(TypedDict):
    """A row of a budget: its subject and where it stands."""

    tags: dict[str, str]
    name: str
    period: str
    period_start: float
    period_end: float
    amount_usd: float
    spent_usd: float
    threshold: float
    estimated_usd: NotRequired[float]
    id: NotRequired[str]
    parent_id: NotRequired[str | None]
    scope: NotRequired[str]
    counted_from: NotRequired[float]
    hard: NotRequired[bool]
    amount: NotRequired[float | None]
    currency: NotRequired[str]
    carried_usd: NotRequired[float]
    expanded_usd: NotRequired[float]
    increased_usd: NotRequired[float]
    spent_in_parent_usd: NotRequired[float | None]
    usd_per_hour: NotRequired[float | None]
    forecast_usd: NotRequired[float | None]
    forecast_low_usd: NotRequired[float | None]
    forecast_high_usd: NotRequired[float | None]
    breach_at: NotRequired[float | None]
    breach_probability: NotRequired[float | None]
    v: NotRequired[int]


class BudgetsAnswer(TypedDict):
    """Every budget row that this process counts."""

    budgets: list[BudgetAnswer]


class FeedAnswer(TypedDict):
    """What became of the records of a source, by outcome."""

    source: str
    kind: str
    last_at: str | None
    delay_s: float
    this_hour: dict[str, Any]
    last_24_h: dict[str, Any]
    problems: list[str]


class ScopeAnswer(TypedDict):
    """Dollars of a scope in the last 24 hours that no series of their own shows."""

    scope: str
    usd: float
    folded: int
    folded_usd: float
    untagged_usd: float
    problems: list[str]


class JudgedAnswer(TypedDict):
    """Something that is judged, and the seconds until there is enough history for it."""

    what: str
    in_s: float


class WatchedAnswer(TypedDict):
    """A series far over its expected burn, and why it is no alert yet."""

    scope: str
    tags: dict[str, str]
    usd_per_hour: float
    expected_usd_per_hour: float
    why: str


class NextStepAnswer(TypedDict):
    """One thing to do, and the command or the address for it; "" where there is none."""

    what: str
    command: str


class StatusAnswer(TypedDict):
    """How Curb is doing. Leases and proposals are ledger entries, with `applied_at`.

    Of each budget it has the 100 rows with the largest share spent.
    """

    instance: str
    now: str
    event_time: str | None
    ready: bool
    mode: Literal["shadow", "approve", "auto"]
    halted: bool
    halted_by: str
    series: int
    #: Empty once there is spend.
    next_steps: list[NextStepAnswer]
    #: Seconds until the first spend is summed, once it has come; null before and after.
    first_bucket_in_s: float | None
    threshold_rise: dict[str, float]
    connectors: dict[str, str | None]
    notes: dict[str, list[str]]
    #: Of the last day.
    refused_posts: list[RefusedPostAnswer]
    feeds: list[FeedAnswer]
    scopes: list[ScopeAnswer]
    judged: list[JudgedAnswer]
    watching: list[WatchedAnswer]
    top: list[SeriesAnswer]
    budgets: list[BudgetAnswer]
    firing: int
    leases: list[dict[str, Any]]
    proposed: list[dict[str, Any]]
    ceilings: int
    problems: dict[str, str]


class RefusedPostAnswer(TypedDict):
    """Posts to one path that were refused for one reason; `says` is a sentence for people."""

    path: str
    why: Literal["unknown_path", "no_token", "wrong_token"]
    count: int
    last_at: str
    says: str


class AlertAnswer(TypedDict):
    """The newest revision of an alert, and every entry of its actions."""

    alert: Alert
    actions: list[LedgerEntry]
    #: Names of actions that may be proposed for it now, see `POST /v1/proposals`.
    may_propose: list[str]


class ForecastAnswer(TypedDict):
    """Month ends and budget periods of the series that spend most, as `curb forecast --json` shows them."""

    scope: str
    at: str
    rows: list[dict[str, Any]]


class ConnectorAnswer(TypedDict):
    """One connector: when it last brought something, and what is wrong."""

    name: str
    kind: str
    last_heard: str | None
    lag_s: float | None
    newest_charge: str | None
    records: int
    dead_letters: int
    errors: dict[str, int]
    last_error: str | None
    last_error_at: str | None
    notes: list[str]
    this_hour: dict[str, Any] | None
    last_24_h: dict[str, Any] | None
    delay_s: float | None
    problems: list[str]
    cursor: Any
    way: str | None


class ConnectorsAnswer(TypedDict):
    """Every connector of this process, and posts of the last day that reached none."""

    connectors: list[ConnectorAnswer]
    refused_posts: list[RefusedPostAnswer]


class UnitRowAnswer(TypedDict):
    """Dollars and units of one value of the tags."""

    tags: dict[str, str]
    total_usd: float
    units: float
    usd_per_unit: float | None


class UnitCostAnswer(TypedDict):
    """One configured unit cost, most dollars first."""

    by: list[str]
    unit: str
    rows: list[UnitRowAnswer]


class UnitCostsAnswer(TypedDict):
    """Unit costs over the last 24 hours."""

    unit_costs: list[UnitCostAnswer]


class ReconciliationAnswer(TypedDict):
    """Estimated against billed dollars by pair of sources, with the expected bill."""

    pairs: list[dict[str, Any]]


class AcceptedAnswer(TypedDict):
    """It is on the log, under this id."""

    id: str
    warning: NotRequired[str]


class IngestAnswer(TypedDict):
    """How many events are on the log, and how many were refused. OTLP is answered in its own form."""

    accepted: int
    dead: int
    #: What the sender should look at although it counts: a clock that is off, a line without cost.
    warnings: NotRequired[list[str]]


class CommandInput(msgspec.Struct):
    """A request by a person. `args` are those of the kind: `action_id`, `alert_id`, `until`, `reason`."""

    kind: Literal["halt", "resume", "undo", "leave", "extend", "approve", "deny", "snooze", "propose"]
    by: str = "api"
    args: dict[str, str] = {}


class ProposalInput(msgspec.Struct):
    """An action of the alert's routes that people should be asked for, and why."""

    alert_id: str
    action: str
    reason: str = ""


class Problem(TypedDict):
    """What went wrong (RFC 9457). `error` repeats `detail`."""

    type: str
    title: str
    status: int
    detail: str
    error: str
