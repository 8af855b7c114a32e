"""What only the embedded log does: deleting what is old and read."""

from __future__ import annotations

from pathlib import Path

from curb.stream.clock import ManualClock
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import DEAD_LETTER, SPEND


async def left(log: EmbeddedLog, topic: str) -> list[bytes]:
    return [message.value async for message in log.scan(topic)]


async def test_old_messages_go_once_they_are_read_and_new_ones_stay(tmp_path: Path) -> None:
    clock = ManualClock(1000.0)
    log = EmbeddedLog(tmp_path, clock)
    await log.open()
    await log.append([Message(SPEND, b"read"), Message(SPEND, b"unread"), Message(DEAD_LETTER, b"old letter")])
    reader = await log.reader("g", [SPEND])
    await reader.fetch(1)
    await reader.commit()
    await clock.advance(100.0)
    await log.append([Message(SPEND, b"new"), Message(DEAD_LETTER, b"new letter")])

    assert await log.prune(1050.0) == 2
    assert await left(log, SPEND) == [b"unread", b"new"]
    assert await left(log, DEAD_LETTER) == [b"new letter"]
    await log.append([Message(SPEND, b"newest")])
    assert [message.offset async for message in log.scan(SPEND)] == [1, 2, 3]
    await reader.close()
    await log.close()


async def test_offsets_go_on_when_everything_was_deleted(tmp_path: Path) -> None:
    clock = ManualClock(1000.0)
    log = EmbeddedLog(tmp_path, clock)
    await log.open()
    await log.append([Message(DEAD_LETTER, b"a")])
    await clock.advance(100.0)
    await log.prune(1050.0)
    await log.append([Message(DEAD_LETTER, b"b")])
    assert [(message.offset, message.value) async for message in log.scan(DEAD_LETTER)] == [(1, b"b")]
    await log.close()
