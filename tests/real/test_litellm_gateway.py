"""The real LiteLLM proxy: its usage reaches Curb, a runaway key is limited, gets 429, and has its limit back later.

Switch it on with CURB_TEST_LITELLM=http://127.0.0.1:4000,<master key>; `tests/real/litellm_proxy.py` says what the
proxy needs. It takes about three minutes of real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.litellm_proxy import PORT, Proxy, find_proxy

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

OLD_LIMIT, NEW_LIMIT = 500, 5
_CONFIG = """
log: {{kind: embedded, directory: {directory}}}
http: {{port: {port}}}
connectors:
  - {{kind: litellm, name: gateway, token: ingest-token}}
detector:
  bucket_s: 10
  grace_s: 8
  budgets:
    - name: per-key
      scope: key
      match: {{api_key: "{key}"}}
      amount_usd: 0.0001
      period: day
      thresholds: [100]
      hard: true
actions:
  mode: auto
  notifiers: [{{kind: console, name: on-call}}]
  actions:
    - {{kind: litellm_limits, name: throttle, base_url: "{url}", api_key: {master}, new_principal_rpm: {limit}}}
  routes:
    - {{match: {{kind: [budget]}}, notify: [on-call], act: [throttle], lease_minutes: 1}}
"""


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with find_proxy() as found:
        yield found


@contextlib.asynccontextmanager
async def curb(config: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "curb.cli", "run", "-c", str(config))
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


async def until(what: str, done: Callable[[], Awaitable[bool]], seconds: float) -> None:
    for _ in range(int(seconds / 0.5)):
        if await done():
            return
        await asyncio.sleep(0.5)
    pytest.fail(f"not within {seconds} s: {what}")


async def test_a_runaway_key_is_limited_and_gets_its_limit_back(proxy: Proxy, tmp_path: Path) -> None:
    made = await proxy.admin("POST", "/key/generate", json={"rpm_limit": OLD_LIMIT, "models": ["fake-gpt"]})
    key, key_hash = made["key"], made["token"]
    config = tmp_path / "curb.yaml"
    values = {"url": proxy.url, "master": proxy.master, "key": key_hash, "limit": NEW_LIMIT, "port": PORT}
    text = _CONFIG.format(directory=tmp_path / "data", **values)
    config.write_text(text, encoding="utf-8")
    statuses: Counter[int] = Counter()

    async def loop_until_refused() -> bool:
        statuses[(await proxy.call(key)).status] += 1
        return statuses[429] >= 3

    async def restored() -> bool:
        return await proxy.limit(key_hash) == OLD_LIMIT

    async with curb(config):
        await until("the looping key gets 429", loop_until_refused, 150)
        assert await proxy.limit(key_hash) == NEW_LIMIT
        await until("the old limit is back after the lease", restored, 150)
    assert statuses[200] > NEW_LIMIT
    assert await _ledger_states(config) == ["planned", "applied", "restored"]


async def _ledger_states(config: Path) -> list[str]:
    """States of the one action, in order; whether the burn fell within a minute's lease is not asked here."""

    async def curb_json(*arguments: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "curb.cli", "actions", *arguments, "--json", "-c", str(config)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return [json.loads(line) for line in out.splitlines()]

    (newest,) = await curb_json("list", "--all")
    life = await curb_json("show", newest["action_id"])
    return [entry["state"] for entry in life if entry["state"] not in ("effective", "ineffective")]
