"""What every log promises, held against the embedded log and against a real Kafka broker: one body, two logs."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from curb.stream.clock import WallClock
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Log, Message, Reader, TopicPartition
from curb.stream.log.topics import ALERTS, SPEND, STATE, TOPICS, USAGE
from tests.real.kafka_broker import shared_broker

GIVE_UP_S = 60.0
#: Opens the same log again and again: each call stands for one process, named by `instance`.
OpenLog = Callable[..., Any]

KAFKA = pytest.param("kafka", marks=pytest.mark.real)
BOTH = ["embedded", KAFKA]
#: The embedded log lets one member own everything, so what several members do to one another is Kafka's alone.
SHARED = [KAFKA]


@pytest.fixture(params=BOTH)
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    prefix = f"test-{uuid.uuid4().hex[:12]}."

    @asynccontextmanager
    async def opened(instance: str = "a") -> AsyncIterator[Log]:
        log: Log
        if request.param == "embedded":
            log = EmbeddedLog(tmp_path / "log", WallClock())
        else:
            settings = KafkaSettings(
                kind="kafka", bootstrap_servers=shared_broker().bootstrap, topic_prefix=prefix, partitions=3
            )
            log = KafkaLog(settings, instance, WallClock())
        await log.open()
        try:
            yield log
        finally:
            await log.close()

    return opened


@pytest.fixture
async def log(open_log: OpenLog) -> AsyncIterator[Log]:
    async with open_log() as opened:
        yield opened


def usage(count: int, keys: int = 5) -> list[Message]:
    return [Message(USAGE, f"{n}".encode(), key=f"key-{n % keys}".encode()) for n in range(count)]


def values(messages: list[Message]) -> list[int]:
    return sorted(int(message.value) for message in messages)


async def read(reader: Reader, count: int) -> list[Message]:
    """Exactly `count` messages; fails when more come at once or they do not come."""
    messages: list[Message] = []
    async with asyncio.timeout(GIVE_UP_S):
        while len(messages) < count:
            messages += await reader.fetch()
    assert len(messages) == count
    return messages


async def scanned(log: Log, topic: str) -> list[Message]:
    async with asyncio.timeout(GIVE_UP_S):
        return [message async for message in log.scan(topic)]


@asynccontextmanager
async def reading(log: Log, group: str = "g", topic: str = USAGE, **callbacks: Any) -> AsyncIterator[Reader]:
    reader = await log.reader(group, [topic], **callbacks)
    try:
        yield reader
    finally:
        await reader.close()


async def test_messages_keep_their_order_and_a_key_its_partition(log: Log) -> None:
    await log.append(usage(200))
    await log.append([Message(USAGE, f"{n}".encode(), key=f"key-{n % 5}".encode()) for n in range(200, 300)])
    async with reading(log) as reader:
        messages = await read(reader, 300)
    offsets: dict[int | None, list[int]] = defaultdict(list)
    by_key: dict[bytes, list[int]] = defaultdict(list)
    partitions: dict[bytes, set[int | None]] = defaultdict(set)
    for message in messages:
        assert message.topic == USAGE
        offsets[message.partition].append(message.offset)
        by_key[message.key].append(int(message.value))
        partitions[message.key].add(message.partition)
    assert all(each == list(range(len(each))) for each in offsets.values())
    assert all(each == sorted(each) and len(each) == 60 for each in by_key.values())
    assert all(len(each) == 1 for each in partitions.values())
    assert set(offsets) <= set(range(log.partitions(USAGE)))


async def test_a_named_partition_is_used(log: Log) -> None:
    last = log.partitions(USAGE) - 1
    await log.append([Message(USAGE, f"{n}".encode(), key=b"any", partition=last) for n in range(3)])
    async with reading(log) as reader:
        messages = await read(reader, 3)
        assert reader.positions()[TopicPartition(USAGE, last)] == 3
    assert [(message.partition, message.offset) for message in messages] == [(last, 0), (last, 1), (last, 2)]


async def test_each_group_has_its_own_positions(log: Log) -> None:
    await log.append(usage(20))
    async with reading(log, "one") as reader:
        await read(reader, 20)
        await reader.commit()
    await log.append([Message(USAGE, b"20")])
    async with reading(log, "one") as reader:
        assert values(await read(reader, 1)) == [20]
    async with reading(log, "two") as reader:
        assert values(await read(reader, 21)) == list(range(21))


async def test_what_was_not_committed_comes_again(log: Log) -> None:
    await log.append(usage(20))
    async with reading(log) as reader:
        first = await reader.fetch(max_messages=7, timeout_s=GIVE_UP_S)
        while len(first) < 7:
            first += await reader.fetch(max_messages=7 - len(first), timeout_s=GIVE_UP_S)
        await reader.commit()
        await read(reader, 13)
    async with reading(log) as reader:
        again = await read(reader, 13)
    assert values(first + again) == list(range(20))


async def test_a_commit_writes_messages_and_positions_at_once(open_log: OpenLog) -> None:
    async with open_log() as log:
        await log.append(usage(10))
        async with reading(log) as reader:
            await read(reader, 10)
            await reader.commit([Message(SPEND, f"{n}".encode(), key=b"k") for n in range(10)])
            await reader.commit([Message(ALERTS, b"alert"), Message(STATE, b"state", key=b"k")])
    async with open_log() as log:
        assert values(await scanned(log, SPEND)) == list(range(10))
        assert [message.value for message in await scanned(log, ALERTS)] == [b"alert"]
        assert await log.table(STATE) == {b"k": b"state"}
        async with reading(log) as reader:
            assert await reader.fetch(timeout_s=0.5) == []
            assert not await reader.lag()


async def test_fetch_gives_no_more_than_asked_and_positions_follow_it(log: Log) -> None:
    await log.append(usage(10))
    async with reading(log) as reader:
        for count in range(1, 11):
            assert len(await reader.fetch(max_messages=1, timeout_s=GIVE_UP_S)) == 1
            assert sum(reader.positions().values()) == count
            assert sum((await reader.lag()).values()) == 10 - count
        assert await reader.fetch(timeout_s=0.0) == []


async def test_seek_goes_back_and_forth(log: Log) -> None:
    await log.append([Message(ALERTS, f"{n}".encode()) for n in range(10)])
    at = TopicPartition(ALERTS, 0)
    async with reading(log, topic=ALERTS) as reader:
        await read(reader, 10)
        reader.seek({at: 4})
        assert reader.positions() == {at: 4}
        assert sum((await reader.lag()).values()) == 6
        reader.seek({at: 3, TopicPartition(ALERTS, 99): 5})
        assert values(await read(reader, 7)) == list(range(3, 10))
        reader.seek({at: 9})
        await reader.commit()
    async with reading(log, topic=ALERTS) as reader:
        assert values(await read(reader, 1)) == [9]


async def test_the_place_to_seek_is_on_assign(log: Log) -> None:
    await log.append([Message(ALERTS, f"{n}".encode()) for n in range(10)])
    at = TopicPartition(ALERTS, 0)
    readers: list[Reader] = []
    assigned: list[frozenset[TopicPartition]] = []

    async def on_assign(partitions: frozenset[TopicPartition]) -> None:
        assigned.append(partitions)
        await log.table(STATE)  # state is loaded here; the log must be usable
        for reader in readers:
            reader.seek({at: 6})

    async with reading(log, topic=ALERTS, on_assign=on_assign) as reader:
        # A log may assign while the reader is made or in its first fetch; a caller serves both.
        readers.append(reader)
        reader.seek({at: 6})
        assert values(await read(reader, 4)) == [6, 7, 8, 9]
    assert assigned == [frozenset({at})]


async def test_on_revoke_may_commit_what_is_in_hand(log: Log) -> None:
    await log.append(usage(10))
    revoked: list[frozenset[TopicPartition]] = []

    async def on_revoke(partitions: frozenset[TopicPartition]) -> None:
        revoked.append(partitions)
        await reader.commit([Message(SPEND, b"10", key=b"k")])

    async with reading(log, on_revoke=on_revoke) as reader:
        await read(reader, 10)
    assert revoked == [frozenset(TopicPartition(USAGE, n) for n in range(log.partitions(USAGE)))]
    assert values(await scanned(log, SPEND)) == [10]
    async with reading(log) as reader:
        assert await reader.fetch(timeout_s=0.5) == []


async def test_the_table_holds_the_latest_value_of_each_key(open_log: OpenLog) -> None:
    async with open_log() as log:
        assert await log.table(STATE) == {}
        await log.append([Message(STATE, f"{n}".encode(), key=f"{n % 3}".encode()) for n in range(9)])
        await log.append([Message(STATE, b"", key=b"1"), Message(STATE, b"", key=b"unknown")])
        assert await log.table(STATE) == {b"0": b"6", b"2": b"8"}
        async with reading(log) as reader:
            await reader.fetch(timeout_s=0.1)
            await reader.commit([Message(STATE, b"back", key=b"1"), Message(STATE, b"", key=b"0")])
    async with open_log() as log:
        assert await log.table(STATE) == {b"1": b"back", b"2": b"8"}


async def test_a_scan_gives_all_there_is_and_ends(log: Log) -> None:
    assert await scanned(log, USAGE) == []
    await log.append(usage(50))
    async with reading(log) as reader:
        await read(reader, 50)
        await reader.commit([Message(USAGE, b"50", key=b"key-0")])
    found = await scanned(log, USAGE)
    assert values(found) == list(range(51))
    assert [message.value for message in found if message.key == b"key-0"][-1] == b"50"


async def test_lag_is_0_when_everything_was_read(log: Log) -> None:
    async with reading(log) as reader, reading(log, "other", SPEND) as other:
        for round_ in range(3):
            await log.append(usage(20))
            await read(reader, 20)
            assert not await reader.lag()
            await reader.commit([Message(SPEND, f"{round_}-{n}".encode(), key=f"{n}".encode()) for n in range(4)])
            await read(other, 4)
            assert not await other.lag()
            await other.commit()


async def test_a_message_of_900_kb_comes_back_whole(log: Log) -> None:
    large = bytes(n * n % 251 for n in range(900_000))
    await log.append([Message(USAGE, large, key=b"large"), *usage(3)])
    async with reading(log) as reader:
        messages = await read(reader, 4)
        await reader.commit([Message(SPEND, large[::-1], key=b"large")])
    assert next(message.value for message in messages if message.key == b"large") == large
    assert [message.value for message in await scanned(log, SPEND)] == [large[::-1]]


async def test_everything_is_there_after_reopening(open_log: OpenLog) -> None:
    async with open_log() as log:
        await log.append(usage(30))
        await log.append([Message(STATE, b"kept", key=b"k")])
        before = {topic: log.partitions(topic) for topic in TOPICS}
    async with open_log() as log:
        assert {topic: log.partitions(topic) for topic in TOPICS} == before
        assert values(await scanned(log, USAGE)) == list(range(30))
        assert await log.table(STATE) == {b"k": b"kept"}
        await log.append([Message(USAGE, b"30")])
        async with reading(log) as reader:
            assert values(await read(reader, 31)) == list(range(31))


async def test_a_reader_waits_for_what_comes_later(log: Log) -> None:
    async with reading(log) as reader:
        assert await reader.fetch(timeout_s=0.1) == []
        waiting = asyncio.create_task(read(reader, 5))
        await log.append(usage(5))
        assert values(await waiting) == list(range(5))


async def test_appending_nothing_and_committing_nothing_is_fine(log: Log) -> None:
    await log.append([])
    async with reading(log) as reader:
        await reader.fetch(timeout_s=0.1)
        await reader.commit()
        await reader.commit([])
    assert await scanned(log, USAGE) == []


class Copier:
    """One member of a group: writes each message of USAGE to SPEND, in one commit with its positions."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.copied = 0
        self.owned: frozenset[TopicPartition] = frozenset()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        async with reading(self._log, on_assign=self._assign) as reader:
            while not self.stop.is_set():
                messages = await reader.fetch(max_messages=20, timeout_s=0.2)
                await reader.commit([message._replace(topic=SPEND, partition=None) for message in messages])
                self.copied += len(messages)

    async def _assign(self, partitions: frozenset[TopicPartition]) -> None:
        self.owned = partitions


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("open_log", SHARED, indirect=True)
async def test_members_share_the_partitions_and_each_message_is_copied_once(open_log: OpenLog) -> None:
    total = 1_200
    async with open_log("a") as log, open_log("b") as second_log:
        first, second = Copier(log), Copier(second_log)
        first_run = asyncio.create_task(first.run())
        for start in range(0, total, 100):
            batch = [Message(USAGE, f"{n}".encode(), key=f"{n % 50}".encode()) for n in range(start, start + 100)]
            await log.append(batch)
            if start == 300:
                second_run = asyncio.create_task(second.run())

        async def shared() -> bool:
            return bool(first.owned) and bool(second.owned) and not first.owned & second.owned

        await until(shared)
        await log.append([Message(USAGE, f"{total}".encode(), partition=n) for n in range(3)])

        async def both_copied() -> bool:
            return first.copied > 0 and second.copied > 0 and first.copied + second.copied == total + 3

        await until(both_copied)
        assert len(first.owned | second.owned) == 3
        first.stop.set()
        await first_run
        await log.append([Message(USAGE, f"{total + 1}".encode(), partition=n) for n in range(3)])

        async def rest_copied() -> bool:
            return first.copied + second.copied == total + 6

        await until(rest_copied)
        second.stop.set()
        await second_run
        copies = values(await scanned(log, SPEND))
    assert copies == [*range(total), *[total] * 3, *[total + 1] * 3]
