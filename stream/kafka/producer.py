"""The two producers of the Kafka log: one for appends, one for transactions of messages and a group's offsets."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka
from aiokafka.client import CoordinationType
from aiokafka.producer.sender import Sender, TxnOffsetCommitHandler

from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.errors import finish, kafka_errors
from curb.stream.kafka.protocol import MemberOffsetsRequest, Membership
from curb.stream.log.protocol import Message
from curb.stream.log.topics import TOPICS

#: Messages of one partition that travel together (bytes); aiokafka's 16 kB would make one request of every few records.
_BATCH_BYTES = 256 * 1024
#: How long closing may wait for a broker that does not answer (seconds).
_CLOSE_S = 5.0
#: A cancelled sender first ends its loop, and each further time one of the requests it still waits for.
_CANCELS = 5
#: aiokafka knows no name for it; the newer of two codes that say "another producer took this transactional id".
_PRODUCER_FENCED = 90


def _new_producer(settings: KafkaSettings, **transactions: Any) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(
        **settings.connection(),
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        max_batch_size=_BATCH_BYTES,
        **transactions,
    )
    producer._message_accumulator._pending_batches = _Pending()
    producer._sender = _MemberSender(
        producer.client,
        acks=-1,
        txn_manager=producer._txn_manager,
        message_accumulator=producer._message_accumulator,
        retry_backoff_ms=100,
        request_timeout_ms=int(settings.request_timeout_s * 1000),
    )
    return producer


async def started_producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """An idempotent producer, connected. Raises TransientError or PermanentError."""
    producer = _new_producer(settings)
    await start_producer(producer, settings.request_timeout_s, "starting a producer")
    return producer


async def start_producer(producer: AIOKafkaProducer, timeout_s: float, doing: str) -> None:
    """Connect within `timeout_s` seconds; what was opened is closed when that fails."""
    try:
        with kafka_errors(doing):
            async with asyncio.timeout(timeout_s):
                await producer.start()
    except BaseException:
        await stop_producer(producer)
        raise


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Close at once, giving up what was not delivered: a plain `stop` waits for ever when no broker answers.

    Nothing is lost by it: `append` and `commit` return only when all they sent was acknowledged.
    """
    _give_up(producer._message_accumulator, kafka.ProducerClosed())
    task = producer._sender.sender_task
    for _ in range(_CANCELS):
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CLOSE_S / _CANCELS)
    await finish(producer.stop(), _CLOSE_S)


def _give_up(accumulator: Any, error: BaseException) -> None:
    """Fail every message that was not delivered; who waits for one hears of it, the rest is not worth a report."""
    queued = [batch for queue in accumulator._batches.values() for batch in queue]
    for batch in (*queued, *accumulator._pending_batches):
        batch._drain_waiter.add_done_callback(_retrieve)
    accumulator.fail_all(error)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark an error as seen, which asyncio would else report as never retrieved."""
    if not future.cancelled():
        future.exception()


async def send_all(producer: AIOKafkaProducer, prefix: str, messages: Sequence[Message]) -> None:
    """Send and wait until every message is acknowledged by all replicas in sync. Raises aiokafka's errors."""
    sent: list[asyncio.Future[Any]] = []
    for message in messages:
        compacted = message.topic in TOPICS and TOPICS[message.topic].compacted
        # A message without a key may go anywhere; in a compacted topic the empty key is a key like any other.
        key = message.key if message.key or compacted else None
        value = None if compacted and not message.value else message.value
        future = await producer.send(prefix + message.topic, value, key, message.partition)
        future.add_done_callback(_retrieve)
        sent.append(future)
    if sent:
        await asyncio.wait(sent)
    for future in sent:
        future.result()


class _Pending(set[Any]):
    """The batches under way. Removing a missing batch is no error.

    aiokafka removes a batch when it is put back to be sent again, and once more when it is done. Who gives it up in
    between, or in the moment before it is put back, would make one of the two fail.
    """

    def remove(self, batch: Any) -> None:
        self.discard(batch)


