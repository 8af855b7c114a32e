"""Records of a batch → messages on the right topic and partition, several records a message."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from curb.connectors.connector import Batch
from curb.connectors.intake.attribution import Attribution
from curb.connectors.intake.validate import DEFAULT_LIMITS, IntakeLimits, validate
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import CostRecord, GpuRecord, SpendRecord

RECORDS_PER_MESSAGE = 500
#: Brokers refuse messages above 1 MB by default; a message of more records than one stays below this.
MESSAGE_BYTES = 512 * 1024


class Appended(NamedTuple):
    """How many records are on the log and how many dead letters beside them."""

    accepted: int
    dead: int


async def append_batch(
    log: Log,
    batch: Batch,
    *,
    source: str,
    at: float,
    limits: IntakeLimits = DEFAULT_LIMITS,
    attribution: Attribution | None = None,
) -> Appended:
    """Let the batch through the door, attribute it and append it: records, plans and dead letters in one call.

    What attribution must remember is appended before. Returns after the append did. Raises TransientError while the log
    cannot be reached.
    """
    batch = validate(batch, source=source, at=at, limits=limits)
    records = batch.records
    if attribution is not None and records:
        records, before = attribution.apply(records, source=source, at=at)
        if before:
            await log.append(before)
            attribution.appended(before)
    plans = [knowledge_message(plan) for plan in batch.plans]
    messages = [*plans, *record_messages(records, source=source, log=log), *batch.dead]
    if messages:
        await log.append(messages)
    return Appended(len(batch.records) + len(plans), len(batch.dead))


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
