"""The log on Apache Kafka: many processes, partitions shared by consumer groups, exactly-once commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence, Set
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.errors import finish, kafka_errors
from curb.stream.kafka.producer import send_all, started_producer, stop_producer
from curb.stream.kafka.reader import KafkaReader
from curb.stream.log.protocol import Message, OnAssign, OnRevoke, Positions, Reader
from curb.stream.log.topics import TOPICS, TopicSpec

_DAY_MS = 86_400_000
#: How long one look for more messages may wait while a topic is read to its end (seconds).
_LOOK_S = 0.2
#: How long closing a client may take (seconds).
_CLOSE_S = 5.0
#: How often it is looked whether a new topic is known everywhere (seconds).
_CREATED_LOOK_S = 0.05


class KafkaLog:
    """`Log` on Kafka. `instance` names this process and must be its own among all that share the cluster's topics.

    A process that is started again with the same `instance` shuts the old one out and settles its open transactions.
    """

    def __init__(self, settings: KafkaSettings, instance: str, clock: Clock) -> None:
        self._settings, self._instance, self._clock = settings, instance, clock
        self._prefix = settings.topic_prefix
        self._partitions: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._producer_lock = asyncio.Lock()

    async def open(self) -> None:
        """Connect and make the topics that are missing; topics that exist keep their settings."""
        admin = AIOKafkaAdminClient(**self._settings.connection())
        try:
            with kafka_errors("opening the log"):
                async with asyncio.timeout(self._settings.request_timeout_s):
                    await self._create_missing(admin, await self._topics(admin, "opening the log"))
                    self._partitions = await self._described(admin)
        finally:
            await finish(admin.close(), _CLOSE_S)
        for topic, spec in TOPICS.items():
            if not spec.many and self._partitions[topic] != 1:
                raise PermanentError(
                    f"topic {self._prefix}{topic} has {self._partitions[topic]} partitions and must have one:"
                    " its order elects the single active planner; recreate it or choose another topic_prefix"
                )

    async def reach(self) -> tuple[int, int]:
        """Connect and count Curb's topics: how many there are, of how many that are needed. Makes none.

        Raises TransientError or PermanentError, after `request_timeout_s` at the latest.
        """
        admin = AIOKafkaAdminClient(**self._settings.connection())
        try:
            with kafka_errors("reaching Kafka"):
                async with asyncio.timeout(self._settings.request_timeout_s):
                    existing = await self._topics(admin, "reaching Kafka")
        finally:
            await finish(admin.close(), _CLOSE_S)
        return sum(self._prefix + name in existing for name in TOPICS), len(TOPICS)

    async def _topics(self, admin: AIOKafkaAdminClient, doing: str) -> set[str]:
        """Connect, and the names of all topics. aiokafka gives the reason of a failure only to its logger, so brokers
        are asked for it.
        """
        try:
            await admin.start()
            return set(await admin.list_topics())
        except (kafka.KafkaConnectionError, kafka.NodeNotReadyError):
            options = self._settings.connection()
            for host, port, _ in collect_hosts(options.pop("bootstrap_servers"), randomize=False):
                where = f"{doing}, {host}:{port}"
                try:
                    with kafka_errors(where):
                        await _ask(await create_conn(host, port, **options))
                except (PermanentError, TransientError) as error:
                    raise type(error)(f"{error}{self._hint(error.__cause__)}") from error.__cause__
            raise

    def _hint(self, cause: BaseException | None) -> str:
        """What to look at, where the error does not say it."""
        settings = self._settings
        if isinstance(cause, kafka.UnsupportedSaslMechanismError):
            return f"; the listener does not take sasl_mechanism {settings.sasl_mechanism}"
        unclear = kafka.KafkaConnectionError | kafka.AuthenticationFailedError | TimeoutError
        if isinstance(cause, unclear) and "token of" not in str(cause) and "invalid cred" not in str(cause):
            # A broker closes without a word what it does not understand, and what it does not let in.
            if settings.oauth is not None:
                return "; does the broker take tokens with this issuer, audience and scope?"
            own = ", and does it take this certificate" if settings.ssl_certfile else ""
            return f"; is it a listener for security_protocol {settings.security_protocol}{own}?"
        return ""

    async def _create_missing(self, admin: AIOKafkaAdminClient, existing: Set[str]) -> None:
        missing = [self._new_topic(name, spec) for name, spec in TOPICS.items() if self._prefix + name not in existing]
        if not missing:
            return
        response = await admin.create_topics(missing)
        for name, code, *detail in response.topic_errors:
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                raise error(f"cannot create topic {name}: {detail[0] if detail else ''}")

    def _new_topic(self, name: str, spec: TopicSpec) -> NewTopic:
        config = (
            {"cleanup.policy": "compact"}
            if spec.compacted
            else {"cleanup.policy": "delete", "retention.ms": str(self._settings.retention_days * _DAY_MS)}
        )
        partitions = self._settings.partitions if spec.many else 1
        return NewTopic(self._prefix + name, partitions, self._settings.replication_factor, topic_configs=config)

    async def _described(self, admin: AIOKafkaAdminClient) -> dict[str, int]:
        """Partitions per topic, once brokers know every topic and a leader of each partition."""
        while True:
            topics = await admin.describe_topics([self._prefix + name for name in TOPICS])
            ready = all(
                topic["error_code"] == 0 and all(part["leader"] >= 0 for part in topic["partitions"])
                for topic in topics
            )
            if ready:
                return {topic["topic"].removeprefix(self._prefix): len(topic["partitions"]) for topic in topics}
            for topic in topics:
                error = kafka.for_code(topic["error_code"])
                if error is not kafka.NoError and not error.retriable:
                    raise error(topic["topic"])
            await asyncio.sleep(_CREATED_LOOK_S)

    async def append(self, messages: Sequence[Message]) -> None:
        """Write `messages`. After an error some of them may be on the log; appending again may double these."""
        if not messages:
            return
        producer = await self._started()
        try:
            with kafka_errors("appending"):
                async with asyncio.timeout(self._settings.request_timeout_s):
                    await send_all(producer, self._prefix, messages)
        except (TransientError, asyncio.CancelledError):
            # Else it would go on trying in the background, and deliver late what the caller appends once more.
            await self._discard(producer)
            raise

    async def _started(self) -> AIOKafkaProducer:
        async with self._producer_lock:
            if not self._partitions:
                raise PermanentError("the log is not open")
            if self._producer is None:
                self._producer = await started_producer(self._settings)
            return self._producer

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        await stop_producer(producer)

    async def reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Reader:
        """A member of `group`; its first `fetch` calls show its partitions. One per group and `instance`."""
        reader = KafkaReader(self._settings, self._instance, group, topics, on_assign, on_revoke)
        await reader.start()
        return reader

    async def table(self, topic: str) -> dict[bytes, bytes]:
        latest: dict[bytes, bytes] = {}
        async with aclosing(self.scan(topic)) as messages:
            async for message in messages:
                if message.value:
                    latest[message.key] = message.value
                else:
                    latest.pop(message.key, None)
        return latest

    async def scan(self, topic: str, start: Positions | None = None) -> AsyncGenerator[Message, None]:
        """Every readable message up to the end as it is at the start of the scan, in order within a partition.

        An open transaction hides everything after its start, also committed messages. The scan waits until
        it is over: state that is read short of its end would be an old state.
        """
        consumer = self._consumer("read_committed")
        patience_s = self._settings.request_timeout_s + self._settings.transaction_timeout_s
        try:
            ends = await self._rewound(consumer, topic, start)
            before: dict[KafkaPartition, int] = {}
            idle = 0  # looks since something came
            while ends:
                with kafka_errors(f"scanning {topic}"):
                    found = await consumer.getmany(timeout_ms=int(_LOOK_S * 1000))
                for partition, records in found.items():
                    for record in records:
                        if partition in ends and record.offset < ends[partition]:
                            yield _message(topic, record)
                # Markers of transactions take up offsets: the position passes them, no message ever shows them.
                passed = {partition: await consumer.position(partition) for partition in ends}
                ends = {partition: end for partition, end in ends.items() if passed[partition] < end}
                idle, before = (idle + 1 if passed == before else 0), passed
                if idle * _LOOK_S > patience_s:
                    raise TransientError(f"Kafka, scanning {topic}: the rest of it does not come")
        finally:
            await finish(consumer.stop(), _CLOSE_S)

    async def _rewound(
        self, consumer: AIOKafkaConsumer, topic: str, start: Positions | None
    ) -> dict[KafkaPartition, int]:
        """Put `consumer` at the start of `topic`, or at `start`; the end of each partition that has more."""
        numbers = range(self.partitions(topic)) if start is None else [each.partition for each in start]
        partitions = [KafkaPartition(self._prefix + topic, number) for number in numbers]
        with kafka_errors(f"scanning {topic}"):
            async with asyncio.timeout(self._settings.request_timeout_s):
                await consumer.start()
                consumer.assign(partitions)
                starts = await consumer.beginning_offsets(partitions)
                ends = await self._ends(partitions)
        for at, offset in ({} if start is None else start).items():
            partition = KafkaPartition(self._prefix + topic, at.partition)
            starts[partition] = max(starts[partition], offset)
        for partition, offset in starts.items():
            consumer.seek(partition, offset)
        return {partition: end for partition, end in ends.items() if starts[partition] < end}

    async def _ends(self, partitions: list[KafkaPartition]) -> dict[KafkaPartition, int]:
        """The ends of `partitions` with what open transactions have written."""
        consumer = self._consumer("read_uncommitted")
        try:
            await consumer.start()
            consumer.assign(partitions)
            ends: dict[KafkaPartition, int] = await consumer.end_offsets(partitions)
            return ends
        finally:
            await finish(consumer.stop(), _CLOSE_S)

    def _consumer(self, isolation_level: str) -> AIOKafkaConsumer:
        """A consumer without a group, not started."""
        return AIOKafkaConsumer(
            **self._settings.connection(),
            group_id=None,
            enable_auto_commit=False,
            isolation_level=isolation_level,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )

    def partitions(self, topic: str) -> int:
        if topic not in self._partitions:
            raise PermanentError(f"no topic {topic}" if self._partitions else "the log is not open")
        return self._partitions[topic]

    async def close(self) -> None:
        async with self._producer_lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)


def _message(topic: str, record: Any) -> Message:
    return Message(topic, record.value or b"", record.key or b"", record.partition, record.offset)


async def _ask(connection: AIOKafkaConnection) -> None:
    """One request. A broker that refused a token answers it as if it knew no broker, not even itself, and closes."""
    try:
        answer = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    if not answer.brokers:
        raise kafka.AuthenticationFailedError("it does not let us in")
