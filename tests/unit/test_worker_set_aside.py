"""A snapshot that cannot be used: the state is made again from the log, in silence, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import SPEND, STATE
from curb.stream.work.worker import Worker
from tests.unit.test_worker import RunningSum, outputs, run_until_read

_KEY = b"g/curb.spend/0/"


class OtherSum(RunningSum):
    """The same, of a later version whose snapshots are laid out otherwise."""

    snapshot_form = "2"

    def snapshot(self) -> bytes:
        return f"total={self.total}".encode()

    def restore(self, data: bytes) -> None:
        name, _, total = data.partition(b"=")
        if name != b"total":
            raise ValueError("no total")
        self.total = int(total)


async def _written(directory: Path, snapshot_interval_s: float = 0.0) -> EmbeddedLog:
    """A log on which a worker has answered 42 messages of 3 and left its snapshot."""
    log = EmbeddedLog(directory, ManualClock())
    await log.open()
    for _ in range(6):
        await log.append([Message(SPEND, b"3")] * 7)
    await run_until_read(log, 126, snapshot_interval_s=snapshot_interval_s)
    return log


async def _total(log: EmbeddedLog, count: int, kind: type[RunningSum] = RunningSum) -> None:
    states: list[RunningSum] = []

    def make(at: TopicPartition) -> RunningSum:
        states.append(kind())
        return states[-1]

    worker = Worker(log, "g", [SPEND], make, ManualClock(), commit_interval_s=0.0, snapshot_interval_s=0.0)
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    async with asyncio.timeout(30):
        while not task.done() and not (worker.caught_up and states[-1].total == count):
            await asyncio.sleep(0.001)
    stop.set()
    await task


def _set_aside(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(each)["reason"]) for each in caplog.records if "set aside" in each.message]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"head", b"{", "head cannot be read"),
        (b"0/0", b"of another program", "ValueError"),
        (b"0/0", b"", "chunks are missing"),
    ],
)
async def test_a_damaged_snapshot_is_made_up_for_by_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: bytes, value: bytes, reason: str
) -> None:
    log = await _written(tmp_path)
    await log.append([Message(STATE, value, key=_KEY + part) for part in {key, key.replace(b"0/", b"1/")}])
    await log.append([Message(SPEND, b"5")])
    with caplog.at_level(logging.WARNING):
        await _total(log, 131)
    (said,) = _set_aside(caplog)
    assert reason in said
    # The parts before the restart were sent once, and only the new one after it.
    assert await outputs(log) == (131, [f"ten {n}".encode() for n in range(1, 14)])
    caplog.clear()
    await _total(log, 131)
    assert _set_aside(caplog) == [], "the new snapshot is sound"
    await log.close()


async def test_a_snapshot_of_another_form_is_not_even_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = await _written(tmp_path)
    with caplog.at_level(logging.WARNING):
        await _total(log, 126, OtherSum)
    assert len(_set_aside(caplog)) == 1, "of before there were forms: it was tried"
    await _total(log, 126, OtherSum)
    assert len(_set_aside(caplog)) == 1

    class ThirdSum(OtherSum):
        snapshot_form = "3"

    await _total(log, 126, ThirdSum)
    assert _set_aside(caplog)[1] == "it was written as '2', and this is '3'"
    assert await outputs(log) == (126, [f"ten {n}".encode() for n in range(1, 13)])
    await log.close()


@pytest.mark.parametrize("left", [0, 10])
async def test_a_log_that_no_longer_holds_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    log = await _written(tmp_path)
    db = log._db
    await log._call(lambda: db.execute("DELETE FROM messages WHERE topic = ? AND offset < ?", (SPEND, 42 - left)))
    await log.append([Message(STATE, b"{", key=_KEY + b"head")])
    with caplog.at_level(logging.WARNING):
        await _total(log, 3 * left)
    (record,) = [each for each in caplog.records if "set aside" in each.message]
    assert f"begins at offset {42 - left}" in vars(record)["missing"]
    assert (await outputs(log))[0] == 126, "nothing is sent again"
    await log.close()


async def test_a_position_that_is_no_number_is_named(tmp_path: Path) -> None:
    log = await _written(tmp_path)
    await log.append([Message(STATE, b"x", key=_KEY + b"committed")])
    with pytest.raises(PermanentError, match=r"g/curb\.spend/0/committed.*holds no offset"):
        await _total(log, 126)
    await log.close()
