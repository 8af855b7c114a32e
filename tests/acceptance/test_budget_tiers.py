"""A running daemon that acts never raises what a LiteLLM budget tier enforces, and never opens a spent budget again."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.acceptance.daemons import TOKEN, UNCRITICAL, Daemon, capped
from tests.fakes.litellm_admin import LitellmAdmin
from tests.ports import free_port

pytestmark = pytest.mark.timeout(300)
_OWN: dict[str, Any] = dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget"))
_OWN |= {"blocked": None, "spend": 0.0}


def tier(**limits: Any) -> dict[str, Any]:
    """What `/key/info` shows of a key of a tier; its own fields are null."""
    return {"budget_id": "tier-x", "litellm_budget_table": {"budget_id": "tier-x", **limits}}


async def overspend(daemon: Daemon, *keys: str) -> None:
    """Dollars over the budget of each key."""
    record = {"charge_period_start": time.time() - 1, "effective_cost": 0.5, "requests": 1}
    lines = [
        json.dumps(record | {"id": f"{key}-1", "tags": {"team": f"of-{key}", "project": "p", "api_key": key}})
        for key in keys
    ]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        async with http.post(f"{daemon.url}/v1/ingest/meter", data="\n".join(lines)) as answer:
            assert answer.status == 200


async def until_alerts_on(daemon: Daemon, keys: set[str]) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(100):
        found: set[str] = set()
        while not keys <= found:
            async with http.get(f"{daemon.url}/v1/alerts") as answer:
                found = {each["tags"].get("api_key", "") for each in await answer.json() if each["kind"] == "budget"}
            await asyncio.sleep(0.2)


async def test_tiers_are_never_raised_and_spent_budgets_stay_spent(tmp_path: Path) -> None:
    held = {
        "two-a-minute": _OWN | tier(rpm_limit=2, max_budget=1.5),
        "spent": _OWN | {"spend": 1.3e-5} | tier(max_budget=0.00001),
        "spent-and-slow": _OWN | {"spend": 50.0} | tier(rpm_limit=2, max_budget=50),
    }
    gateway = LitellmAdmin({key: dict(row) for key, row in held.items()} | {"free": dict(_OWN)})
    port, config = free_port(), tmp_path / "curb.yaml"
    async with TestServer(gateway.app()) as server:
        log, limits = {"directory": str(tmp_path / "data")}, {"max_percent_of_traffic": 100, "criticality": UNCRITICAL}
        text = capped(port, log, str(server.make_url("/")), rpm=6, action={"allow_usd": 1}, limits=limits)
        config.write_text(text, encoding="utf-8")
        daemon = Daemon(config, port)
        try:
            await daemon.start(ready_s=90.0)
            await overspend(daemon, *held)
            await until_alerts_on(daemon, set(held))
            # Alerts are acted on in their order: when a later one was, these were looked at.
            await overspend(daemon, "free")
            async with asyncio.timeout(100):
                while gateway.keys["free"]["rpm_limit"] is None:
                    await asyncio.sleep(0.2)
        finally:
            await daemon.end()
    assert (gateway.keys["free"]["rpm_limit"], gateway.keys["free"]["max_budget"]) == (6, 1.0)
    lowered = {"max_budget": 1.0}  # below the tier's; its requests are held lower already
    assert {key: gateway.keys[key] for key in held} == held | {"two-a-minute": held["two-a-minute"] | lowered}
