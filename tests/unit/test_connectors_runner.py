"""The pull runner: order of append and cursor, backoff, and that nothing kills it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from curb.connectors.connector import Batch
from curb.connectors.intake.runner import PullRunner
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message
from curb.stream.log.topics import CURSORS
from curb.stream.records.spend import CostRecord, SpendRecord, UsageRecord
from curb.stream.retry import RetryPolicy
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0
POLICY = RetryPolicy(first_s=1.0, cap_s=8.0)


def record(number: int) -> UsageRecord:
    return UsageRecord(
        id=f"r{number}", charge_period_start=NOW - 60, received_at=NOW, effective_cost=0.5, tags={"team": "a"}
    )


class Script:
    """Answers reads from a list: batches are returned, errors raised; the last answer repeats."""

    def __init__(self, *answers: Batch | Exception | Callable[[], Batch]) -> None:
        self.answers, self.cursors = list(answers), list[str | None]()

    async def read(self, cursor: str | None) -> Batch:
        self.cursors.append(cursor)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Batch) else answer()

    async def close(self) -> None:
        return None


def errors(name: str, kind: str) -> float:
    return REGISTRY.get_sample_value("curb_connector_errors_total", {"connector": name, "kind": kind}) or 0.0


def make(script: Script, log: MemoryLog, clock: ManualClock, name: str = "c") -> PullRunner:
    return PullRunner(script, name, log, clock, poll_interval_s=10.0, policy=POLICY, rng=random.Random(1))


async def run_for(runner: PullRunner, clock: ManualClock, *seconds: float, reads: list[int], script: Script) -> None:
    """Run the runner, move the clock in these steps, and note after each how many reads there were."""
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    for step in (0.0, *seconds):
        await clock.advance(step)
        for _ in range(30):
            await asyncio.sleep(0)
        reads.append(len(script.cursors))
    stop.set()
    await task


async def test_goes_on_from_the_saved_cursor() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    first = make(Script(Batch([record(1)], "1", more=True)), log, clock)
    assert await first.step()
    assert first.last_success == NOW
    script = Script(Batch([record(2)], "2"))
    assert not await make(script, log, clock).step()
    assert script.cursors == ["1"]
    assert [each.id for each in log.records()] in (["r1", "r2"], ["r2", "r1"])


async def test_an_unchanged_cursor_is_not_written_again() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    runner = make(Script(Batch([], "1")), log, clock)
    for _ in range(3):
        await runner.step()
    assert len(log.of(CURSORS)) == 1


async def test_the_cursor_stays_when_the_append_fails() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    log.fail_next = 1
    script = Script(Batch([record(1)], "1"))
    reads: list[int] = []
    await run_for(make(script, log, clock), clock, 1.0, reads=reads, script=script)
    assert script.cursors == [None, None]
    assert [each.id for each in log.records()] == ["r1"]


async def test_more_is_read_at_once_and_then_the_poll_interval_is_waited() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(Batch([record(1)], "1", more=True), Batch([record(2)], "2"))
    reads: list[int] = []
    await run_for(make(script, log, clock), clock, 9.9, 0.2, reads=reads, script=script)
    assert reads == [2, 2, 3]


async def test_transient_errors_back_off_up_to_the_cap_and_then_reset() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(*[TransientError("later")] * 6, Batch([], "1"))
    reads: list[int] = []
    before = errors("backs-off", "transient")
    await run_for(make(script, log, clock, "backs-off"), clock, 1, 2, 4, 8, 8, 8, reads=reads, script=script)
    assert reads == [1, 2, 3, 4, 5, 6, 7]
    assert errors("backs-off", "transient") - before == 6


async def test_retry_after_is_honoured() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(TransientError("busy", retry_after=120.0), Batch([], "1"))
    reads: list[int] = []
    await run_for(make(script, log, clock), clock, 119, 1, reads=reads, script=script)
    assert reads == [1, 1, 2]


async def test_a_permanent_error_waits_long_and_does_not_kill() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(PermanentError("forbidden"), Batch([record(1)], "1"))
    reads: list[int] = []
    runner = make(script, log, clock, "forbidden")
    await run_for(runner, clock, 299, 1, reads=reads, script=script)
    assert reads == [1, 1, 2]
    assert errors("forbidden", "permanent") == 1
    assert runner.last_success == NOW + 300


async def test_a_defect_is_counted_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(ZeroDivisionError("oops"), TimeoutError(), Batch([record(1)], "1"))
    reads: list[int] = []
    await run_for(make(script, log, clock, "defect"), clock, 1, 2, reads=reads, script=script)
    assert reads == [1, 2, 3]
    assert (errors("defect", "unexpected"), errors("defect", "transient")) == (1, 1)
    details = [str(vars(each)["detail"]) for each in caplog.records if each.levelname == "ERROR"]
    assert [each.partition(":")[0] for each in details] == ["ZeroDivisionError at connectors/intake/runner.py"]
    assert "oops" not in details[0]
    assert len(log.records()) == 1


async def test_an_outage_of_a_thousand_failures_goes_on() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    script = Script(*(TransientError("away") for _ in range(1100)), Batch([record(1)], "1"))
    reads: list[int] = []
    await run_for(make(script, log, clock), clock, *[8.0] * 1100, reads=reads, script=script)
    assert reads[-1] == 1101


async def test_old_rows_of_the_first_read_are_history() -> None:
    def rows(page: int) -> list[SpendRecord]:
        def row(kind: type[SpendRecord], name: str, age_s: float) -> SpendRecord:
            return kind(
                id=f"{name}-{page}",
                charge_period_start=NOW - age_s - 300,
                charge_period_end=NOW - age_s,
                received_at=NOW,
                effective_cost=1.0,
                tags={"team": "a"},
            )

        return [row(UsageRecord, "old", 7200), row(UsageRecord, "late", 1800), row(CostRecord, "bill", 7200)]

    async def marked(saved: bool, is_past: bool) -> list[str]:
        log, pages = MemoryLog(), [rows(page) for page in (1, 2, 3)]
        if saved:
            await log.append([Message(CURSORS, b'"0"', key=b"c")])
        script = Script(Batch(pages[0], "1", more=True), Batch(pages[1], "2"), Batch(pages[2], "3"))
        runner = PullRunner(script, "c", log, ManualClock(NOW), first_read_is_past=is_past)
        for _ in pages:
            await runner.step()
        return [each.id for page in pages for each in page if each.backfilled]

    assert await marked(saved=False, is_past=True) == ["old-1", "old-2"]
    assert await marked(saved=True, is_past=True) == []
    assert await marked(saved=False, is_past=False) == []


async def test_stop_gives_up_a_read_in_flight() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)
    started, stop = asyncio.Event(), asyncio.Event()

    class Hangs(Script):
        async def read(self, cursor: str | None) -> Batch:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("never here")

    task = asyncio.create_task(make(Hangs(), log, clock).run(stop))
    await started.wait()
    stop.set()
    await task
    assert not any(log.messages.values())


async def test_a_read_that_takes_too_long_is_a_transient_error() -> None:
    log, clock = MemoryLog(), ManualClock(NOW)

    class Hangs(Script):
        async def read(self, cursor: str | None) -> Batch:
            self.cursors.append(cursor)
            await asyncio.Event().wait()
            raise AssertionError("never here")

    script = Hangs()
    runner = PullRunner(script, "slow", log, clock, read_timeout_s=0.001, policy=POLICY)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    while errors("slow", "transient") == 0:
        await asyncio.sleep(0.001)
    stop.set()
    await task
    assert runner.last_success is None
