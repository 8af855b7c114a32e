"""Raw records as the rollup reads them: only the fields it sums, with tags left as bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.dedupe import DedupeSettings
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.base import Version
from curb.stream.records.dead_letters import Reason, dead_letter, reason_for
from curb.stream.records.loops import LoopPrint
from curb.stream.records.spend import INTAKE_REPORT, PART_OF_KIND, IntakeReport

#: Epoch seconds. A later time of receipt (the year 2096) is an error; if used, no series could advance any more.
LATEST_TIME = 4_000_000_000.0
#: Epoch seconds of the year 2000; an earlier charge is an error.
EARLIEST_TIME = 946_684_800.0
#: The part of a bill by kind of charge, and by category for records that say no kind: a record leaves "usage" out.
_PART_OF: dict[str, str] = {kind: part for kind, part in PART_OF_KIND.items() if kind != "usage"}
_PART_OF_CATEGORY = {"Purchase": "purchases", "Tax": "tax", "Credit": "credits", "Adjustment": "credits"}
#: `delta` of a record that charges nothing and says how far its source is complete.
MARK = "mark"

#: Exact in float64, and in a sum of millions.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Moment = Annotated[float, msgspec.Meta(ge=0, le=LATEST_TIME)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=LATEST_TIME)]


class FastSettings(Protocol):
    """What the rollup reads of the settings of the fast lane."""

    @property
    def enabled(self) -> bool: ...


class RollupSettings(Protocol):
    """The keys of the detector's configuration that the rollup reads."""

    @property
    def bucket_s(self) -> int: ...
    @property
    def phase_s(self) -> int: ...
    @property
    def buckets(self) -> tuple[int, int]: ...
    @property
    def grace_s(self) -> float: ...
    @property
    def max_age_days(self) -> float: ...
    @property
    def max_delay_s(self) -> float: ...
    @property
    def max_future_s(self) -> float: ...
    @property
    def scopes(self) -> Sequence[Scope]: ...
    @property
    def dedupe(self) -> DedupeSettings: ...
    @property
    def guard(self) -> GuardSettings: ...
    @property
    def fast(self) -> FastSettings: ...
    @property
    def names(self) -> Mapping[str, str]: ...


class HotRecord(msgspec.Struct, gc=False):
    """See `stream.records.SpendRecord`; unknown fields are skipped without being built.

    Fields are in the order in which records are written: the decoder finds each where it looks first.
    """

    id: str
    charge_period_start: float
    received_at: float
    effective_cost: float
    tags: msgspec.Raw
    source: str = ""
    #: Empty when the record leaves it out, which stands for "reported".
    cost_source: str = ""
    request_model: str = ""
    requests: _Count = 0
    errors: _Count = 0
    users: _Count = 0
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    refused: _Count = 0
    gpu_utilization: float | None = None
    memory_used: float | None = None
    gpu_seconds: float = 0.0
    charge_period_end: float = 0.0
    backfilled: bool = False
    loop: LoopPrint | None = None
    v: Version = 1


class HotCost(HotRecord, gc=False):
    """See `stream.records.CostRecord`."""

    #: Empty when the record leaves them out, which stands for "Usage" and "new_usage".
    charge_category: str = ""
    delta: str = ""
    charge_kind: str = ""
    commitment_discount_status: str = ""
    usage_type: str = ""
    resource_id: str = ""
    charge_period_end: float = 0.0
    complete_until: float | None = None

    @property
    def scored(self) -> bool:
        """True when the dollars can raise an alert."""
        return self.charge_category in ("", "Usage") and self.delta in ("", "new_usage")

    @property
    def part(self) -> str:
        """What part of a bill it is, a `ChargePart`."""
        return _PART_OF.get(self.charge_kind) or _PART_OF_CATEGORY.get(self.charge_category, "usage")


