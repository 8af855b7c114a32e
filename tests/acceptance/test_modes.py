"""Shadow, approve and auto on one timeline, in the whole application: three keys overspend, and people answer."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.acceptance.daemons import Daemon, curb
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.ports import free_port

pytestmark = pytest.mark.timeout(400)
TOKEN, OLD_LIMIT, NEW_LIMIT = "ingest-token", 500, 5
_CONFIG = """
log: {{directory: {directory}}}
http: {{port: {port}}}
commit_interval_s: 0.1
connectors:
  - {{kind: usage_jsonl, name: meter, token: {token}}}
detector:
  bucket_s: 10
  grace_s: 1
  alerts: {{update_every_s: 10}}
  budgets: [{{name: per-key, scope: key, amount_usd: 0.1, period: day, thresholds: [100], hard: true}}]
actions:
  mode: shadow
  actions:
    - {{kind: litellm_limits, name: limits, base_url: "{url}", api_key: {admin}, new_principal_rpm: {limit}}}
  approvers:
    owners: {{people: [somebody-else], up_to_usd: 100000}}
    finance: {{people: [{me}]}}
  routes:
    - {{match: {{kind: [budget], tags: {{api_key: k-shadow}}}}, act: [limits]}}
    - match: {{kind: [budget], tags: {{api_key: k-approve}}}}
      ladder:
        - {{do: shave_to_normal, act: [limits], mode: approve, approvers: [finance]}}
    - match: {{kind: [budget], tags: {{api_key: k-auto}}}}
      mode: auto
      ladder:
        - {{do: shave_to_normal, act: [limits], verify_within_minutes: 0.1}}
        - {{do: block, act: [limits], lease_minutes: 30}}
  limits:
    max_percent_of_traffic: 100
    criticality: [{{match: {{}}, is: non_critical}}]
"""
KEYS = ("k-shadow", "k-approve", "k-auto")


class World(NamedTuple):
    gateway: LitellmAdmin
    daemon: Daemon

    def limits(self) -> dict[str, Any]:
        return {key: (row["rpm_limit"], bool(row.get("blocked"))) for key, row in self.gateway.keys.items()}

    async def curb(self, *words: str) -> tuple[int, str]:
        return await curb(*words, "-c", str(self.daemon.config))

    async def ledger(self, key: str) -> list[dict[str, Any]]:
        """The newest entry of each action on a key, oldest first."""
        found = await self.get("/v1/actions")
        return [entry for entry in reversed(found) if entry["plan"]["target"] == f"litellm/key/{key}"]

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as http, http.get(self.daemon.url + path) as answer:
            assert answer.status == 200
            return await answer.json()

    async def states(self, key: str) -> list[str]:
        return [entry["state"] for entry in await self.ledger(key)]

    async def until(self, key: str, *wanted: str) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while (await self.states(key)) != list(wanted):
                await asyncio.sleep(0.2)
        return await self.ledger(key)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    gateway, port, config = (
        LitellmAdmin({key: {"rpm_limit": OLD_LIMIT} for key in KEYS}),
        free_port(),
        tmp_path / "c.yaml",
    )
    async with TestServer(gateway.app()) as server:
        values = {"url": str(server.make_url("/")), "admin": ADMIN_KEY, "limit": NEW_LIMIT, "token": TOKEN}
        values |= {"directory": str(tmp_path / "data"), "port": str(port), "me": getpass.getuser()}
        config.write_text(_CONFIG.format(**values), encoding="utf-8")
        daemon = Daemon(config, port)
        await daemon.start()
        yield World(gateway, daemon)
        await daemon.end()


async def overspend(daemon: Daemon, *keys: str) -> None:
    lines = []
    for key in keys:
        record = {
            "id": f"{key}-{time.time()}",
            "charge_period_start": time.time() - 1,
            "effective_cost": 0.5,
            "requests": 1,
        }
        lines.append(json.dumps(record | {"tags": {"team": f"team-of-{key}", "project": "p", "api_key": key}}))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        async with http.post(f"{daemon.url}/v1/ingest/meter", data="\n".join(lines)) as answer:
            assert answer.status == 200


async def test_shadow_approve_and_auto_on_one_timeline(world: World) -> None:
    await overspend(world.daemon, *KEYS)

    # Shadow says what it would do; approve asks; auto does it, and goes one rung up because it did not help.
    (shadow,) = await world.until("k-shadow", "shadow")
    (proposal,) = await world.until("k-approve", "proposed")
    assert shadow["plan"]["after"] == proposal["plan"]["after"] == {"rpm_limit": NEW_LIMIT}
    assert proposal["approvers"] == [getpass.getuser()]
    async with asyncio.timeout(100):
        while await world.states("k-auto") != ["restored", "applied"]:
            await overspend(world.daemon, "k-auto")
            await asyncio.sleep(1)
    async with asyncio.timeout(10):
        while world.limits()["k-auto"] != (OLD_LIMIT, True):
            await asyncio.sleep(0.1)
    assert world.limits() == {
        "k-shadow": (OLD_LIMIT, False),
        "k-approve": (OLD_LIMIT, False),
        "k-auto": (OLD_LIMIT, True),
    }
    shaved, blocked = await world.ledger("k-auto")
    life = await world.get(f"/v1/actions/{shaved['action_id']}")
    assert [entry["state"] for entry in life] == ["planned", "applied", "ineffective", "restored"]
    assert (blocked["rung"], blocked["do"], blocked["plan"]["after"]) == (2, "block", {"blocked": True})

    # What would happen now is the same as what is on the ledger.
    code, said = await world.curb("plan")
    assert code == 0
    assert "litellm/key/k-auto" in said
    assert "already proposed, an answer counts until" in said
    assert "0 to change now, 0 to propose" in said

    # A person says yes, once.
    code, said = await world.curb("actions", "approve", proposal["action_id"])
    assert code == 0, said
    await world.until("k-approve", "applied")
    assert world.limits()["k-approve"] == (NEW_LIMIT, False)
    code, said = await world.curb("actions", "approve", proposal["action_id"])
    assert code == 1
    assert "is not a proposal any more" in said
    code, said = await world.curb("actions", "show", proposal["action_id"])
    assert f"approved by {getpass.getuser()}" in said
    words = " ".join(said.split())
    assert f"before {{'rpm_limit': {OLD_LIMIT}}} after {{'rpm_limit': {NEW_LIMIT}}}" in words

    # The daemon dies, and a person gives everything back without it; the next daemon leaves it so.
    await world.daemon.kill()
    code, said = await world.curb("actions", "restore-all", "--yes")
    assert code == 0, said
    assert world.limits() == dict.fromkeys(KEYS, (OLD_LIMIT, False))
    assert await world.curb("actions", "restore-all", "--yes") == (0, "nothing is held\n")
    await world.daemon.start()
    await asyncio.sleep(2)
    assert world.limits() == dict.fromkeys(KEYS, (OLD_LIMIT, False))
    assert await world.states("k-approve") == ["restored"]
    assert await world.daemon.stop() == 0
