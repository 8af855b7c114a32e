"""Kills: of the process in the middle of a transaction, and of the broker under a running producer and consumer."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from curb.stream.clock import WallClock
from curb.stream.errors import TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND, STATE, USAGE
from tests.real.kafka_broker import Broker
from tests.real.kafka_copier import BATCH, POINTS, settings

# The broker is killed and comes back twice; on a busy machine that alone can take a minute.
pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]
TOTAL = 200
#: Between two appends (seconds); flat out, the copier would have to catch up for longer than the outages last.
PACE_S = 0.05
#: How long a part of the story may take (seconds).
WAIT_S = 90.0
#: After an error (seconds). Whoever tries again at once takes the processor from the broker that is to come back.
PAUSE_S = 0.25


async def run_copier(bootstrap: str, prefix: str, instance: str, point: str) -> int:
    arguments = ["-m", "tests.real.kafka_copier", bootstrap, prefix, instance, point]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        async with asyncio.timeout(120):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def written(bootstrap: str, topic: str) -> int:
    """How many offsets are taken on `topic`, aborted messages and transaction markers included."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(2)])
    finally:
        await consumer.stop()
    return sum(ends.values())


# With the same instance the restart shuts out its predecessor; another one has to wait for the transaction's time-out.
CASES = [*((point, "a") for point in POINTS), ("offsets", "b")]


@pytest.mark.parametrize(("point", "next_instance"), CASES, ids=["-".join(case) for case in CASES])
async def test_a_killed_process_leaves_every_message_copied_once(
    kafka_broker: Broker, point: str, next_instance: str
) -> None:
    prefix = f"crash-{uuid.uuid4().hex[:12]}."
    bootstrap = kafka_broker.bootstrap
    log = KafkaLog(settings(bootstrap, prefix), "test", WallClock())
    await log.open()
    try:
        await log.append([Message(USAGE, f"{n}".encode(), key=f"{n % 40}".encode()) for n in range(TOTAL)])

        assert await run_copier(bootstrap, prefix, "a", point) == -signal.SIGKILL
        before = [message async for message in log.scan(SPEND)]
        assert 0 < len(before) <= 3 * BATCH

        assert await run_copier(bootstrap, prefix, next_instance, "never") == 0
        copies = Counter([message.value async for message in log.scan(SPEND)])
        assert copies == Counter(f"{n}!".encode() for n in range(TOTAL))
        if point in ("sent", "offsets"):  # the killed transaction had really reached the log
            assert await written(bootstrap, prefix + SPEND) > TOTAL + BATCH / 2
    finally:
        await log.close()


class Feeder:
    """Appends numbers in order, each until it is acknowledged."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self.acknowledged = 0
        self.failures = 0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            numbers = range(self.acknowledged, self.acknowledged + 10)
            try:
                await self._log.append([Message(USAGE, f"{n}".encode(), key=f"{n % 7}".encode()) for n in numbers])
                self.acknowledged += 10
                await asyncio.sleep(PACE_S)
            except TransientError:
                self.failures += 1
                await asyncio.sleep(PAUSE_S)


class Copier:
    """Copies USAGE to SPEND and opens a new reader after every error, as the runner of a room does."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self.copied = 0
        self.failures = 0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                return await self._copy()
            except TransientError:
                self.failures += 1
                await asyncio.sleep(PAUSE_S)

    async def _copy(self) -> None:
        reader = await self._log.reader("copier", [USAGE])
        try:
            # A member that could not say goodbye keeps its share for one session, hence both partitions.
            while not (self.stop.is_set() and len(reader.positions()) == 2 and not await reader.lag()):
                messages = await reader.fetch(timeout_s=0.2)
                copies = [message._replace(topic=SPEND, partition=None) for message in messages]
                # Never nothing: a reader that has nothing to commit waits out an outage and has no failure to show.
                await reader.commit([*copies, Message(STATE, b"alive", key=b"copier")])
                self.copied += len(messages)
        finally:
            await reader.close()


def awaits(task: asyncio.Task[None]) -> str:
    """Where the task stands: its functions from the outermost in, each with its line."""
    inner: Any = task.get_coro()
    chain = []
    while getattr(inner, "cr_frame", None) is not None:
        chain.append(f"{inner.__qualname__}:{inner.cr_frame.f_lineno}")
        inner = inner.cr_await
    return " > ".join(chain)


async def until(what: str, condition: Callable[[], Any], running: Sequence[asyncio.Task[None]], broker: Broker) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                ended = [task for task in running if task.done()]
                assert not ended, f"nobody told these to end: {ended}"
                await asyncio.sleep(0.05)
    except TimeoutError:
        waits = "\n".join(map(awaits, running))
        pytest.fail(f"not within {WAIT_S} s: {what}\n{waits}\nthe broker's last lines:\n{broker.last_lines()}")


async def test_a_killed_broker_loses_nothing_and_doubles_nothing(kafka_broker: Broker) -> None:
    if not kafka_broker.restartable:
        pytest.skip("CURB_TEST_KAFKA names a broker of somebody else; unset it to let the test start and kill its own")
    own = KafkaSettings(
        kind="kafka",
        bootstrap_servers=kafka_broker.bootstrap,
        topic_prefix=f"kill-{uuid.uuid4().hex[:12]}.",
        partitions=2,
        request_timeout_s=3,
        session_timeout_s=6,
        transaction_timeout_s=5,
    )
    log = KafkaLog(own, "a", WallClock())
    await log.open()
    feeder, copier = Feeder(log), Copier(log)
    tasks = [asyncio.create_task(feeder.run()), asyncio.create_task(copier.run())]

    async def copies_more(when: str) -> None:
        reached = copier.copied
        await until(f"100 copies {when}", lambda: copier.copied >= reached + 100, tasks, kafka_broker)

    try:
        await copies_more("at first")
        # A short outage, then one that lasts until both have felt it.
        kafka_broker.kill9()
        await asyncio.to_thread(kafka_broker.start)
        await copies_more("after a short outage")

        before = feeder.failures, copier.failures
        kafka_broker.kill9()
        await until(
            "both have felt the outage",
            lambda: feeder.failures > before[0] and copier.failures > before[1],
            tasks,
            kafka_broker,
        )
        await asyncio.to_thread(kafka_broker.start)
        await copies_more("after a long outage")

        feeder.stop.set()
        await tasks[0]
        copier.stop.set()
        async with asyncio.timeout(60):
            await tasks[1]
        fed = Counter([int(message.value) async for message in log.scan(USAGE)])
        copies = Counter([int(message.value) async for message in log.scan(SPEND)])
        # An append that failed may have been written, so a number may be there twice; a copy is there once per input.
        assert copies == fed
        assert set(range(feeder.acknowledged)) <= set(fed)
        assert sum(fed.values()) <= feeder.acknowledged + 10 * feeder.failures
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.close()
