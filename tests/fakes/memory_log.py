"""A log in memory: topics, tables, groups with positions, and failures on demand."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import msgspec

from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log, Message, OnAssign, OnRevoke, Positions, Reader, TopicPartition
from curb.stream.log.topics import COSTS, DEAD_LETTER, GPU, TOPICS, USAGE
from curb.stream.records.spend import (
    INTAKE_REPORT,
    CostRecord,
    DeadLetter,
    GpuRecord,
    IntakeReport,
    SpendRecord,
    UsageRecord,
)

RAW_TYPES: dict[str, type[SpendRecord]] = {USAGE: UsageRecord, COSTS: CostRecord, GPU: GpuRecord}


class MemoryLog:
    """Keeps everything. Every group has one member at most, which owns all partitions of its topics.

    `fail_next` is how many of the next appends raise TransientError without writing; with `fail_after` they raise
    although everything was written (an answer that got lost).
    """

    def __init__(self, partitions: int = 4) -> None:
        self._partitions = partitions
        self.messages: dict[TopicPartition, list[Message]] = defaultdict(list)
        self.committed: dict[str, Positions] = defaultdict(dict)
        self.fail_next = 0
        self.fail_after = 0
        self._appended = asyncio.Condition()

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def partitions(self, topic: str) -> int:
        return self._partitions if TOPICS[topic].many else 1

    async def append(self, messages: Sequence[Message]) -> None:
        if self.fail_next > 0:
            self.fail_next -= 1
            raise TransientError("log away")
        self._write(messages)
        async with self._appended:
            self._appended.notify_all()
        if self.fail_after > 0:
            self.fail_after -= 1
            raise TransientError("answer lost")

    def _write(self, messages: Sequence[Message]) -> None:
        for message in messages:
            count = self.partitions(message.topic)
            partition = zlib.crc32(message.key) % count if message.partition is None else message.partition
            if not 0 <= partition < count:
                raise ValueError(f"{message.topic} has no partition {partition}")
            kept = self.messages[TopicPartition(message.topic, partition)]
            kept.append(message._replace(partition=partition, offset=len(kept)))

    async def table(self, topic: str) -> dict[bytes, bytes]:
        latest = {message.key: message.value for message in self.of(topic)}
        return {key: value for key, value in latest.items() if value}

    async def scan(self, topic: str, start: Positions | None = None) -> AsyncIterator[Message]:
        for message in self.of(topic):
            at = TopicPartition(topic, message.partition or 0)
            if start is None or message.offset >= start.get(at, sys.maxsize):
                yield message

    async def reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Reader:
        owned = frozenset(TopicPartition(topic, p) for topic in topics for p in range(self.partitions(topic)))
        reader = _MemoryReader(self, group, owned, on_revoke)
        if on_assign:
            await on_assign(owned)
        return reader

    # --- for tests -------------------------------------------------------------------------------------------------

    def of(self, topic: str) -> list[Message]:
        """Every message of a topic, partition by partition."""
        return [message for p in range(self.partitions(topic)) for message in self.messages[TopicPartition(topic, p)]]

    def records(self, topic: str = USAGE) -> list[SpendRecord]:
        """Every record of a raw topic, without the reports of intakes and the marks of bills between them."""
        decoder = msgspec.json.Decoder(RAW_TYPES[topic])
        values = [message.value for message in self.of(topic) if not message.value.startswith(INTAKE_REPORT)]
        found = [record for value in values for record in decoder.decode_lines(value)]
        return [record for record in found if getattr(record, "delta", "") != "mark"]

    def reports(self) -> list[IntakeReport]:
        """Every report of an intake."""
        values = [message.value for message in self.of(USAGE) if message.value.startswith(INTAKE_REPORT)]
        return [msgspec.json.decode(value, type=IntakeReport) for value in values]

    def dead_letters(self) -> list[DeadLetter]:
        """Every dead letter."""
        return [msgspec.json.decode(message.value, type=DeadLetter) for message in self.of(DEAD_LETTER)]

    async def wait_for_append(self, timeout_s: float) -> None:
        async with self._appended:
            try:
                await asyncio.wait_for(self._appended.wait(), timeout_s)
            except TimeoutError:
                return


class _MemoryReader:
    def __init__(
        self, log: MemoryLog, group: str, owned: frozenset[TopicPartition], on_revoke: OnRevoke | None
    ) -> None:
        self._log, self._group, self._on_revoke = log, group, on_revoke
        self._positions: Positions = {at: log.committed[group].get(at, 0) for at in sorted(owned)}

    async def fetch(self, max_messages: int = 500, timeout_s: float = 1.0) -> list[Message]:
        found = self._ready(max_messages)
        if not found and timeout_s > 0:
            await self._log.wait_for_append(timeout_s)
            found = self._ready(max_messages)
        return found

    def _ready(self, max_messages: int) -> list[Message]:
        found: list[Message] = []
        for at, position in self._positions.items():
            part = self._log.messages[at][position : position + max_messages - len(found)]
            self._positions[at] = position + len(part)
            found += part
        return found

    def positions(self) -> Positions:
        return dict(self._positions)

    def seek(self, positions: Positions) -> None:
        self._positions.update(positions)

    async def lag(self) -> dict[TopicPartition, int]:
        behind = {at: len(self._log.messages[at]) - position for at, position in self._positions.items()}
        return {at: count for at, count in behind.items() if count > 0}

    async def commit(self, appends: Sequence[Message] = ()) -> None:
        if appends:
            await self._log.append(appends)
        self._log.committed[self._group].update(self._positions)

    async def close(self) -> None:
        if self._on_revoke:
            await self._on_revoke(frozenset(self._positions))


def _is_a_log(log: MemoryLog) -> Log:
    return log  # checked by mypy
