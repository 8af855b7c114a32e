"""The daemon dies while it holds a limit; `curb reaper` gives it back, and the next daemon goes on from there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.stream.clock import WallClock
from curb.stream.log.codec import encode
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import PEAKS
from curb.stream.records.peaks import PrincipalPeak
from tests.acceptance.daemons import TOKEN, Daemon, capped, curb, curb_json
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.ports import free_port

pytestmark = pytest.mark.timeout(400)
OLD_LIMIT, NEW_LIMIT = 500, 5


class World(NamedTuple):
    gateway: LitellmAdmin
    daemon: Daemon

    def limit(self) -> int | None:
        limit: int | None = self.gateway.keys["k"]["rpm_limit"]
        return limit

    async def reap(self, grace_s: int) -> tuple[int, str]:
        return await curb("reaper", "-c", str(self.daemon.config), "--once", "--grace", str(grace_s))


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """On the embedded log, or on what the test is parametrised with."""
    log: dict[str, Any] = {"directory": str(tmp_path / "data")}
    if request.param == "kafka":
        broker = request.getfixturevalue("kafka_broker")
        prefix = f"reaper-{uuid.uuid4().hex[:8]}-"
        log = {"bootstrap_servers": broker.bootstrap, "topic_prefix": prefix, "partitions": 2}
    gateway, port, config = LitellmAdmin({"k": {"rpm_limit": OLD_LIMIT}}), free_port(), tmp_path / "curb.yaml"
    async with TestServer(gateway.app()) as server:
        url, limits, lease = str(server.make_url("/")), {"shave_unmarked": True}, {"lease_minutes": 0.5}
        text = capped(port, log, url, rpm=NEW_LIMIT, limits=limits, route=lease)
        config.write_text(text, encoding="utf-8")
        daemon = Daemon(config, port)
        await daemon.start()
        yield World(gateway, daemon)
        await daemon.end()


async def push(daemon: Daemon, name: str) -> None:
    record = {"id": name, "charge_period_start": time.time() - 1, "effective_cost": 0.5, "requests": 1}
    body = json.dumps(record | {"tags": {"team": "a", "project": "p", "api_key": "k"}})
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        async with http.post(f"{daemon.url}/v1/ingest/meter", data=body) as answer:
            assert answer.status == 200


async def is_applied(daemon: Daemon) -> bool:
    """Asked of the daemon itself: on a busy machine a command takes longer than the lease lasts."""
    async with aiohttp.ClientSession() as http, http.get(f"{daemon.url}/v1/actions") as answer:
        return "applied" in [each["state"] for each in await answer.json()]


async def ledger(daemon: Daemon) -> list[tuple[str, str]]:
    """(state, by) of the one action, in order; whether the burn fell is not asked here."""
    config = ("-c", str(daemon.config))
    (newest,) = await curb_json("actions", "list", "--all", *config)
    life = await curb_json("actions", "show", newest["action_id"], *config)
    return [
        (each["state"], each.get("by", "curb")) for each in life if each["state"] not in ("effective", "ineffective")
    ]


@contextlib.asynccontextmanager
async def running_reaper(daemon: Daemon) -> AsyncIterator[None]:
    """`curb reaper` until the block is left, then SIGTERM."""
    command = [
        sys.executable,
        "-m",
        "curb",
        "reaper",
        "-c",
        str(daemon.config),
        "--every",
        "1",
        "--grace",
        "0",
    ]
    with daemon.config.with_suffix(".reaper").open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        code = await process.wait()
    assert code == 0


@pytest.mark.parametrize(
    "world", [pytest.param("embedded"), pytest.param("kafka", marks=pytest.mark.real)], indirect=True
)
async def test_a_limit_comes_back_while_the_daemon_is_dead(world: World) -> None:
    daemon = world.daemon
    await push(daemon, "first")
    async with asyncio.timeout(120):
        while world.limit() != NEW_LIMIT or not await is_applied(daemon):
            await asyncio.sleep(0.1)
    await daemon.kill()

    code, _ = await world.reap(grace_s=3600)
    assert (code, world.limit()) == (0, NEW_LIMIT), "a lease that is not over is none of the reaper's business"
    world.gateway.faults.next.append("500")
    async with asyncio.timeout(180):  # the lease, and as many commands as a busy machine needs
        while (await world.reap(grace_s=0))[0] == 0:
            await asyncio.sleep(0.1)
    assert world.limit() == NEW_LIMIT, "the gateway was down for a moment"
    async with running_reaper(daemon), asyncio.timeout(120):
        while len(await ledger(daemon)) < 4:
            await asyncio.sleep(0.1)
    assert world.limit() == OLD_LIMIT
    in_vain = ("applied", "curb-reaper")  # the try that the gateway answered with 500
    lived = [("planned", "curb"), ("applied", "curb"), in_vain, ("restored", "curb-reaper")]
    assert await ledger(daemon) == lived

    said_before = len(daemon.log.read_text(encoding="utf-8"))
    await daemon.start()
    await push(daemon, "second")
    async with asyncio.timeout(60):  # it has folded the ledger, and in it what the reaper did
        while '"open_leases": 0' not in daemon.log.read_text(encoding="utf-8")[said_before:]:
            await asyncio.sleep(0.1)
    assert await daemon.stop() == 0
    assert await world.reap(grace_s=0) == (0, "")
    assert await ledger(daemon) == lived
    assert [body for _, body in world.gateway.updates] == [{"rpm_limit": NEW_LIMIT}, {"rpm_limit": OLD_LIMIT}]


_STANDING = """
log: {log}
http: {{port: {port}}}
commit_interval_s: 0.1
actions:
  mode: auto
  actions:
    - {{kind: litellm_limits, name: throttle, base_url: "{url}", api_key: {admin}}}
  standing:
    - {{name: keys, act: throttle, match: {{team: a}}, lease_minutes: 0.1}}
"""


async def test_a_ceiling_is_renewed_while_the_daemon_lives_and_comes_back_when_it_is_dead(tmp_path: Path) -> None:
    gateway, port, config = LitellmAdmin({"k": {"rpm_limit": OLD_LIMIT}}), free_port(), tmp_path / "curb.yaml"
    log = EmbeddedLog(tmp_path / "data", WallClock())
    await log.open()
    peak = PrincipalPeak(
        scope="key", tags={"team": "a", "api_key": "k"}, at=time.time(), highest_per_minute=30.0, known_days=9.0
    )
    await log.append([Message(PEAKS, encode(peak), key=b"key k")])
    await log.close()
    async with TestServer(gateway.app()) as server:
        values = {"url": str(server.make_url("/")), "admin": ADMIN_KEY}
        config.write_text(_STANDING.format(log=json.dumps({"directory": str(tmp_path / "data")}), port=port, **values))
        daemon = Daemon(config, port)
        await daemon.start()
        async with asyncio.timeout(60):
            while "renewed" not in str(await curb_json("actions", "list", "-c", str(config))):
                await asyncio.sleep(0.1)
        assert gateway.keys["k"]["rpm_limit"] == 60
        await daemon.kill()
        async with running_reaper(daemon), asyncio.timeout(60):
            while gateway.keys["k"]["rpm_limit"] != OLD_LIMIT:
                await asyncio.sleep(0.1)
        (ceiling,) = await curb_json("actions", "list", "--all", "-c", str(config))
    assert (ceiling["state"], ceiling["by"], ceiling["do"]) == ("restored", "curb-reaper", "ceiling")
    assert [body for _, body in gateway.updates] == [{"rpm_limit": 60}, {"rpm_limit": OLD_LIMIT}]
