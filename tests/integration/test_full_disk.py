"""A disk that is full when a lease ends: the limit comes back, and the ledger says so. Needs the right to mount."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from curb.stream.log.codec import decode_lines
from curb.stream.log.topics import ACTIONS
from curb.stream.records.spend import ActionsMessage, LedgerEntry
from tests.disks import fill, small_disk
from tests.old_logs import DIRECTORY, KEYS, NEW_LIMIT, OLD_LIMIT, World, started, unpack

pytestmark = pytest.mark.timeout(180)
_SPEED = 8.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with small_disk(tmp_path / "disk") as home:
        yield home


async def ends_its_lease(world: World) -> None:
    while world.gateway.keys[KEYS[0]]["rpm_limit"] != OLD_LIMIT or "restored" not in await states(world):
        await asyncio.sleep(0.05)


async def states(world: World) -> list[str]:
    found: list[str] = []
    async for message in world.daemon.log.scan(ACTIONS):
        entries = decode_lines(message.value, ActionsMessage, lambda *_: None)  # type: ignore[arg-type]
        found += [entry.state for entry in entries if isinstance(entry, LedgerEntry)]
    return found


async def has_spare(home: Path) -> None:
    while not (home / "spare").exists():
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("when", ["in the middle", "at start"])
async def test_a_lease_ends_on_a_full_disk(disk: Path, when: str, caplog: pytest.LogCaptureFixture) -> None:
    unpack(DIRECTORY / "3b6dd1a-killed.tar.gz", disk)
    if when == "at start":  # a daemon has run there before
        async with started(disk, 1.0), asyncio.timeout(60):
            await has_spare(disk)
        fill(disk)
    with caplog.at_level(logging.WARNING):
        async with started(disk, _SPEED) as world, asyncio.timeout(120):
            assert world.gateway.keys[KEYS[0]]["rpm_limit"] == NEW_LIMIT
            if when == "in the middle":
                await has_spare(disk)
                fill(disk)
                await world.push(KEYS[0], 0.2, accepted=None)
            await ends_its_lease(world)
    assert any("the disk is full" in str(vars(each).get("error", "")) for each in caplog.records)
    assert not any("rollback" in str(vars(each).get("error", "")) for each in caplog.records)
    assert [body for _, body in world.gateway.updates] == [{"rpm_limit": OLD_LIMIT}]
