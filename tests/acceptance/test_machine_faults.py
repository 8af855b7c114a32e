"""A disk that is full and a log that a backup locks, met by the daemon as a process: leases end, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.stream.clock import ManualClock
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import DEAD_LETTER
from curb.stream.time import DAY_S
from tests.acceptance.daemons import TOKEN, Daemon, capped, curb, curb_json
from tests.disks import Filler, small_disk
from tests.fakes.litellm_admin import LitellmAdmin
from tests.ports import free_port

pytestmark = pytest.mark.timeout(400)
KEY, OLD_LIMIT, NEW_LIMIT = "k", 500, 5


class World:
    """A daemon with its data in `home`, a gateway, and what the inbox has acknowledged."""

    def __init__(self, gateway: LitellmAdmin, daemon: Daemon, home: Path) -> None:
        self.gateway, self.daemon, self.home = gateway, daemon, home
        self.acknowledged: list[float] = []

    async def push(self, usd: float, key: str = "other") -> int:
        record = {"id": str(time.time_ns()), "charge_period_start": time.time() - 1, "effective_cost": usd}
        body = json.dumps(record | {"requests": 1, "tags": {"team": "a", "project": "p", "api_key": key}})
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            async with http.post(f"{self.daemon.url}/v1/ingest/meter", data=body) as answer:
                if answer.status == 200:
                    self.acknowledged.append(usd)
                return answer.status

    async def ready(self) -> dict[str, Any]:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(f"{self.daemon.url}/readyz") as answer:
                found: dict[str, Any] = await answer.json()
                return found
        return {"ready": False, "log": ""}

    async def says(self, cause: str) -> None:
        """Returns when /readyz gives the cause, in which case `curb status` and the log do as well."""
        while cause not in (found := await self.ready())["log"]:
            await asyncio.sleep(0.1)
        assert not found["ready"]
        code, said = await curb("status", "-c", str(self.daemon.config))
        assert (code, cause in said) == (0, True), said
        assert cause in self.output

    async def logs(self, message: str) -> None:
        while message not in self.output:
            await asyncio.sleep(0.1)

    @property
    def output(self) -> str:
        return self.daemon.log.read_text(encoding="utf-8")

    @property
    def limit(self) -> int:
        limit: int = self.gateway.keys[KEY]["rpm_limit"]
        return limit

    async def throttles(self) -> None:
        """The key goes over its budget, and the limit is in force."""
        assert await self.push(0.5, KEY) == 200
        while self.limit != NEW_LIMIT or "applied" not in await self.states():
            await asyncio.sleep(0.1)

    async def gives_back(self, *, said: bool = True) -> None:
        """Returns when the limit has come back, and the ledger has said so."""
        while self.limit != OLD_LIMIT or (said and await self.states() != ["restored"]):
            await asyncio.sleep(0.1)

    async def states(self) -> list[str]:
        """Newest state of each action, as the daemon has it."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.daemon.url}/v1/actions") as answer:
            return [each["state"] for each in await answer.json()]

    async def is_sound(self) -> None:
        """The daemon is ready and takes usage; all that was acknowledged is counted once; the lease was ended once."""
        await self.daemon.until_ready(120)
        while await self.push(0.01) != 200:
            await asyncio.sleep(0.1)
        config = ("-c", str(self.daemon.config))
        async with asyncio.timeout(60):
            while sum(row["events"] for row in await curb_json("spend", *config)) < len(self.acknowledged):
                await asyncio.sleep(0.1)
        rows = await curb_json("spend", *config)
        assert sum(row["events"] for row in rows) == len(self.acknowledged)
        assert sum(row["total_usd"] for row in rows) == pytest.approx(sum(self.acknowledged))
        assert [body for _, body in self.gateway.updates] == [{"rpm_limit": NEW_LIMIT}, {"rpm_limit": OLD_LIMIT}]
        while await self.states() != ["restored"]:
            await asyncio.sleep(0.1)
        assert "Traceback" not in self.output


