"""Records of a batch → messages on the right topic and partition, several records a message."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from curb.connectors.connector import Batch
from curb.connectors.intake.attribution import Attribution
from curb.connectors.validate import DEFAULT_LIMITS, IntakeLimits, validate
from curb.stream import metrics
from curb.stream.log.codec import encode, encode_lines
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import ALERTS, COSTS, GPU, USAGE
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import CostRecord, DeadLetter, GpuRecord, IntakeReport, SpendRecord

RECORDS_PER_MESSAGE = 500
#: Brokers refuse messages above 1 MB by default; a message of more records than one stays below this.
MESSAGE_BYTES = 512 * 1024
#: Records that are checked before others have a turn of the loop. By hand: some milliseconds.
_CHECKED_AT_ONCE = 250
_LETTER = msgspec.json.Decoder(DeadLetter)


class Appended(NamedTuple):
    """How many records are on the log and how many dead letters beside them."""

    accepted: int
    dead: int
    #: The dead letters.
    letters: Sequence[Message] = ()
    #: Records dated by their receipt because they were dated ahead of it, and the most they were ahead.
    skewed: int = 0
    skew_s: float = 0.0
    #: The latest begin of an accepted charge, epoch seconds; None without one.
    newest: float | None = None
    #: What the sender should look at although it is kept.
    warnings: Sequence[str] = ()


async def append_batch(
    log: Log,
    batch: Batch,
    *,
    source: str,
    at: float,
    limits: IntakeLimits = DEFAULT_LIMITS,
    attribution: Attribution | None = None,
    marked: float | None = None,
) -> Appended:
    """Let the batch through the door, attribute it and append it: records, plans, dead letters and alerts in one call,
    and a report of what was refused, ignored or dated ahead.

    What attribution must remember is appended before. A batch that brings a bill to its end is followed by a mark of
    how far it is complete, unless that is `marked` already. Returns after the append did. Raises TransientError while
    the log cannot be reached.
    """
    batch = await _validated(batch, source, at, limits)
    records = batch.records
    if attribution is not None and records:
        records, before = attribution.apply(records, source=source, at=at)
        if before:
            await log.append(before)
            attribution.appended(before)
    plans = [knowledge_message(plan) for plan in batch.plans]
    alerts = [Message(ALERTS, encode(alert), key=alert.fingerprint.encode()) for alert in batch.alerts]
    messages = [*plans, *record_messages(records, source=source, log=log), *batch.dead, *alerts]
    refused = _refused(batch.dead)
    report = IntakeReport(
        source=source, at=at, refused=refused, ignored=dict(batch.ignored), skewed=batch.skewed, skew_s=batch.skew_s
    )
    messages += report_messages(report, log)
    if batch.complete_until is not None and not batch.more and batch.complete_until != marked:
        messages += mark_messages(batch.complete_until, source=source, at=at, log=log)
    if messages:
        await log.append(messages)
    for alert in batch.alerts:
        if alert.revision == 1:
            metrics.ALERTS.labels(kind=alert.kind, tier=alert.tier).inc()
    dead = refused.total()
    newest = max((record.charge_period_start for record in batch.records), default=None)
    return Appended(
        len(batch.records) + len(plans), dead, batch.dead, batch.skewed, batch.skew_s, newest, batch.warnings
    )


async def _validated(batch: Batch, source: str, at: float, limits: IntakeLimits) -> Batch:
    """What `validate` makes of the batch; others have their turns in between."""
    count = len(batch.records)
    if count <= _CHECKED_AT_ONCE:
        return validate(batch, source=source, at=at, limits=limits)
    where = batch.locations or [f"{source}#{index}" for index in range(count)]
    records: list[SpendRecord] = []
    locations: list[str] = []
    dead, skewed, skew_s = list(batch.dead), 0, 0.0
    for start in range(0, count, _CHECKED_AT_ONCE):
        end = start + _CHECKED_AT_ONCE
        part = batch._replace(records=batch.records[start:end], locations=where[start:end], dead=[])
        part = validate(part, source=source, at=at, limits=limits)
        records += part.records
        locations += part.locations
        dead += part.dead
        skewed, skew_s = skewed + part.skewed, max(skew_s, part.skew_s)
        await asyncio.sleep(0)
    return batch._replace(records=records, locations=locations, dead=dead, skewed=skewed, skew_s=skew_s)


def report_messages(report: IntakeReport, log: Log) -> list[Message]:
    """The report as a message for the rollup; none where everything became a record."""
    if not (report.refused or report.ignored or report.skewed):
        return []
    key = report.source.encode()
    return [Message(USAGE, encode(report), key=key, partition=zlib.crc32(key) % log.partitions(USAGE))]


def letters_report(letters: Sequence[Message], *, source: str, at: float) -> IntakeReport:
    """The report of a request that was refused as a whole."""
    return IntakeReport(source=source, at=at, refused=_refused(letters))


def _refused(letters: Sequence[Message]) -> Counter[str]:
    """Refused events by reason."""
    found: Counter[str] = Counter()
    for letter in map(_LETTER.decode, (each.value for each in letters)):
        found[letter.reason] += letter.count
    return found


def record_messages(records: Sequence[SpendRecord], *, source: str, log: Log) -> list[Message]:
    """The records as messages. The id decides the partition, so a repeated id meets its first at the same reader."""
    shards: dict[tuple[str, int], list[SpendRecord]] = defaultdict(list)
    partitions = {topic: log.partitions(topic) for topic in (USAGE, COSTS, GPU)}
    for record in records:
        topic = topic_of(record)
        shards[topic, zlib.crc32(record.id.encode()) % partitions[topic]].append(record)
    key = source.encode()
    return [
        Message(topic, value, key=key, partition=partition)
        for (topic, partition), shard in shards.items()
        for start in range(0, len(shard), RECORDS_PER_MESSAGE)
        for value in _values(shard[start : start + RECORDS_PER_MESSAGE])
    ]


def mark(until: float, *, source: str, at: float) -> CostRecord:
    """What says that all that was charged until then (epoch seconds) is known."""
    return CostRecord(
        id=f"{source}/complete/{until:.0f}",
        charge_period_start=until,
        received_at=at,
        effective_cost=0.0,
        tags={},
        source=source,
        delta="mark",
        complete_until=until,
    )


def mark_messages(until: float, *, source: str, at: float, log: Log) -> list[Message]:
    """To every partition of the bills: what was charged until then (epoch seconds) is on the log."""
    value, key = encode_lines([mark(until, source=source, at=at)]), source.encode()
    return [Message(COSTS, value, key=key, partition=each) for each in range(log.partitions(COSTS))]


def topic_of(record: SpendRecord) -> str:
    """The raw topic of the record's type."""
    if isinstance(record, GpuRecord):
        return GPU
    return COSTS if isinstance(record, CostRecord) else USAGE


def _values(records: list[SpendRecord]) -> Iterator[bytes]:
    value = encode_lines(records)
    if len(value) <= MESSAGE_BYTES or len(records) == 1:
        yield value
        return
    half = len(records) // 2
    yield from _values(records[:half])
    yield from _values(records[half:])