def read(
    message: Message,
    received_at: float,
    kind: type[HotRecord] = HotRecord,
    on_refused: Callable[[Message, Reason], object] = lambda *_: None,
) -> tuple[list[HotRecord], list[Message]]:
    """The records of a message, and a dead letter (dated `received_at`) for each unreadable line."""
    letters: list[Message] = []

    def on_bad(number: int, line: bytes, why: str) -> None:
        reason = _reason(why)
        letters.append(letter(message, reason, why.split("\n", maxsplit=1)[0], number, line, received_at))
        on_refused(message, reason)

    return decode_lines(message.value, kind, on_bad), letters


class _Report(IntakeReport, tag="intake", tag_field="type", kw_only=True):
    """`stream.records.IntakeReport` with counts that can be added up."""

    at: _Moment
    refused: dict[str, _Count] = msgspec.field(default_factory=dict)
    ignored: dict[str, _Count] = msgspec.field(default_factory=dict)
    skewed: _Count = 0
    skew_s: _Seconds = 0.0


def read_intake(message: Message, received_at: float) -> tuple[list[_Report], list[Message]]:
    """The reports of a message that holds nothing else, and a dead letter for each unreadable one; else nothing."""
    if not message.value.startswith(INTAKE_REPORT):
        return [], []
    letters: list[Message] = []

    def on_bad(number: int, line: bytes, why: str) -> None:
        letters.append(letter(message, _reason(why), why.split("\n", maxsplit=1)[0], number, line, received_at))

    return decode_lines(message.value, _Report, on_bad), letters


def letter(message: Message, reason: Reason, why: str, number: int, line: bytes, at: float) -> Message:
    """The dead letter for line `number` of `message`."""
    location = f"{message.topic}/{message.partition or 0}/{message.offset}#{number}"
    return dead_letter("rollup", reason, why, location=location, content=line, at=at)


def is_beyond(record: HotRecord) -> bool:
    """Whether a record was received at a time that nobody can mean."""
    return record.received_at > LATEST_TIME


def letter_for(message: Message, record: HotRecord, reason: Reason) -> Message:
    """The dead letter for a record that was read from `message` but cannot be counted."""
    wanted = msgspec.json.encode(record.id)
    lines = message.value.split(b"\n")
    number = next((at for at, line in enumerate(lines) if wanted in line), 0)
    return letter(message, reason, f"id {record.id[:64]!r}", number, lines[number], record.received_at)


def reason_against(record: HotRecord, billing: bool, settings: RollupSettings) -> Reason:
    """The reason why a record that failed the checks of a batch cannot be counted."""
    age_s = record.received_at - record.charge_period_start
    if age_s > settings.max_age_days * 86400 or record.charge_period_start < EARLIEST_TIME:
        return "too_old"
    if age_s < -settings.max_future_s:
        return "in_the_future"
    if record.effective_cost < 0 and not billing:
        return "negative_cost"
    return "not_finite"


def _reason(why: str) -> Reason:
    """The reason in msgspec's message, which has the same wording since 0.14."""
    unknown = reason_for(why)
    if unknown != "invalid":
        return unknown
    words: tuple[tuple[str, Reason], ...] = (
        ("missing required field", "missing_field"),
        ("Expected `int` ", "invalid"),
        ("Expected", "wrong_type"),
        ("out of range", "not_finite"),
        ("utf-8", "not_utf8"),
    )
    return next((reason for part, reason in words if part in why), "not_json")


def fill_metrics(rows: NDArray[np.float64], records: list[HotRecord]) -> None:
    """Fill rows with 1 per sample, its percent and its GiB; sums of them give the mean."""
    count = len(records)
    percent = np.fromiter([np.nan if r.gpu_utilization is None else r.gpu_utilization for r in records], float, count)
    memory = np.fromiter([r.memory_used or 0.0 for r in records], float, count)
    sampled = np.isfinite(percent) & np.isfinite(memory)
    rows[0] = sampled
    rows[1] = np.where(sampled, np.clip(percent, 0.0, 100.0), 0.0)
    rows[2] = np.where(sampled, np.maximum(memory, 0.0), 0.0)


def fill(row: NDArray[np.float64], counts: list[int]) -> None:
    """Fill a row; most sources leave most counts at zero, or at one request."""
    if counts.count(counts[0]) == len(counts):
        row[...] = counts[0]
    else:
        row[...] = np.fromiter(counts, np.int64, len(counts))
