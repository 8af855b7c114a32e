"""Raw records as the rollup reads them: only the fields it sums, with tags left as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from curb.detector.rollup.dedupe import DedupeSettings
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.dead_letters import Reason, dead_letter

#: Epoch seconds. A later time of receipt (the year 2096) is an error; if used, no series could advance any more.
LATEST_TIME = 4_000_000_000.0
#: Epoch seconds of the year 2000; an earlier charge is an error.
EARLIEST_TIME = 946_684_800.0

#: Exact in float64, and in a sum of millions.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class RollupSettings(Protocol):
    """The keys of the detector's configuration that the rollup reads."""

    @property
    def bucket_s(self) -> int: ...
    @property
    def grace_s(self) -> float: ...
    @property
    def max_age_days(self) -> float: ...
    @property
    def max_future_s(self) -> float: ...
    @property
    def scopes(self) -> Sequence[Scope]: ...
    @property
    def dedupe(self) -> DedupeSettings: ...
    @property
    def guard(self) -> GuardSettings: ...


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
    gpu_utilization: float | None = None
    memory_used: float | None = None
    gpu_seconds: float = 0.0


class HotCost(HotRecord, gc=False):
    """See `stream.records.CostRecord`."""

    #: Empty when the record leaves them out, which stands for "Usage" and "new_usage".
    charge_category: str = ""
    delta: str = ""

    @property
    def scored(self) -> bool:
        """True when the dollars can raise an alert."""
        return self.charge_category in ("", "Usage") and self.delta in ("", "new_usage")


def read(
    message: Message, received_at: float, kind: type[HotRecord] = HotRecord
) -> tuple[list[HotRecord], list[Message]]:
    """The records of a message, and a dead letter (dated `received_at`) for each unreadable line."""
    letters: list[Message] = []

    def on_bad(number: int, line: bytes, why: str) -> None:
        letters.append(letter(message, _reason(why), why.split("\n", maxsplit=1)[0], number, line, received_at))

    return decode_lines(message.value, kind, on_bad), letters


def letter(message: Message, reason: Reason, why: str, number: int, line: bytes, at: float) -> Message:
    """The dead letter for line `number` of `message`."""
    location = f"{message.topic}/{message.partition or 0}/{message.offset}#{number}"
    return dead_letter("rollup", reason, why, location=location, content=line, at=at)


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
    words: tuple[tuple[str, Reason], ...] = (
        ("missing required field", "missing_field"),
        ("Expected `int` ", "invalid"),
        ("Expected", "wrong_type"),
        ("out of range", "not_finite"),
        ("utf-8", "not_utf8"),
    )
    return next((reason for part, reason in words if part in why), "not_json")
