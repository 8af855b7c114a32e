"""Sums the charges on the log, each once: per values of the tags, per day, per budget, and per line of an export.

A charge counts on the local day on which it starts, whenever it was received. What the rollup refuses is left out, so
that the totals are those of `curb spend`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from curb.connectors.intake.shares import SharedCost
from curb.detector.budgets.budget import Budget
from curb.detector.budgets.rows import matches, subject
from curb.detector.rollup.dedupe import RecentIds
from curb.detector.rollup.raw_records import EARLIEST_TIME, LATEST_TIME, MARK
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Source
from curb.report.shared import Part, SharedPool
from curb.report.span import ReportSpan
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import (
    INTAKE_REPORT,
    UNTAGGED,
    CostRecord,
    GpuRecord,
    SpendRecord,
    UsageRecord,
)
from curb.stream.time import DAY_S, period_around

#: Which dollars are the spend of a report: estimated from usage and GPUs, billed by a vendor, or the two added up.
Money = Literal["estimated", "billed", "both"]
#: Topic → the word for its records, and their schema.
_KINDS: tuple[tuple[str, Source, type[SpendRecord]], ...] = (
    (USAGE, "usage", UsageRecord),
    (GPU, "gpu", GpuRecord),
    (COSTS, "costs", CostRecord),
)
#: Names beside tags by which spend can be reported: the fields of a record that say the same where no tag does.
_FIELDS: dict[str, tuple[str, ...]] = {
    "model": ("request_model",),
    "provider": ("provider_name",),
    "service": ("service_name",),
    "account": ("sub_account_id",),
    "region": ("region_id",),
    "resource": ("resource_id",),
    "source": ("source",),
}
#: Dollars of one sum that are kept apart until they are added exactly: bounds the memory of a sum to 8 kB. By hand.
_PARTS = 1000
#: Seconds. The edges of days in every time zone lie on quarters of an hour.
_QUARTER_S = 900

Tags = tuple[tuple[str, str], ...]


class Dollars:
    """A sum without the rounding of its steps."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, usd: float) -> None:
        """Count dollars."""
        self._parts.append(usd)
        if len(self._parts) > _PARTS:
            self._parts = [math.fsum(self._parts)]

    @property
    def usd(self) -> float:
        return math.fsum(self._parts)


class GroupSums:
    """What one group of charges came to in one span."""

    __slots__ = (
        "billed", "estimated", "input_tokens", "metered", "output_tokens", "requests", "shared", "shared_billed",
        "tokens_metered",
    )  # fmt: skip

    def __init__(self) -> None:
        self.estimated, self.billed = Dollars(), Dollars()
        #: Of these, the parts of shared costs.
        self.shared, self.shared_billed = Dollars(), Dollars()
        #: Dollars of charges that count requests, and of those that count tokens: what units are divided into.
        self.metered, self.tokens_metered = Dollars(), Dollars()
        self.requests = self.input_tokens = self.output_tokens = 0

    def add(self, kind: Source, record: SpendRecord, *, shared: bool = False) -> None:
        """Count a charge, or a part of a shared charge."""
        usd = record.effective_cost
        (self.billed if kind == "costs" else self.estimated).add(usd)
        if shared:
            (self.shared_billed if kind == "costs" else self.shared).add(usd)
        if kind != "usage":
            return
        if record.requests:
            self.metered.add(usd)
            self.requests += record.requests
        if record.input_tokens or record.output_tokens:
            self.tokens_metered.add(usd)
            self.input_tokens += record.input_tokens
            self.output_tokens += record.output_tokens

    def spend(self, money: Money) -> float:
        """Dollars of the chosen kind."""
        if money == "both":
            return math.fsum((self.estimated.usd, self.billed.usd))
        return self.billed.usd if money == "billed" else self.estimated.usd

    def shared_usd(self, money: Money) -> float:
        """Of these, the parts of shared costs."""
        if money == "both":
            return math.fsum((self.shared.usd, self.shared_billed.usd))
        return self.shared_billed.usd if money == "billed" else self.shared.usd

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class LineKey(NamedTuple):
    """What the charges of one line of an export have in common."""

    day: date
    kind: Source
    provider: str
    service: str
    source: str
    category: str
    frequency: str
    account: str
    region: str
    model: str
    tags: Tags
    #: Name of the rule that divided a shared cost; empty for what is nobody else's.
    shared_by: str = ""


class LineSums:
    """The amounts of one line of an export; `quantity` is tokens, else requests, GPU seconds or charges."""

    __slots__ = ("billed", "charges", "effective", "gpu_seconds", "requests", "tokens")

    def __init__(self) -> None:
        self.effective, self.billed = Dollars(), Dollars()
        self.tokens = self.requests = self.charges = 0
        self.gpu_seconds = 0.0

    def add(self, record: SpendRecord) -> None:
        """Count a charge."""
        self.effective.add(record.effective_cost)
        self.billed.add(record.billed_cost if isinstance(record, CostRecord) else record.effective_cost)
        self.tokens += record.input_tokens + record.output_tokens
        self.requests += record.requests
        self.charges += 1
        if isinstance(record, GpuRecord):
            self.gpu_seconds += record.gpu_seconds


