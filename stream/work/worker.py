"""Runs a pure state per partition over the log: fetch, process, commit outputs with positions, snapshot, resume.

Outputs, positions and snapshots go out in one atomic commit. After a crash at any point the state is rebuilt from the
last snapshot by replaying what was already answered in silence, so no output is lost and none is written twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from curb.stream.clock import Clock
from curb.stream.errors import TransientError, place_of
from curb.stream.log.protocol import Log, Message, Positions, Reader, TopicPartition
from curb.stream.log.topics import ALERTS
from curb.stream.work.checkpoint import Checkpoint, committed_message, load_checkpoints, snapshot_messages
from curb.stream.work.lag import ReadUntil

logger = logging.getLogger(__name__)

#: Messages per fetch: enough to amortise the call, few enough to bound memory at 500 kB a message.
_FETCH = 200
#: Messages held back for a partition that is further behind before they are processed all the same.
_HOLD = 400
#: Longest wait (seconds) for messages that are on the log while those held must come after them.
_ON_THE_WAY_S = 0.01
#: Work goes on for so long (seconds) before other tasks, such as the heartbeats of the group, have their turn.
_TURN_S = 0.01
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


@runtime_checkable
class Formed(Protocol):
    """A state whose snapshots say how they are laid out: one of another form is not read."""

    @property
    def snapshot_form(self) -> str: ...


@runtime_checkable
class Alerting(Protocol):
    """A state that goes on with alerts which were sent before it was made again without its snapshot.

    `sent` is all that is on the topic of alerts, of whatever state; returns what is to be sent now.
    """

    def continue_alerts(self, sent: Sequence[Message]) -> Sequence[Message]: ...


class StateRebuild(Protocol):
    """One making of a state: `note` every message in order, then `steps` over every message again, then `finish`."""

    def note(self, message: Message) -> None: ...

    def steps(self, message: Message) -> Iterator[None]: ...

    def finish(self, before: Any) -> tuple[Any, Sequence[Message]]:
        """The new state, and what to append for what it would have said otherwise than the one `before` it."""
        ...


@runtime_checkable
class Rebuildable(Protocol):
    """A state that can be made again from everything that its partition holds, while it goes on being used.

    `leave_past` says that it will not be: the log no longer holds the beginning.
    """

    @property
    def wants_rebuild(self) -> bool: ...

    @property
    def past_hours(self) -> int: ...

    def rebuild(self) -> StateRebuild: ...

    def leave_past(self) -> None: ...


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
    #: What is on the topic of alerts, for a state that was made again without its snapshot.
    sent: list[Message] | None = None
    #: Fetched and not processed yet.
    held: deque[Message] = field(default_factory=deque)
    #: Makes the state again; with a backlog the messages wait for it, so that none is answered untaught.
    rebuild: asyncio.Task[None] | None = None
    waits: bool = False


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
        self._snapshot_due = False
        self._read = ReadUntil()
        #: Why nothing can be read or written now; empty while it can.
        self.problem = ""
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

    @property
    def lag_s(self) -> float:
        """All that was on the log so many seconds ago is processed; what waited at the start does not count."""
        return self._read.lag_s(asyncio.get_running_loop().time())

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then commit. An unreachable log is tried again."""
        loop, wait_s = asyncio.get_running_loop(), 0.5
        while not stop.is_set():
            started = loop.time()
            try:
                await self._run_once(stop)
            except TransientError as error:
                wait_s = 0.5 if loop.time() - started > _SOUND_S else min(30.0, wait_s * 2)
                self.problem = str(error)
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
        held, before = 0, 0
        while not stop.is_set():
            if held <= _HOLD:
                wait_s = max(0.0, commit_at - loop.time())
                if held:  # there is work: wait for no more, unless the last turn could do none of it
                    wait_s = min(wait_s, _ON_THE_WAY_S if held == before else 0.0)
                for message in await reader.fetch(_FETCH, wait_s):
                    self._hold(message)
            elif held == before:  # the last turn could do none of it, as while a state is being made again
                await asyncio.sleep(_ON_THE_WAY_S)
            if behind and held <= _HOLD:  # without a backlog what came is processed in the order it came
                behind = await reader.lag()
            before = self._count_held()
            # However long the log took to answer: a turn that begins late works for half an interval all the same.
            await self._process_held(behind.keys(), max(commit_at, loop.time() + self._commit_interval_s / 2))
            held = self._count_held()
            if loop.time() < commit_at:
                continue
            # The time first, then whether all is read: what is appended in between was received later than `now`.
            now = self._clock.now()
            behind = await reader.lag()
            self._note_lag(reader.positions(), behind)
            due = loop.time() >= snapshot_at or self._snapshot_due
            await self._commit(reader, behind.keys(), now, snapshot=due)
            if not behind and self._partitions and not self._count_held():
                self.rounds += 1
            if due:
                snapshot_at, self._snapshot_due = loop.time() + self._snapshot_interval_s, False
            commit_at = loop.time() + self._commit_interval_s
        await self._commit(reader, self._partitions.keys(), 0.0, snapshot=True)

    def _note_lag(self, positions: Positions, behind: Mapping[TopicPartition, int]) -> None:
        """`behind` is how many messages of each partition lie after `positions`; more are held."""
        waiting = {at: p for at, p in self._partitions.items() if p.held or at in behind}
        ends = {at: positions.get(at, p.next_offset) + behind.get(at, 0) for at, p in waiting.items()}
        done = {at: p.next_offset for at, p in waiting.items()}
        self._read.note(asyncio.get_running_loop().time(), ends, done)

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
            going = [(at, p) for at, p in self._partitions.items() if not p.waits]
            waiting = [(at, p) for at, p in going if p.held or at in unread]
            if not any(p.held for _, p in waiting):
                return
            first_at, first = min(waiting, key=lambda entry: entry[1].state.time)
            if not first.held:
                if held <= _HOLD:
                    return
                first_at, first = min(((at, p) for at, p in going if p.held), key=lambda entry: entry[1].state.time)
            await self._process(first, first.held.popleft())
            self._begin_rebuild(first_at, first, waits=bool(first.held) or first_at in unread)
            held -= 1
            if loop.time() >= until:
                return

    async def _process(self, partition: _Partition, message: Message) -> None:
        if message.offset < partition.next_offset:
            return  # fetched before the seek of its assignment
        if partition.silent and message.offset >= partition.silent_until:
            self._outputs += self._end_silence(partition)
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

    def _end_silence(self, partition: _Partition) -> Sequence[Message]:
        """The state is where it was; returns what is to be said although it is on the log, in other words."""
        if partition.next_offset > partition.snapshot_offset:
            partition.state.flush(None)  # these outputs are on the log since before the restart
        partition.silent = False
        sent, partition.sent = partition.sent, None
        if sent is None:
            return ()
        self._snapshot_due = True
        return partition.state.continue_alerts(sent) if isinstance(partition.state, Alerting) else ()

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
                messages += self._end_silence(partition)
            messages += partition.state.flush(None if at in behind else now)
            if partition.next_offset != partition.committed:
                messages.append(committed_message(self._group, at, partition.next_offset))
                partition.committed = partition.next_offset
            if snapshot and partition.next_offset > partition.snapshot_offset:
                partition.generation += 1
                partition.snapshot_offset = partition.next_offset
                data = partition.state.snapshot()
                form = _form(partition.state)
                messages += snapshot_messages(self._group, at, partition.next_offset, data, partition.generation, form)
        if messages:
            await reader.commit(messages)
        self.problem = ""

    async def _assigned(self, partitions: frozenset[TopicPartition]) -> None:
        new = partitions - self._partitions.keys()
        for at, checkpoint in (await load_checkpoints(self._log, self._group, new)).items():
            state, why = self._restored(at, checkpoint)
            start, sent = checkpoint.snapshot_offset, None
            if why:
                start = await self._first_offset(at, checkpoint.committed)
                sent = [message async for message in self._log.scan(ALERTS)] if isinstance(state, Alerting) else []
                logger.warning(
                    "a snapshot is set aside: its state is made again from the log, and nothing is sent twice",
                    extra={"group": self._group, "partition": f"{at.topic}/{at.partition}", "reason": why}
                    | ({"missing": f"the log begins at offset {start}"} if start else {}),
                )
            self._partitions[at] = _Partition(
                state,
                silent_until=checkpoint.committed,
                next_offset=start,
                snapshot_offset=start,
                generation=checkpoint.generation,
                sent=sent,
            )
        if self._reader is not None:
            self._reader.seek(self._resume_positions())

    def _restored(self, at: TopicPartition, checkpoint: Checkpoint) -> tuple[PartitionState, str]:
        """The state of a partition, and why its snapshot cannot be used, or nothing."""
        state = self._make_state(at)
        if checkpoint.snapshot is None:
            return state, checkpoint.damage
        if checkpoint.form and checkpoint.form != _form(state):
            return state, f"it was written as {checkpoint.form!r}, and this is {_form(state)!r}"
        try:
            state.restore(checkpoint.snapshot)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the log makes up for it
            return self._make_state(at), f"{type(error).__name__} at {place_of(error)}: {error}"[:300]
        return state, ""

    async def _first_offset(self, at: TopicPartition, end: int) -> int:
        """The first message before `end` that the log still holds; `end` where it holds none."""
        async with aclosing(self._messages(at, 0, end)) as messages:
            async for message in messages:
                return message.offset
        return end

    async def _revoked(self, partitions: frozenset[TopicPartition]) -> None:
        if self._reader is not None and self._partitions:
            await self._commit(self._reader, self._partitions.keys(), 0.0, snapshot=True)
        for at in partitions:
            lost = self._partitions.pop(at, None)
            if lost is not None and lost.rebuild is not None:
                lost.rebuild.cancel()

    # --- states that are made again ----------------------------------------------------------------------------------

    def learn_past(self) -> None:
        """Have every state that has a past to learn made again now, without waiting for more of it."""
        for at, partition in self._partitions.items():
            self._begin_rebuild(at, partition, waits=True, at_once=True)

    @property
    def rebuilding(self) -> bool:
        """True while a state is being made again."""
        return any(partition.rebuild is not None for partition in self._partitions.values())

    def _begin_rebuild(self, at: TopicPartition, partition: _Partition, *, waits: bool, at_once: bool = False) -> None:
        state = partition.state
        if partition.silent or partition.rebuild is not None or not isinstance(state, Rebuildable):
            return
        if state.wants_rebuild or (at_once and state.past_hours):
            partition.waits = waits
            partition.rebuild = asyncio.create_task(self._rebuild(at, partition, state), name=f"rebuild {at}")

    async def _rebuild(self, at: TopicPartition, partition: _Partition, state: Rebuildable) -> None:
        """Make a state again from the start of its partition, and put it in place when it has caught up."""
        logger.info("learning the past", extra={"partition": at.partition, "hours": state.past_hours})
        try:
            rebuild, end, read = state.rebuild(), partition.next_offset, 0
            async for message in self._messages(at, 0, end):
                if read == 0 and message.offset > 0:
                    logger.warning("the log no longer holds its beginning: the past counts and teaches nothing")
                    return state.leave_past()
                read += 1
                rebuild.note(message)
                await self._give_way()
            next_offset = 0
            while next_offset < partition.next_offset:  # it moves on meanwhile
                end = partition.next_offset
                async for message in self._messages(at, next_offset, end):
                    for _ in rebuild.steps(message):
                        await self._give_way()
                next_offset = end
            if self._partitions.get(at) is partition:
                partition.state, said = rebuild.finish(state)
                self._outputs += said
                self._snapshot_due = True
                logger.info("the past is learned", extra={"partition": at.partition})
        except TransientError as error:
            logger.warning("the past is learned later", extra={"error": str(error)})
        except Exception as error:  # noqa: BLE001 - what cannot be learned must not stop what is live
            logger.error("the past cannot be learned", extra={"error": type(error).__name__, "where": place_of(error)})
            state.leave_past()
        finally:
            partition.rebuild, partition.waits = None, False

    async def _messages(self, at: TopicPartition, start: int, end: int) -> AsyncGenerator[Message, None]:
        """The messages of a partition between two offsets."""
        messages = cast("AsyncGenerator[Message, None]", self._log.scan(at.topic, {at: start}))
        async with aclosing(messages):
            async for message in messages:
                if message.offset >= end:
                    return
                yield message

    def _resume_positions(self) -> Positions:
        return {at: partition.next_offset for at, partition in self._partitions.items()}

    def _forget(self) -> None:
        for partition in self._partitions.values():
            if partition.rebuild is not None:
                partition.rebuild.cancel()
        self._partitions.clear()
        self._outputs.clear()
        self.rounds = 0


def _form(state: PartitionState) -> str:
    return state.snapshot_form if isinstance(state, Formed) else ""


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
