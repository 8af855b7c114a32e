"""Reads Kafka as a member of a group and commits what it wrote together with its positions, exactly once.

Rebalances are handled inside `fetch`, in the caller's own task: `on_assign` and `on_revoke` never run beside the
caller's processing, and heartbeats go on while they work. A partition stays paused until its `on_assign` is done.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from curb.stream import metrics
from curb.stream.errors import TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.errors import finish, kafka_errors
from curb.stream.kafka.producer import GroupProducer
from curb.stream.kafka.protocol import Membership, StableOffsetsRequest
from curb.stream.log.protocol import Message, OnAssign, OnRevoke, Positions, TopicPartition

#: How long the others of a group wait for a member that does not come to hand over its partitions (seconds).
_HAND_OVER_S = 60.0
#: How long `lag` waits for transaction markers to arrive, which take up offsets but are no messages (seconds).
_MARKERS_S = 0.2
_PREFETCH = 500
_CLOSE_S = 10.0
_UNSTABLE_OFFSET_COMMIT = 88
_RETRY_S = 0.05


class KafkaReader:
    """`Reader` on Kafka. After a failed `commit` only `close` may be called."""

    def __init__(
        self,
        settings: KafkaSettings,
        instance: str,
        group: str,
        topics: Sequence[str],
        on_assign: OnAssign | None,
        on_revoke: OnRevoke | None,
    ) -> None:
        self._settings, self._label = settings, group
        self._prefix = settings.topic_prefix
        self._group = self._prefix + group
        self._topics = [self._prefix + topic for topic in topics]
        self._on_assign, self._on_revoke = on_assign, on_revoke
        self._producer = GroupProducer(settings, f"{self._prefix}{instance}-{group}")
        self._consumer = AIOKafkaConsumer(
            **settings.connection(),
            group_id=self._group,
            # A process that starts again takes its place in the group at once, however it ended before.
            group_instance_id=f"{self._prefix}{instance}-{group}",
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 1000 / 5),
            rebalance_timeout_ms=int(_HAND_OVER_S * 1000),
            fetch_max_wait_ms=100,
            # Topics of one partition must land on the same member: who acts on alerts must hear commands.
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        self._owned: frozenset[TopicPartition] = frozenset()
        self._positions: Positions = {}
        self._committed: Positions = {}
        self._buffer: collections.deque[Message] = collections.deque()
        self._membership = Membership("", -1)
        self._assigned = False  # partitions came and `on_assign` has not run yet
        self._handed_over: asyncio.Future[None] | None = None  # the group waits for `on_revoke`
        self._rebalance = asyncio.Event()
        self._usable = True

    async def start(self) -> None:
        """Join the group, after the transaction of an earlier process of this instance is settled."""
        try:
            await self._producer.start()
            with kafka_errors(f"joining group {self._group}"):
                async with asyncio.timeout(self._settings.request_timeout_s):
                    await self._consumer.start()
            self._consumer.subscribe(self._topics, listener=_Listener(self))
        except BaseException:
            await self._stop()
            raise

    # --- what the group's coordinator asks for ------------------------------------------------------------------------

    def assigned(self, partitions: Iterable[KafkaPartition]) -> None:
        """The group gave us `partitions`: hold them until `fetch` has prepared their state."""
        coordinator = self._consumer._coordinator
        self._membership = Membership(coordinator.member_id, coordinator.generation)
        self._consumer.pause(*partitions)
        self._owned = frozenset(self._ours(partition) for partition in partitions)
        self._assigned = True
        self._rebalance.set()

    async def revoking(self) -> None:
        """The group wants everything back: wait until `fetch` has handed it over."""
        if self._assigned or not self._owned:
            self._forget()
            return
        self._handed_over = asyncio.get_running_loop().create_future()
        self._rebalance.set()
        await self._handed_over

    async def _rebalanced(self) -> None:
        while self._rebalance.is_set():
            self._rebalance.clear()
            if self._handed_over is not None:
                await self._hand_over()
            elif self._assigned:
                await self._take_over()

    async def _hand_over(self) -> None:
        waiting, self._handed_over = self._handed_over, None
        try:
            if self._on_revoke is not None:
                await self._on_revoke(self._owned)
        finally:
            self._forget()
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def _take_over(self) -> None:
        self._assigned = False
        owned = self._owned
        try:
            with kafka_errors("reading positions"):
                async with asyncio.timeout(self._settings.request_timeout_s + self._settings.transaction_timeout_s):
                    self._committed = await self._stable_positions()
                    starts = await self._consumer.beginning_offsets([self._theirs(at) for at in owned])
            first = {self._ours(at): offset for at, offset in starts.items()}
            self._positions = {at: max(self._committed.get(at, 0), first[at]) for at in owned}
            self._seek(self._positions)
            if self._on_assign is not None:
                await self._on_assign(owned)
        except BaseException:
            self._assigned = True
            self._rebalance.set()
            raise
        if self._handed_over is None:
            self._consumer.resume(*(self._theirs(at) for at in owned))

    def _forget(self) -> None:
        self._owned, self._assigned = frozenset(), False
        self._positions, self._committed = {}, {}
        self._buffer.clear()

    async def _stable_positions(self) -> Positions:
        by_topic: dict[str, list[int]] = collections.defaultdict(list)
        for at in self._owned:
            by_topic[self._prefix + at.topic].append(at.partition)
        request = StableOffsetsRequest(self._group, by_topic)
        coordinator = self._consumer._coordinator
        while True:
            try:
                response = await coordinator._send_req(request)
            except kafka.KafkaError as error:
                if not error.retriable:
                    raise
            else:
                codes = {response.error_code} | {part[4] for _, parts, _ in response.topics for part in parts}
                if not codes - {0}:
                    break
                self._check_retriable(codes)
            await asyncio.sleep(_RETRY_S)
        return {
            self._ours(KafkaPartition(topic, part[0])): part[1]
            for topic, parts, _ in response.topics
            for part in parts
            if part[1] >= 0
        }

    def _check_retriable(self, codes: set[int]) -> None:
        # Unstable: the previous owner's transaction is being completed; that ends within its time-out.
        for error in (kafka.for_code(code) for code in codes - {0, _UNSTABLE_OFFSET_COMMIT}):
            if not error.retriable:
                raise error
            self._consumer._coordinator.coordinator_dead()

    # --- the Reader protocol ------------------------------------------------------------------------------------------

    async def fetch(self, max_messages: int = 500, timeout_s: float = 1.0) -> list[Message]:
        self._check_usable()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            await self._rebalanced()
            remaining = max(0.0, deadline - loop.time())
            if not self._buffer:
                await self._poll(max_messages, remaining)
            if self._rebalance.is_set():
                if remaining <= 0:
                    return []
                continue
            if self._buffer:
                return self._take(max_messages)
            if loop.time() >= deadline:
                return []

    def _take(self, max_messages: int) -> list[Message]:
        messages = [self._buffer.popleft() for _ in range(min(max_messages, len(self._buffer)))]
        for message in messages:
            self._positions[TopicPartition(message.topic, message.partition or 0)] = message.offset + 1
        return messages

    async def _poll(self, max_messages: int, timeout_s: float) -> None:
        """Wait until the buffer has messages, a rebalance begins, or time is up."""
        polling = asyncio.create_task(self._fill(max_messages, timeout_s))
        rebalance = asyncio.create_task(self._rebalance.wait())
        try:
            # aiokafka waits without limit for an assignment, so its own time-out is not enough.
            await asyncio.wait({polling, rebalance}, timeout=timeout_s + 0.05, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (polling, rebalance):
                task.cancel()
            await asyncio.gather(polling, rebalance, return_exceptions=True)
        if not polling.cancelled():
            with kafka_errors("reading"):
                polling.result()

    async def _fill(self, max_messages: int, timeout_s: float) -> None:
        records = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_messages)
        # No await between: what aiokafka gave out is either in the buffer or, when cancelled, not given out.
        for partition, batch in records.items():
            at = self._ours(partition)
            for record in batch:
                self._buffer.append(Message(at.topic, record.value or b"", record.key or b"", *at[1:], record.offset))

    def positions(self) -> Positions:
        return dict(self._positions)

    def seek(self, positions: Positions) -> None:
        """Move; partitions this reader does not own are left alone."""
        mine = {at: offset for at, offset in positions.items() if at in self._positions}
        self._positions.update(mine)
        self._seek(mine)

    def _seek(self, positions: Positions) -> None:
        self._buffer = collections.deque(
            message for message in self._buffer if (message.topic, message.partition) not in positions
        )
        for at, offset in positions.items():
            self._consumer.seek(self._theirs(at), offset)

    async def lag(self) -> dict[TopicPartition, int]:
        """Never less than what is unread, and empty when nothing is; markers of transactions may count."""
        self._check_usable()
        with kafka_errors("reading the lag"):
            async with asyncio.timeout(self._settings.request_timeout_s):
                behind = await self._behind()
                if behind and not self._buffer and not self._rebalance.is_set():
                    # Markers are only stepped over while reading, so read ahead; `fetch` gives out what comes.
                    await self._poll(_PREFETCH, _MARKERS_S)
                    behind = await self._behind()
        return behind

    async def _behind(self) -> dict[TopicPartition, int]:
        if not self._positions:
            return {}
        owned = [self._theirs(at) for at in self._positions]
        # With read_committed this is the end of what can be read now, open transactions left out.
        ends = await self._consumer.end_offsets(owned)
        behind = collections.Counter(TopicPartition(m.topic, m.partition or 0) for m in self._buffer)
        for at, end in ends.items():
            behind[self._ours(at)] += max(0, end - await self._consumer.position(at))
        return +behind

    async def commit(self, appends: Sequence[Message] = ()) -> None:
        self._check_usable()
        moved = {at: offset for at, offset in self._positions.items() if self._committed.get(at) != offset}
        if not moved and not appends:
            return
        offsets = {self._theirs(at): offset for at, offset in moved.items()}
        with metrics.LOG_COMMIT_SECONDS.labels(group=self._label).time():
            try:
                await self._producer.commit(appends, offsets, self._group, self._membership)
            except BaseException:
                self._usable = False
                raise
        self._committed.update(moved)

    async def close(self) -> None:
        try:
            if self._usable and self._on_revoke is not None and self._positions:
                await self._on_revoke(self._owned)
        finally:
            self._usable = False
            if self._handed_over is not None and not self._handed_over.done():
                self._handed_over.set_result(None)
            self._forget()
            await self._stop()

    async def _stop(self) -> None:
        try:
            # The producer first: whoever takes over waits for its open transaction.
            await self._producer.stop()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Leave the group. Without a broker the tasks of the membership must end too, or they would join again."""
        await finish(self._consumer.stop(), _CLOSE_S)
        coordinator, fetcher = self._consumer._coordinator, self._consumer._fetcher
        tasks = [fetcher._fetch_task, *fetcher._pending_tasks] if fetcher is not None else []
        if coordinator is not None:
            tasks += [coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CLOSE_S)
        await finish(self._consumer._client.close(), _CLOSE_S)

    def _check_usable(self) -> None:
        if not self._usable:
            raise TransientError("Kafka: a commit failed or the reader was closed; open a new reader")

    def _ours(self, partition: KafkaPartition) -> TopicPartition:
        return TopicPartition(partition.topic.removeprefix(self._prefix), partition.partition)

    def _theirs(self, at: TopicPartition) -> KafkaPartition:
        return KafkaPartition(self._prefix + at.topic, at.partition)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: KafkaReader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._reader.revoking()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assigned(assigned)