@contextlib.asynccontextmanager
async def world_in(home: Path, config: Path, retention_days: float = 14) -> AsyncIterator[World]:
    gateway, port = LitellmAdmin({KEY: {"rpm_limit": OLD_LIMIT}}), free_port()
    async with TestServer(gateway.app()) as server:
        log = {"directory": str(home), "retention_days": retention_days}
        limits = {"shave_unmarked": True, "max_percent_of_traffic": 100}
        more = {"state_dir": str(home / "connectors"), "snapshot_interval_s": 2, "route": {"lease_minutes": 0.25}}
        text = capped(port, log, str(server.make_url("/")), rpm=NEW_LIMIT, limits=limits, **more)
        config.write_text(text, encoding="utf-8")
        daemon = Daemon(config, port)
        try:
            yield World(gateway, daemon, home)
        finally:
            await daemon.end()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as home:
        yield home


@pytest.mark.parametrize("spare", ["whole", "used up"])
async def test_a_disk_fills_up_while_a_limit_is_in_force(disk: Path, tmp_path: Path, spare: str) -> None:
    async with world_in(disk, tmp_path / "curb.yaml") as world, asyncio.timeout(360):
        await world.daemon.start(90)
        await world.throttles()
        with Filler(disk):
            if spare == "used up":
                os.truncate(disk / "spare", 0)
            while await world.push(0.01) == 200:
                pass
            await world.says("the disk is full")
            await world.gives_back(said=spare == "whole")
            await world.daemon.kill()
            await world.daemon.begin()
            await world.says("the disk is full")
        await world.is_sound()


async def test_a_disk_is_full_when_curb_starts(disk: Path, tmp_path: Path) -> None:
    async with world_in(disk, tmp_path / "curb.yaml") as world, asyncio.timeout(360):
        await world.daemon.start(90)
        await world.throttles()
        assert await world.daemon.stop() == 0
        with Filler(disk):
            await world.daemon.begin()
            await world.says("the disk is full")
            await world.gives_back()
        await world.is_sound()


async def test_a_disk_that_is_full_from_the_first_is_named(disk: Path, tmp_path: Path) -> None:
    async with world_in(disk, tmp_path / "curb.yaml") as world, asyncio.timeout(120):
        with Filler(disk):
            await world.daemon.begin()
            assert await world.daemon.ended() == 1
            assert "the disk is full" in world.output
            assert "Traceback" not in world.output


async def test_clean_up_and_leases_meet_a_backup_that_holds_the_lock(tmp_path: Path) -> None:
    async with world_in(tmp_path / "data", tmp_path / "curb.yaml") as world, asyncio.timeout(360):
        await world.daemon.start(90)
        await world.throttles()
        await world.daemon.kill()
        await append_old(world.home)
        async with locked(world.home / "log.sqlite3"):
            await world.daemon.begin()
            await world.says("another program, such as a backup, holds the lock")
            await world.logs("old messages are deleted later")
            while world.limit != OLD_LIMIT:
                await asyncio.sleep(0.1)
        await world.is_sound()
        await world.logs("old messages deleted")


async def append_old(home: Path) -> None:
    log = EmbeddedLog(home, ManualClock(time.time() - 30 * DAY_S))
    await log.open()
    await log.append([Message(DEAD_LETTER, b"old")])
    await log.close()


@contextlib.asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Another process, such as a backup, holds the lock."""
    lines = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN EXCLUSIVE')"
    lines += "; print(flush=True); sys.stdin.read()"
    pipe = asyncio.subprocess.PIPE
    backup = await asyncio.create_subprocess_exec(sys.executable, "-c", lines, str(file), stdin=pipe, stdout=pipe)
    assert backup.stdin is not None
    assert backup.stdout is not None
    await backup.stdout.readline()
    try:
        yield
    finally:
        backup.stdin.close()
        await backup.wait()
