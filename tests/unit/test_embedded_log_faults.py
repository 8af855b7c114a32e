"""The embedded log on a full disk, beside a backup that holds its lock, with a wrong clock, and over a year."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from curb.config.file import CurbConfig
from curb.daemon import Daemon
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS, DEAD_LETTER, SPEND, STATE, USAGE

DAY = 86400.0


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path, ManualClock(1_790_000_000.0))
    await opened.open()
    yield opened
    await opened.close()


class SmallDisk:
    """A file of SQLite that cannot grow beyond what it is, plus the spare file while that is there."""

    def __init__(self, log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log, self.free = log, 0
        monkeypatch.setattr("curb.stream.log.embedded.shutil.disk_usage", lambda path: self)
        cut_spare = log._cut_spare

        def make_room(slice_bytes: int) -> bool:
            made = cut_spare(slice_bytes)
            if made:
                self._grow(slice_bytes // 4096)
            return made

        monkeypatch.setattr(log, "_cut_spare", make_room)

    def fill(self) -> None:
        self._grow(0)

    def clear(self, free: int) -> None:
        self.free = free
        self._grow(10_000)

    def _grow(self, pages: int) -> None:
        (used,) = self._log._db.execute("PRAGMA page_count").fetchone()
        self._log._db.execute(f"PRAGMA max_page_count = {used + pages}")


def big(topic: str) -> Message:
    return Message(topic, b"x" * 40_000, key=b"k")


async def test_a_full_disk_is_called_so_and_loses_nothing(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.append([Message(SPEND, b"before")])
    disk = SmallDisk(log, monkeypatch)
    await log._call(disk.fill)
    with pytest.raises(TransientError, match="the disk is full"):
        await log.append([Message(SPEND, b"never"), big(SPEND)])
    await log._call(lambda: disk.clear(0))
    await log.append([Message(SPEND, b"after")])
    assert [message.value async for message in log.scan(SPEND)] == [b"before", b"after"]


@pytest.mark.parametrize(
    "essential", [big(ACTIONS), big(COMMANDS), Message(STATE, b"x" * 40_000, key=b"actions/alerts/a")]
)
async def test_what_ends_leases_is_still_written_on_a_full_disk(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, essential: Message
) -> None:
    assert await log.keep_spare()
    disk = SmallDisk(log, monkeypatch)
    await log._call(disk.fill)
    await log.append([essential])
    # The room that was made is for such records alone, until there is more.
    for other in (Message(USAGE, b"small"), Message(STATE, b"small", key=b"curb-rollup/x")):
        with pytest.raises(TransientError, match="the disk is full; only actions are written"):
            await log.append([other])
    await log.append([Message(ACTIONS, b"restored")])
    await log._call(lambda: disk.clear(1 << 30))
    await log.append([Message(USAGE, b"again")])
    assert (log.directory / "spare").exists()


async def test_the_first_to_meet_a_full_disk_leaves_room_for_actions(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await log.keep_spare()
    disk = SmallDisk(log, monkeypatch)
    await log._call(disk.fill)
    with pytest.raises(TransientError, match="the disk is full"):
        await log.append([big(USAGE)])
    await log.append([big(ACTIONS)])


async def test_the_runner_of_actions_reads_on_where_usage_waits(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await log.keep_spare()
    await log.append([Message(ALERTS, b"a")])
    disk = SmallDisk(log, monkeypatch)
    await log._call(disk.fill)
    await log.append([big(ACTIONS)])
    for group, waits in (("curb-actions", False), ("curb-detector", True)):
        reader = await log.reader(group, [ALERTS])
        assert await reader.fetch(1, 0.0)
        with pytest.raises(TransientError, match="only actions") if waits else contextlib.nullcontext():
            await reader.commit()
        await reader.close()


async def test_another_program_gets_a_slice_of_the_spare_file_at_most(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await log.keep_spare()
    slices = 0
    disk = SmallDisk(log, monkeypatch)
    while (log.directory / "spare").stat().st_size:
        await log._call(disk.fill)
        await log.append([big(ACTIONS)])
        slices += 1
    assert slices > 20
    await log._call(disk.fill)
    with pytest.raises(TransientError, match="the disk is full"):
        await log.append([big(ACTIONS)])


async def test_opening_a_log_needs_no_write(log: EmbeddedLog) -> None:
    await log.append([Message(SPEND, b"a")])
    backup = sqlite3.connect(log.directory / "log.sqlite3", isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    other = EmbeddedLog(log.directory, ManualClock())
    await other.open()
    assert [message.value async for message in other.scan(SPEND)] == [b"a"]
    await other.close()
    backup.execute("ROLLBACK")
    backup.close()


async def test_a_lock_of_another_program_is_called_so(log: EmbeddedLog) -> None:
    backup = sqlite3.connect(log.directory / "log.sqlite3", isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    await log._call(lambda: log._db.execute("PRAGMA busy_timeout = 1"))
    with pytest.raises(TransientError, match="another program, such as a backup, holds the lock"):
        await log.append([Message(SPEND, b"a")])
    backup.execute("ROLLBACK")
    backup.close()
    await log.append([Message(SPEND, b"a")])


async def test_messages_dated_ahead_are_deleted_with_what_is_behind_them(log: EmbeddedLog) -> None:
    clock = log._clock
    assert isinstance(clock, ManualClock)
    for jump, value in [(0.0, b"sound"), (400 * DAY, b"ahead"), (-400 * DAY, b"sound again")]:
        clock.jump(jump)
        await log.append([Message(DEAD_LETTER, value)])
    assert await log.prune(clock.now() - DAY) == 2
    assert [message.value async for message in log.scan(DEAD_LETTER)] == [b"sound again"]
    await clock.advance(2 * DAY)
    assert await log.prune(clock.now() - DAY) == 1


async def test_over_a_year_the_file_stays_as_large_as_its_retention(log: EmbeddedLog) -> None:
    clock = log._clock
    assert isinstance(clock, ManualClock)
    await log._call(lambda: log._db.execute("PRAGMA synchronous = OFF"))  # no power is cut here
    reader = await log.reader("g", [SPEND])
    sizes: list[int] = []
    for day in range(365):
        spend, ledger = (Message(topic, bytes([day % 256]) * 500, key=b"k") for topic in (SPEND, ACTIONS))
        await log.append([*[spend] * 60, *[ledger] * 60, Message(STATE, b"snapshot" * 2000, key=b"g/0")])
        while await reader.fetch(500, 0.0):
            pass
        await reader.commit([])
        await clock.advance(DAY)
        await log.prune(clock.now() - 14 * DAY)
        sizes.append((log.directory / "log.sqlite3").stat().st_size)
    assert max(sizes[30:]) <= 1.02 * max(sizes[15:30])
    assert len([message async for message in log.scan(SPEND)]) == 14 * 60
    await reader.close()


async def test_a_new_log_is_for_its_user_alone_whichever_command_begins_it(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        log = EmbeddedLog(tmp_path / "new", ManualClock(1_790_000_000.0))
        await log.open()
        await log.append([Message(DEAD_LETTER, b"a")])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (log.directory, *log.directory.iterdir())}
        await log.close()
    finally:
        os.umask(old)
    assert modes.pop("new") == 0o700
    assert set(modes.values()) == {0o600}
    assert {"log.sqlite3", "log.sqlite3-wal"} <= modes.keys()


async def test_clean_up_beside_a_backup_is_tried_again(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = log._clock
    assert isinstance(clock, ManualClock)
    await log.append([Message(DEAD_LETTER, b"old")])
    await clock.advance(2 * DAY)
    backup = sqlite3.connect(log.directory / "log.sqlite3", isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    await log._call(lambda: log._db.execute("PRAGMA busy_timeout = 1"))
    monkeypatch.setattr("curb.daemon._PRUNE_AGAIN_S", 0.01)
    daemon = Daemon(CurbConfig(), clock)
    task = asyncio.create_task(daemon._prune(log, DAY))
    async with asyncio.timeout(30):
        while not any("later" in each.message for each in caplog.records):
            await asyncio.sleep(0.01)
        backup.execute("ROLLBACK")
        backup.close()
        while [message async for message in log.scan(DEAD_LETTER)]:
            await asyncio.sleep(0.01)
    assert "holds the lock" in str(vars(caplog.records[0])["error"])
    daemon._stop_rooms.set()
    await task