class BudgetPeriods:
    """Dollars of every budget in its own periods: those that end within a span, else the running one."""

    def __init__(self, detector: DetectorSettings, span: ReportSpan) -> None:
        self._scopes = {scope.name: scope for scope in detector.scopes}
        self.budgets = detector.budgets
        self.windows = [self._windows(budget, detector.time_zone, span) for budget in detector.budgets]
        #: (number of the budget, number of the window, tags of the subject) → dollars.
        self.sums: dict[tuple[int, int, Tags], Dollars] = defaultdict(Dollars)
        self._subjects: dict[tuple[Source, Tags], list[tuple[int, Tags]]] = {}
        #: Whose a budget is, by the identifying tag: a key that moved to another team keeps its budget.
        self._known: dict[tuple[int, Tags], Tags] = {}
        self.start = min((start for windows in self.windows for start, _ in windows), default=math.inf)

    @staticmethod
    def _windows(budget: Budget, zone: str, span: ReportSpan) -> list[tuple[float, float]]:
        zone_of = ZoneInfo(budget.time_zone or zone)
        found, at = [], span.start
        while at < span.end:
            found.append(period_around(at, budget.period, zone_of, budget.length_days, budget.anchor))
            at = found[-1][1]
        return [window for window in found if window[1] <= span.end] or found[-1:]

    def add(self, kind: Source, record: SpendRecord, tags: Tags, until: float) -> None:
        """Count a charge that starts before `until` (epoch seconds, the end of the span)."""
        at = record.charge_period_start
        if not self.start <= at < until:
            return
        subjects = self._subjects.get((kind, tags))
        if subjects is None:
            subjects = self._subjects[kind, tags] = list(self._of(kind, record.tags))
        for number, who in subjects:
            for place, (start, end) in enumerate(self.windows[number]):
                if start <= at < end:
                    self.sums[number, place, who].add(record.effective_cost)

    def _of(self, kind: Source, tags: Mapping[str, str]) -> Iterable[tuple[int, Tags]]:
        for number, budget in enumerate(self.budgets):
            scope = self._scopes[budget.scope]
            if kind not in scope.sources:
                continue
            series = scope.series(tags)
            if not matches(budget.match, dict(series)):
                continue
            if budget.shared:
                yield number, tuple(subject(budget, dict(series)).items())
            else:
                yield number, self._known.setdefault((number, series[scope.attributes :]), series)


