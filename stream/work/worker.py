"""Runs a pure state per partition over the log: fetch, process, commit outputs with positions, snapshot, resume.

Outputs, positions and snapshots go out in one atomic commit. After a crash at any point the state is rebuilt from the
last snapshot by replaying what was already answered in silence, so no output is lost and none is written twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.log.protocol import Log, Message, Positions, Reader, TopicPartition
from curb.stream.work.checkpoint import committed_message, load_checkpoints, snapshot_messages

logger = logging.getLogger(__name__)

#: Messages per fetch: enough to amortise the call, few enough to bound memory at 500 kB a message.
_FETCH = 200
#: Messages held back for a partition that is further behind before they are processed all the same.
_HOLD = 400
#: Work goes on for so long (seconds) before other tasks, such as the heartbeats of the group, have their turn.
_TURN_S = 0.05
#: A worker that ran for so long (seconds) starts again at once after its next error.
_SOUND_S = 60.0


class PartitionState(Protocol):
    """Pure and deterministic: the same messages give the same outputs, wherever fetches and flushes fall between them.

    `process` takes one message and returns what to append. `flush` is called before each commit and returns what
    gathered since the last one; `now` is the clock's time when everything of the partition was read, else None. It is
    held back to the `time` of the partition furthest behind: no partition reports a time whose data wait elsewhere.
    `snapshot` is called right after a flush; `restore` brings a fresh state to it. `time` is how far the data read so
    far have come (epoch seconds; a constant where that means nothing): while there is a backlog, the partition that
    is furthest behind goes first, so that no partition's past is worked off long before another's.
    """

    @property
    def time(self) -> float: ...

    def process(self, message: Message) -> Sequence[Message]: ...

    def flush(self, now: float | None) -> Sequence[Message]: ...

    def snapshot(self) -> bytes: ...

    def restore(self, data: bytes) -> None: ...


@runtime_checkable
class Stepwise(Protocol):
    """A state whose answer to one message may take long, such as the scoring of days at the tick that ends a backlog.

    `steps` does what `process` does, a part at a time.
    """

    def steps(self, message: Message) -> Iterator[Sequence[Message]]: ...


@dataclass
class _Partition:
    state: PartitionState
    #: Messages before this offset are replayed in silence.
    silent_until: int
    next_offset: int
    snapshot_offset: int
    generation: int
    #: The offset the last commit of this process wrote, -1 before the first.
    committed: int = -1
    silent: bool = True
    #: Fetched and not processed yet.
    held: deque[Message] = field(default_factory=deque)


class Worker:
    """One member of a group that keeps a `PartitionState` for every partition it owns."""

    def __init__(
        self,
        log: Log,
        group: str,
        topics: Sequence[str],
        make_state: Callable[[TopicPartition], PartitionState],
        clock: Clock,
        *,
        commit_interval_s: float = 0.5,
        snapshot_interval_s: float = 300.0,
    ) -> None:
        """`commit_interval_s` and `snapshot_interval_s` are wall-clock seconds, whatever `clock` says."""
        self._log, self._group, self._topics, self._make_state, self._clock = log, group, topics, make_state, clock
        self._commit_interval_s, self._snapshot_interval_s = commit_interval_s, snapshot_interval_s
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._outputs: list[Message] = []
        self._reader: Reader | None = None
        self._turn_began = 0.0
        #: Commits made with everything on the log processed; two more of them mean that all there was is answered.
        self.rounds = 0

    @property
    def states(self) -> dict[TopicPartition, PartitionState]:
        """The states this member owns now; for reading only."""
        return {at: partition.state for at, partition in self._partitions.items()}

    @property
    def owns_all(self) -> bool:
        """True while every partition of the topics belongs to this member."""
        return len(self._partitions) == sum(self._log.partitions(topic) for topic in self._topics)

    @property
    def caught_up(self) -> bool:
        """True once everything that was on the log has been processed."""
        return self.rounds > 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then commit. An unreachable log is tried again."""
        loop, wait_s = asyncio.get_running_loop(), 0.5
        while not stop.is_set():
            started = loop.time()
            try:
                await self._run_once(stop)
            except TransientError as error:
                wait_s = 0.5 if loop.time() - started > _SOUND_S else min(30.0, wait_s * 2)
                logger.warning("worker restarts", extra={"group": self._group, "error": str(error), "wait_s": wait_s})
                await _wait(stop, wait_s)

    async def _run_once(self, stop: asyncio.Event) -> None:
        self._forget()
        reader = await self._log.reader(self._group, self._topics, on_assign=self._assigned, on_revoke=self._revoked)
        try:
            self._reader = reader
            reader.seek(self._resume_positions())
            await self._loop(reader, stop)
        finally:
            self._reader = None
            await reader.close()
            self._forget()

    async def _loop(self, reader: Reader, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        commit_at = loop.time() + self._commit_interval_s
        snapshot_at = loop.time() + self._snapshot_interval_s
        behind = await reader.lag()
        await self._commit(reader, self._partitions.keys(), 0.0, snapshot=False)  # every state may say that it is here
        while not stop.is_set():
            if self._count_held() <= _HOLD:
                for message in await reader.fetch(_FETCH, max(0.0, commit_at - loop.time())):
                    self._hold(message)
            if behind:  # without a backlog what came is processed in the order it came
                behind = await reader.lag()
            await self._process_held(behind.keys(), commit_at)
            if loop.time() < commit_at:
                continue
            # The time first, then whether all is read: what is appended in between was received later than `now`.
            now = self._clock.now()
            behind = await reader.lag()
            due = loop.time() >= snapshot_at
            await self._commit(reader, behind.keys(), now, snapshot=due)
            if not behind and self._partitions and not self._count_held():
                self.rounds += 1
            if due:
                snapshot_at = loop.time() + self._snapshot_interval_s
            commit_at = loop.time() + self._commit_interval_s
        await self._commit(reader, self._partitions.keys(), 0.0, snapshot=True)

    def _hold(self, message: Message) -> None:
        partition = self._partitions.get(TopicPartition(message.topic, message.partition or 0))
        if partition is not None:  # else fetched before the partition was taken away
            partition.held.append(message)

    def _count_held(self) -> int:
        return sum(len(partition.held) for partition in self._partitions.values())

    async def _process_held(self, unread: Set[TopicPartition], until: float) -> None:
        """Process what is held, the partition furthest behind first; stop where its messages are still to come.

        It stops as well when the loop's time is `until`, so that a backlog is committed as it is worked off, and an
        input without data gets the time as often as the others report it.
        """
        loop = asyncio.get_running_loop()
        held = self._count_held()
        while held:
            waiting = [(at, p) for at, p in self._partitions.items() if p.held or at in unread]
            first = min(waiting, key=lambda entry: entry[1].state.time)[1]
            if not first.held:
                if held <= _HOLD:
                    return
                first = min((p for p in self._partitions.values() if p.held), key=lambda p: p.state.time)
            await self._process(first, first.held.popleft())
            held -= 1
            if loop.time() >= until:
                return

    async def _process(self, partition: _Partition, message: Message) -> None:
        if message.offset < partition.next_offset:
            return  # fetched before the seek of its assignment
        if partition.silent and message.offset >= partition.silent_until:
            self._end_silence(partition)
        outputs: list[Message] = []
        if isinstance(partition.state, Stepwise):
            for part in partition.state.steps(message):
                outputs += part
                await self._give_way()
        else:
            outputs += partition.state.process(message)
            await self._give_way()
        partition.next_offset = message.offset + 1
        if not partition.silent:
            self._outputs += outputs

    async def _give_way(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._turn_began >= _TURN_S:
            await asyncio.sleep(0)
            self._turn_began = asyncio.get_running_loop().time()

    @staticmethod
    def _end_silence(partition: _Partition) -> None:
        if partition.next_offset > partition.snapshot_offset:
            partition.state.flush(None)  # these outputs are on the log since before the restart
        partition.silent = False

    async def _commit(self, reader: Reader, unread: Set[TopicPartition], now: float, *, snapshot: bool) -> None:
        messages = self._outputs
        self._outputs = []
        if any(
            partition.silent and partition.next_offset < partition.silent_until
            for partition in self._partitions.values()
        ):
            unread = self._partitions.keys()  # until all are where they were, time stands still for each
        behind = {at for at, partition in self._partitions.items() if partition.held or at in unread}
        now = min([now, *(self._partitions[at].state.time for at in behind)])
        for at, partition in self._partitions.items():
            if partition.silent and partition.next_offset < partition.silent_until:
                continue
            if partition.silent:
                self._end_silence(partition)
            messages += partition.state.flush(None if at in behind else now)
            if partition.next_offset != partition.committed:
                messages.append(committed_message(self._group, at, partition.next_offset))
                partition.committed = partition.next_offset
            if snapshot and partition.next_offset > partition.snapshot_offset:
                partition.generation += 1
                partition.snapshot_offset = partition.next_offset
                data = partition.state.snapshot()
                messages += snapshot_messages(self._group, at, partition.next_offset, data, partition.generation)
        if messages:
            await reader.commit(messages)

    async def _assigned(self, partitions: frozenset[TopicPartition]) -> None:
        new = partitions - self._partitions.keys()
        for at, checkpoint in (await load_checkpoints(self._log, self._group, new)).items():
            state = self._make_state(at)
            if checkpoint.snapshot is not None:
                state.restore(checkpoint.snapshot)
            start = checkpoint.snapshot_offset
            self._partitions[at] = _Partition(
                state,
                silent_until=checkpoint.committed,
                next_offset=start,
                snapshot_offset=start,
                generation=checkpoint.generation,
            )
        if self._reader is not None:
            self._reader.seek(self._resume_positions())

    async def _revoked(self, partitions: frozenset[TopicPartition]) -> None:
        if self._reader is not None and self._partitions:
            await self._commit(self._reader, self._partitions.keys(), 0.0, snapshot=True)
        for at in partitions:
            self._partitions.pop(at, None)

    def _resume_positions(self) -> Positions:
        return {at: partition.next_offset for at, partition in self._partitions.items()}

    def _forget(self) -> None:
        self._partitions.clear()
        self._outputs.clear()
        self.rounds = 0


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
