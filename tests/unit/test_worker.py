"""The worker: outputs and positions go out together, and a restart at any point loses and doubles nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import ALERTS, SPEND, STATE
from curb.stream.work.worker import Worker
from tests.fakes.memory_log import MemoryLog


class RunningSum:
    """Sums integers; emits the part since the last flush, and a line at each multiple of ten of the total."""

    time = 0.0

    def __init__(self) -> None:
        self.total = self.part = 0

    def process(self, message: Message) -> Sequence[Message]:
        before = self.total
        self.total += int(message.value)
        self.part += int(message.value)
        crossed = range(before // 10 + 1, self.total // 10 + 1)
        return [Message(ALERTS, f"ten {n}".encode()) for n in crossed]

    def flush(self, now: float | None) -> Sequence[Message]:
        part, self.part = self.part, 0
        return [Message(ALERTS, f"part {part}".encode())] if part else []

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def restore(self, data: bytes) -> None:
        self.total = int(data)


class Crash(BaseException):
    """Stands for the process dying."""


class DyingLog(EmbeddedLog):
    """Dies before or after its k-th write, as a kill would."""

    writes_left = 1_000_000
    after = False

    def _write(self, messages, group, positions):  # type: ignore[no-untyped-def]
        self.writes_left -= 1
        if self.writes_left == 0 and not self.after:
            raise Crash
        super()._write(messages, group, positions)
        if self.writes_left == 0 and self.after:
            raise Crash


async def run_until_read(log: EmbeddedLog, count: int, **options: float) -> Worker:
    states: list[RunningSum] = []

    def make(at: TopicPartition) -> RunningSum:
        states.append(RunningSum())
        return states[-1]

    worker = Worker(log, "g", [SPEND], make, ManualClock(), **{"commit_interval_s": 0.0, **options})
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    while not task.done() and not (worker.caught_up and states[-1].total == count):
        await asyncio.sleep(0.001)
    stop.set()
    await task
    return worker


async def outputs(log: EmbeddedLog) -> tuple[int, list[bytes]]:
    values = [message.value async for message in log.scan(ALERTS)]
    return sum(int(v.split()[1]) for v in values if v.startswith(b"part")), [v for v in values if v.startswith(b"ten")]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("die_at", range(1, 8))
@pytest.mark.parametrize("snapshot_interval_s", [0.0, 1e9])
async def test_a_crash_at_any_write_loses_and_doubles_nothing(
    tmp_path: Path, die_at: int, after: bool, snapshot_interval_s: float
) -> None:
    log = EmbeddedLog(tmp_path, ManualClock())
    await log.open()
    for _ in range(6):
        await log.append([Message(SPEND, b"3")] * 7)
    await log.close()

    dying = DyingLog(tmp_path, ManualClock())
    dying.writes_left, dying.after = die_at, after
    await dying.open()
    import curb.stream.work.worker as module  # small fetches, so that there are many commits to die in

    module._FETCH = 5
    try:
        with pytest.raises(Crash):
            await run_until_read(dying, -1, snapshot_interval_s=snapshot_interval_s)
        await dying.close()
        again = EmbeddedLog(tmp_path, ManualClock())
        await again.open()
        await run_until_read(again, 126, snapshot_interval_s=snapshot_interval_s)
    finally:
        module._FETCH = 200
    assert await outputs(again) == (126, [f"ten {n}".encode() for n in range(1, 13)])
    await again.close()


async def test_an_idle_worker_writes_nothing(tmp_path: Path) -> None:
    log = DyingLog(tmp_path, ManualClock())
    await log.open()
    await log.append([Message(SPEND, b"3")])
    await run_until_read(log, 3)
    before = log.writes_left
    await run_until_read(log, 3)
    assert before - log.writes_left <= 1
    await log.close()


async def test_a_log_that_comes_back_is_read_on(tmp_path: Path) -> None:
    class Flaky(EmbeddedLog):
        failures = 2

        async def table(self, topic: str) -> dict[bytes, bytes]:
            if topic == STATE and self.failures:
                self.failures -= 1
                raise TransientError("not now")
            return await super().table(topic)

    log = Flaky(tmp_path, ManualClock())
    await log.open()
    await log.append([Message(SPEND, b"3")])
    await run_until_read(log, 3)
    assert (await outputs(log))[0] == 3
    await log.close()


async def test_time_never_passes_what_was_appended_while_the_log_was_asked_for_its_end() -> None:
    clock = ManualClock(10.0)

    class Seen:
        time, read, passed = 0.0, [0.0], [0.0]

        def process(self, message: Message) -> Sequence[Message]:
            assert float(message.value) >= max(self.passed)
            self.read.append(float(message.value))
            return []

        def flush(self, now: float | None) -> Sequence[Message]:
            self.passed.append(now or 0.0)
            return []

        def snapshot(self) -> bytes:
            return b"-"

        def restore(self, data: bytes) -> None:
            raise AssertionError

    class LateAnswer(MemoryLog):
        async def reader(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            inner = await super().reader(*args, **kwargs)
            asked = inner.lag

            async def lag() -> dict[TopicPartition, int]:
                behind = await asked()
                # The answer is on its way while a source appends what it has just received.
                if clock.now() < 15:
                    await clock.advance(1.0)
                    await log.append([Message(SPEND, str(clock.now() - 0.5).encode())])
                return behind

            inner.lag = lag
            return inner

    log = LateAnswer(partitions=1)
    stop = asyncio.Event()
    worker = Worker(log, "g", [SPEND], lambda at: Seen(), clock, commit_interval_s=0.001)
    task = asyncio.create_task(worker.run(stop))
    while not task.done() and Seen.read[-1] < 14.5:
        await asyncio.sleep(0)
    stop.set()
    await task


async def test_an_idle_partition_tells_no_time_that_another_has_still_to_read() -> None:
    passed: list[float] = []

    class Idle:
        time = 0.0

        def process(self, message: Message) -> Sequence[Message]:
            self.time = float(message.value)
            return []

        def flush(self, now: float | None) -> Sequence[Message]:
            passed.extend([] if now is None else [now])
            return []

        def snapshot(self) -> bytes:
            return b"-"

        def restore(self, data: bytes) -> None:
            raise AssertionError

    class SlowFetch(MemoryLog):
        async def reader(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            inner = await super().reader(*args, **kwargs)
            fetch = inner.fetch

            async def one_by_one(_: int, timeout_s: float) -> Sequence[Message]:
                await asyncio.sleep(0)
                return await fetch(1, timeout_s)  # type: ignore[no-any-return]

            inner.fetch = one_by_one
            return inner

    log = SlowFetch(partitions=2)
    await log.append([Message(SPEND, str(at).encode(), partition=1) for at in (1.0, 2.0, 3.0)])
    stop = asyncio.Event()
    worker = Worker(log, "g", [SPEND], lambda at: Idle(), ManualClock(1e6), commit_interval_s=0)
    task = asyncio.create_task(worker.run(stop))
    while not task.done() and 1e6 not in passed:
        await asyncio.sleep(0)
    stop.set()
    await task
    # Partition 0 is empty: it told how far the other was, and the clock's time when all was read.
    assert set(passed[: passed.index(1e6)]) <= {0.0, 1.0, 2.0, 3.0}
    assert {1.0, 2.0} <= set(passed)


async def test_a_backlog_whose_source_is_quiet_is_read_at_the_speed_of_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300,000 events at 2 µs, with the loop's time made of the work and of the waits for messages."""
    loop = asyncio.get_running_loop()
    passed_s = worked_s = 0.0

    class Working:
        time = 0.0
        messages = 0

        def process(self, message: Message) -> Sequence[Message]:
            nonlocal passed_s, worked_s
            spent_s = 2e-6 * int(message.value)
            passed_s, worked_s = passed_s + spent_s, worked_s + spent_s
            Working.messages += 1
            return []

        def flush(self, now: float | None) -> Sequence[Message]:
            return []

        def snapshot(self) -> bytes:
            return b"-"

        def restore(self, data: bytes) -> None:
            raise AssertionError

    class Quiet(MemoryLog):
        async def wait_for_append(self, timeout_s: float) -> None:
            nonlocal passed_s
            passed_s += timeout_s
            await asyncio.sleep(0)

    log = Quiet(partitions=2)
    await log.append([Message(SPEND, b"500", partition=at % 2) for at in range(600)])
    monkeypatch.setattr(loop, "time", lambda: passed_s)
    stop = asyncio.Event()
    task = asyncio.create_task(Worker(log, "g", [SPEND], lambda at: Working(), ManualClock()).run(stop))
    while not task.done() and Working.messages < 600:
        await asyncio.sleep(0)
    taken_s = passed_s
    stop.set()
    await task
    assert worked_s == pytest.approx(0.6)
    assert taken_s <= 2 * worked_s