class _MemberOffsetsHandler(TxnOffsetCommitHandler):  # type: ignore[misc]
    """Sends offsets with the group membership of their reader, and ends the transaction when it is out of date."""

    def create_request(self) -> MemberOffsetsRequest:
        manager = self._sender._txn_manager
        offsets: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        for at, offset in sorted(self._offsets.items()):
            offsets[at.topic].append((at.partition, offset.offset))
        return MemberOffsetsRequest(
            manager.transactional_id,
            self._group_id,
            (manager.producer_id, manager.producer_epoch),
            self._sender.membership,
            offsets,
        )

    def handle_response(self, response: Any) -> float | None:
        manager = self._sender._txn_manager
        stale = (kafka.IllegalGenerationError, kafka.UnknownMemberIdError, kafka.RebalanceInProgressError)
        codes = {code for _, partitions, _ in response.topics for _, code, _ in partitions}
        if _PRODUCER_FENCED in codes:
            raise kafka.ProducerFenced
        for code in codes:
            if kafka.for_code(code) in stale:
                # Not `error_transaction`: after it aiokafka forgets open transactions and never makes the broker abort.
                _, _, waiting = manager._pending_txn_offsets.popleft()
                waiting.set_exception(kafka.for_code(code)("the partitions have moved to another member"))
                return None
        response.errors = [
            (topic, [(number, code) for number, code, _ in partitions]) for topic, partitions, _ in response.topics
        ]
        backoff: float | None = super().handle_response(response)
        return backoff


class _MemberSender(Sender):  # type: ignore[misc]
    """Ends quietly, and lets the broker check the membership of the reader whose offsets it sends."""

    membership = Membership("", -1)

    def _fail_all(self, task: asyncio.Task[Any]) -> None:
        """Called when the sending task has ended; aiokafka's own assumes that a transaction has begun."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        _give_up(self._message_accumulator, error)
        if self._txn_manager._transaction_waiter is not None:
            self._txn_manager.fatal_error(error)
            self._txn_manager._transaction_waiter.add_done_callback(_retrieve)

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        if not offsets:
            return
        node_id = await self._find_coordinator(CoordinationType.GROUP, group_id)
        await _MemberOffsetsHandler(self, offsets, group_id).do(node_id)


class GroupProducer:
    """Commits messages and the offsets of one group in one transaction.

    `start` ends what an earlier process with the same `transactional_id` left open, and shuts that process out.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings, self._transactional_id = settings, transactional_id
        self._timeout_s = settings.transaction_timeout_s
        self._producer = _new_producer(
            settings, transactional_id=transactional_id, transaction_timeout_ms=int(self._timeout_s * 1000)
        )

    async def start(self) -> None:
        # The coordinator first has to finish the transaction of a predecessor, hence the longer wait.
        await start_producer(self._producer, self._timeout_s, f"starting transactions of {self._transactional_id}")

    async def commit(
        self, messages: Sequence[Message], offsets: Mapping[KafkaPartition, int], group: str, membership: Membership
    ) -> None:
        """All or nothing. After an error the outcome is unknown and this producer must be stopped."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._producer._sender.membership = membership
        try:
            with kafka_errors("committing"):
                async with asyncio.timeout(self._timeout_s):
                    await self._transaction(messages, offsets, group)
        except PermanentError as error:
            if not isinstance(error.__cause__, kafka.ProducerFenced):
                raise
            if loop.time() - began >= self._timeout_s:  # this process stood still and the broker gave up on it
                raise TransientError("Kafka, committing: the transaction took too long") from error
            raise PermanentError(
                f"another process runs with the same `instance` (transactional id {self._transactional_id}):"
                " give every process its own"
            ) from error

    async def _transaction(
        self, messages: Sequence[Message], offsets: Mapping[KafkaPartition, int], group: str
    ) -> None:
        producer = self._producer
        await producer.begin_transaction()
        try:
            await send_all(producer, self._settings.topic_prefix, messages)
            if offsets:
                await producer.send_offsets_to_transaction(offsets, group)
        except (kafka.KafkaError, kafka.IllegalOperation):
            if not producer._txn_manager.is_fatal_error():
                await producer.abort_transaction()
            raise
        await producer.commit_transaction()

    async def stop(self) -> None:
        await stop_producer(self._producer)
