"""What only Kafka can do or get wrong: topics and their settings, two owners, lost membership, no broker."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.group import LeaveGroupRequest
from pydantic import ValidationError

from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, SPEND, STATE, TOPICS, USAGE
from tests.real.kafka_broker import Broker

pytestmark = pytest.mark.real
OpenLog = Callable[[str], Any]


@pytest.fixture
def settings(kafka_broker: Broker) -> KafkaSettings:
    return KafkaSettings(
        kind="kafka",
        bootstrap_servers=kafka_broker.bootstrap,
        topic_prefix=f"log-{uuid.uuid4().hex[:12]}.",
        partitions=2,
        session_timeout_s=6,
    )


@pytest.fixture
async def open_log(settings: KafkaSettings) -> AsyncIterator[OpenLog]:
    logs: list[KafkaLog] = []

    async def opened(instance: str) -> KafkaLog:
        logs.append(KafkaLog(settings, instance, WallClock()))
        await logs[-1].open()
        return logs[-1]

    yield opened
    for log in logs:
        await log.close()


@pytest.fixture
async def admin(kafka_broker: Broker) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    await client.start()
    yield client
    await client.close()


async def read(reader: Any, count: int) -> list[int]:
    messages: list[Message] = []
    async with asyncio.timeout(60):
        while len(messages) < count:
            messages += await reader.fetch()
    return sorted(int(message.value) for message in messages)


async def scanned(log: KafkaLog, topic: str) -> list[bytes]:
    return [message.value async for message in log.scan(topic)]


def usage(numbers: range) -> list[Message]:
    return [Message(USAGE, f"{n}".encode(), key=f"{n % 9}".encode()) for n in numbers]


async def leave(reader: Any) -> None:
    """What the coordinator does to a member that stood still for too long: out of the group, and not told."""
    coordinator = reader._consumer._coordinator
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))


async def test_reaching_the_cluster_makes_no_topic(
    settings: KafkaSettings, open_log: OpenLog, admin: AIOKafkaAdminClient
) -> None:
    log = KafkaLog(settings, "init", WallClock())
    assert await log.reach() == (0, len(TOPICS))
    assert not any(name.startswith(settings.topic_prefix) for name in await admin.list_topics())
    await open_log("a")
    assert await log.reach() == (len(TOPICS), len(TOPICS))


async def test_open_makes_the_topics(open_log: OpenLog, settings: KafkaSettings, admin: AIOKafkaAdminClient) -> None:
    log = await open_log("a")
    assert {topic: log.partitions(topic) for topic in TOPICS} == {
        topic: 2 if spec.many else 1 for topic, spec in TOPICS.items()
    }
    wanted = {USAGE: ("delete", str(14 * 86_400_000)), STATE: ("compact", None)}
    for topic, (policy, retention) in wanted.items():
        resource = ConfigResource(ConfigResourceType.TOPIC, settings.topic_prefix + topic)
        (answer,) = await admin.describe_configs([resource])
        config = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert config["cleanup.policy"] == policy
        assert retention is None or config["retention.ms"] == retention


async def test_open_takes_topics_as_they_are_but_for_the_single_ones(
    open_log: OpenLog, settings: KafkaSettings, admin: AIOKafkaAdminClient
) -> None:
    await admin.create_topics([NewTopic(settings.topic_prefix + USAGE, 5, 1)])
    log = await open_log("a")
    assert log.partitions(USAGE) == 5
    await admin.delete_topics([settings.topic_prefix + ALERTS])
    async with asyncio.timeout(30):
        while settings.topic_prefix + ALERTS in await admin.list_topics():
            await asyncio.sleep(0.05)
    await admin.create_topics([NewTopic(settings.topic_prefix + ALERTS, 2, 1)])
    with pytest.raises(PermanentError, match=r"curb\.alerts has 2 partitions and must have one"):
        await open_log("b")


async def test_too_few_brokers_for_the_copies_is_said(settings: KafkaSettings) -> None:
    log = KafkaLog(settings.model_copy(update={"replication_factor": 3}), "a", WallClock())
    with pytest.raises(PermanentError, match="cannot create topic"):
        await log.open()


async def test_a_second_process_with_the_same_instance_shuts_the_first_out(open_log: OpenLog) -> None:
    first_log, second_log = await open_log("same"), await open_log("same")
    await first_log.append(usage(range(10)))
    first = await first_log.reader("g", [USAGE])
    assert await read(first, 10) == list(range(10))
    second = await second_log.reader("g", [USAGE])
    with pytest.raises(PermanentError, match="same `instance`"):
        await first.commit([Message(ALERTS, b"from the first")])
    with pytest.raises(TransientError, match="open a new reader"):
        await first.fetch()
    await first.close()
    assert await read(second, 10) == list(range(10))
    await second.commit([Message(ALERTS, b"from the second")])
    await second.close()
    assert await scanned(first_log, ALERTS) == [b"from the second"]


async def test_a_member_that_lost_its_partitions_cannot_commit(open_log: OpenLog) -> None:
    first_log, second_log = await open_log("a"), await open_log("b")
    await first_log.append(usage(range(10)))
    first = await first_log.reader("g", [USAGE])
    assert await read(first, 10) == list(range(10))
    await leave(first)
    second = await second_log.reader("g", [USAGE])
    assert await read(second, 10) == list(range(10))
    await second.commit([Message(ALERTS, b"second")])
    with pytest.raises(TransientError, match="another member"):
        await first.commit([Message(ALERTS, b"first")])
    await first.close()
    await second.close()
    assert await scanned(first_log, ALERTS) == [b"second"]


async def test_a_new_owner_waits_for_the_open_transaction_of_the_last(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_log, second_log = await open_log("a"), await open_log("b")
    await first_log.append(usage(range(10)))
    first: Any = await first_log.reader("g", [USAGE])
    await read(first, 10)
    may_end, has_begun, has_waited = asyncio.Event(), asyncio.Event(), asyncio.Event()
    producer = first._producer._producer
    end = producer.commit_transaction

    async def slow_end() -> None:
        has_begun.set()
        await may_end.wait()
        await end()

    monkeypatch.setattr(producer, "commit_transaction", slow_end)
    committing = asyncio.create_task(first.commit([Message(SPEND, b"1", key=b"k")]))
    await has_begun.wait()
    await leave(first)

    second: Any = await second_log.reader("g", [USAGE])
    check = second._check_retriable

    def checked(codes: set[int]) -> None:
        has_waited.set()
        check(codes)

    monkeypatch.setattr(second, "_check_retriable", checked)
    await second_log.append(usage(range(10, 13)))
    reading = asyncio.create_task(read(second, 3))
    await has_waited.wait()
    assert not second.positions()
    may_end.set()
    await committing
    assert await reading == [10, 11, 12]
    await first.close()
    await second.close()


async def test_a_failed_commit_writes_nothing_and_moves_nothing(open_log: OpenLog) -> None:
    log = await open_log("a")
    await log.append(usage(range(10)))
    reader = await log.reader("g", [USAGE])
    assert await read(reader, 10) == list(range(10))
    with pytest.raises(PermanentError, match="larger"):
        await reader.commit([Message(SPEND, b"small", key=b"k"), Message(SPEND, bytes(3_000_000), key=b"k")])
    await reader.close()
    assert await scanned(log, SPEND) == []
    reader = await log.reader("g", [USAGE])
    assert await read(reader, 10) == list(range(10))
    await reader.close()


async def test_an_error_of_on_assign_comes_out_of_fetch_and_it_is_called_again(open_log: OpenLog) -> None:
    log = await open_log("a")
    await log.append(usage(range(3)))
    calls: list[int] = []

    async def on_assign(partitions: frozenset[Any]) -> None:
        calls.append(len(partitions))
        if len(calls) == 1:
            raise TransientError("the state could not be loaded")

    reader = await log.reader("g", [USAGE], on_assign=on_assign)
    with pytest.raises(TransientError, match="state could not be loaded"):
        await read(reader, 3)
    assert await read(reader, 3) == [0, 1, 2]
    assert calls == [2, 2]
    await reader.close()


async def test_without_a_broker_the_error_is_transient() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        nobody = KafkaSettings(
            kind="kafka", bootstrap_servers=f"127.0.0.1:{taken.getsockname()[1]}", request_timeout_s=1
        )
        with pytest.raises(TransientError, match="opening the log"):
            await KafkaLog(nobody, "a", WallClock()).open()


async def test_a_log_that_is_not_open_says_so(settings: KafkaSettings) -> None:
    log = KafkaLog(settings, "a", WallClock())
    with pytest.raises(PermanentError, match="not open"):
        await log.append(usage(range(1)))
    await log.close()


def test_settings_need_a_user_for_sasl_and_hide_the_password(tmp_path: Any) -> None:
    with pytest.raises(ValidationError, match="sasl_username"):
        KafkaSettings(kind="kafka", bootstrap_servers="h:1", security_protocol="SASL_SSL")
    (tmp_path / "password").write_text("hidden\n")
    given = {
        "kind": "kafka",
        "bootstrap_servers": "one:9092, two:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "curb",
        "sasl_password_file": str(tmp_path / "password"),
    }
    settings = KafkaSettings.model_validate(given)
    assert "hidden" not in repr(settings)
    options = settings.connection()
    assert options["bootstrap_servers"] == ["one:9092", "two:9092"]
    assert options["sasl_plain_password"] == "hidden"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["ssl_context"].check_hostname