class Charges:
    """Everything that is summed of the charges in a span, and in the one before."""

    def __init__(
        self,
        span: ReportSpan,
        by: Sequence[str],
        detector: DetectorSettings,
        shared: Sequence[SharedCost] = (),
        *,
        lines: bool,
    ) -> None:
        self.span, self.before, self.by = span, span.before, tuple(by)
        self.now: dict[tuple[str, ...], GroupSums] = defaultdict(GroupSums)
        self.then: dict[tuple[str, ...], GroupSums] = defaultdict(GroupSums)
        self.total, self.total_then = GroupSums(), GroupSums()
        self.days: dict[date, GroupSums] = defaultdict(GroupSums)
        self.budgets = BudgetPeriods(detector, span)
        self.lines: dict[LineKey, LineSums] | None = defaultdict(LineSums) if lines else None
        #: Dollars received after the span was over, and dollars of credits and corrections, by the kind of money.
        self.late = GroupSums()
        self.negative = GroupSums()
        #: Start of the oldest charge on the log and end of the newest, epoch seconds; charges read twice; refused ones.
        self.oldest, self.newest = math.inf, -math.inf
        self.duplicates = self.refused = 0
        self.shared = SharedPool(shared)
        self._detector = detector
        self._day = lru_cache(4096)(lambda quarter: span.day_of(quarter * _QUARTER_S))
        #: One state of ids a topic: an id is unique within its source.
        self._ids = {kind: RecentIds.for_ever() for _, kind, _ in _KINDS}

    async def read(self, log: Log) -> Charges:
        """Take in every charge on an open log."""
        for topic, kind, schema in _KINDS:
            async for message in log.scan(topic):
                self.take(message, kind, schema)
        for part in self.shared.parts():
            self._give(part)
        return self

    def take(self, message: Message, kind: Source, schema: type[SpendRecord]) -> None:
        """Count the charges of a message."""
        if message.value.startswith(INTAKE_REPORT):
            return
        records = [each for each in decode_lines(message.value, schema, self._unreadable) if self._counts(each, kind)]
        start = min(self.before.start, self.budgets.start)
        wanted = [each for each in records if start <= each.charge_period_start < self.span.end]
        if not wanted:
            return
        fresh = self._ids[kind].first_seen([each.id for each in wanted])
        for at, record in enumerate(wanted):
            if fresh is None or fresh[at]:
                self._add(record, kind)
            else:
                self.duplicates += 1

    def _unreadable(self, *_: object) -> None:
        self.refused += 1

    def _counts(self, record: SpendRecord, kind: Source) -> bool:
        """Whether the rollup counts it."""
        if isinstance(record, CostRecord) and record.delta == MARK:
            return False
        start, received, settings = record.charge_period_start, record.received_at, self._detector
        # A bill may be read at any age, and may charge a time that is still to come.
        in_time = kind == "costs" or -settings.max_future_s <= received - start <= settings.max_age_days * DAY_S
        good = (
            math.isfinite(record.effective_cost)
            and (record.effective_cost >= 0 or kind == "costs")
            and EARLIEST_TIME <= start <= LATEST_TIME
            and received <= LATEST_TIME
            and in_time
        )
        if good:
            self.oldest = min(self.oldest, start)
            self.newest = max(self.newest, start, record.charge_period_end)
        else:
            self.refused += 1
        return good

    def _add(self, record: SpendRecord, kind: Source) -> None:
        tags = tuple(sorted(record.tags.items()))
        self.budgets.add(kind, record, tags, self.span.end)
        at = record.charge_period_start
        if at >= self.span.start:
            self._add_now(record, kind, tags)
        elif at >= self.before.start:
            self.total_then.add(kind, record)
            if not self.shared.takes(record, kind, "then", 0.0, self._sharers(record)):
                self.then[self._group(record)].add(kind, record)

    def _add_now(self, record: SpendRecord, kind: Source, tags: Tags) -> None:
        self.total.add(kind, record)
        day = self._day(int(record.charge_period_start) // _QUARTER_S)
        self.days[day].add(kind, record)
        if record.received_at >= self.span.end and not record.backfilled:
            self.late.add(kind, record)
        if record.effective_cost < 0:
            self.negative.add(kind, record)
        if not self.shared.takes(record, kind, "now", day.toordinal(), self._sharers(record)):
            self._count_own(record, kind, day, tags)

    def _count_own(self, record: SpendRecord, kind: Source, day: date, tags: Tags, shared_by: str = "") -> None:
        self.now[self._group(record)].add(kind, record, shared=bool(shared_by))
        if self.lines is not None:
            self.lines[_line_key(record, kind, day, tags)._replace(shared_by=shared_by)].add(record)

    def _give(self, part: Part) -> None:
        """Count a part of a shared cost in its group."""
        record = part.record
        if part.when == "then":
            self.then[self._group(record)].add(part.kind, record, shared=bool(part.rule))
            return
        if part.rule:
            (self.total.shared_billed if part.kind == "costs" else self.total.shared).add(record.effective_cost)
        day = self._day(int(record.charge_period_start) // _QUARTER_S)
        self._count_own(record, part.kind, day, tuple(sorted(record.tags.items())), part.rule)

    def _sharers(self, record: SpendRecord) -> list[tuple[str, ...]]:
        """Who a record's dollars are of, for each rule on shared costs."""
        return [tuple(value_of(record, tag) for tag in rule.tags) for rule in self.shared.rules]

    def _group(self, record: SpendRecord) -> tuple[str, ...]:
        return tuple(value_of(record, tag) for tag in self.by)


def value_of(record: SpendRecord, tag: str) -> str:
    """The value of a tag, of the field that says the same, or `UNTAGGED`."""
    found = record.tags.get(tag)
    if found:
        return found
    named = (getattr(record, field, "") for field in _FIELDS.get(tag, ()))
    return next((value for value in named if value), UNTAGGED)


def _line_key(record: SpendRecord, kind: Source, day: date, tags: Tags) -> LineKey:
    model = value_of(record, "model")
    service = value_of(record, "service") if kind == "costs" else model
    costs = isinstance(record, CostRecord)
    category, frequency = _focus_category(record)
    return LineKey(
        day=day,
        kind=kind,
        provider=value_of(record, "provider"),
        service="GPU" if kind == "gpu" and service == UNTAGGED else service,
        source=record.source,
        category=category,
        frequency=frequency,
        account=value_of(record, "account") if costs else UNTAGGED,
        region=value_of(record, "region"),
        model=model,
        tags=tuple((tag, value) for tag, value in tags if value != UNTAGGED),
    )


def _focus_category(record: SpendRecord) -> tuple[str, str]:
    """Category and frequency as FOCUS has them: a fee that recurs, and what a commitment did not use, are usage there;
    a purchase is paid for charges to come, and is no cost of its day."""
    if not isinstance(record, CostRecord) or record.charge_category == "Usage":
        return "Usage", "Usage-Based"
    if record.charge_category == "Purchase" and record.charge_kind in ("fee", "commitment"):
        return "Usage", "Recurring"
    return record.charge_category, "One-Time"