class Relearning(RunningSum):
    """Wants to be made again after its first message, and is made again from all there was until then."""

    past_hours = 24
    learned = False

    @property
    def wants_rebuild(self) -> bool:
        return self.total > 0 and not self.learned

    def rebuild(self) -> Relearning:
        return Relearning()

    def leave_past(self) -> None:
        raise AssertionError

    def note(self, message: Message) -> None: ...

    def steps(self, message: Message) -> Iterator[Sequence[Message]]:
        yield self.process(message)

    def finish(self, before: RunningSum) -> tuple[RunningSum, Sequence[Message]]:
        self.learned = True
        return self, []


@pytest.mark.timeout(60)
async def test_others_have_their_turn_while_a_backlog_waits_for_a_state_that_is_made_again() -> None:
    log = MemoryLog(partitions=1)
    await log.append([Message(SPEND, b"1")] * 1000)  # more than is held at once
    stop = asyncio.Event()
    # No commit comes to the aid: it is due after what this test waits for.
    worker = Worker(log, "g", [SPEND], lambda at: Relearning(), ManualClock(), commit_interval_s=20)
    task = asyncio.create_task(worker.run(stop))
    async with asyncio.timeout(10):
        while [state.total for state in worker.states.values() if isinstance(state, Relearning)] != [1000]:
            await asyncio.sleep(0)
    stop.set()
    await task
