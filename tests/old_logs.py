"""What the data directories of older versions were made with, and how to go on with them; see data/old_logs."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp.test_utils import TestServer

from curb.config.file import load_text
from curb.daemon import Daemon
from curb.stream.clock import ScaledClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.topics import ALERTS
from curb.stream.records.spend import Alert
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.fakes.webhook_receiver import WebhookReceiver

DIRECTORY = Path(__file__).parent / "data" / "old_logs"
TOKEN, OLD_LIMIT, NEW_LIMIT = "ingest-token", 500, 5
#: The first goes over its budget.
KEYS = ("k-loop", "k-one", "k-two")
#: Every version since the first has these settings.
CONFIG = """
log: {{directory: {directory}}}
state_dir: {directory}/connectors
http: {{port: {port}}}
commit_interval_s: 0.1
snapshot_interval_s: 8
connectors:
  - {{kind: usage_jsonl, name: meter, token: {token}}}
detector:
  bucket_s: 10
  grace_s: 1
  alerts: {{update_every_s: 10}}
  budgets: [{{name: per-key, scope: key, amount_usd: 0.5, period: month, thresholds: [100], hard: true}}]
actions:
  mode: auto
  actions:
    - {{kind: litellm_limits, name: limits, base_url: "{gateway}", api_key: {admin}, new_principal_rpm: {limit}}}
  notifiers:
    - {{kind: webhook, name: hook, url: "{hook}"}}
  routes:
    - {{match: {{kind: [budget]}}, notify: [hook], act: [limits], lease_minutes: 1}}
  limits: {{shave_unmarked: true, max_percent_of_traffic: 100}}
"""


def configuration(directory: Path, port: int, gateway: str, hook: str) -> str:
    """A configuration that every version reads."""
    values = {"directory": directory, "port": port, "gateway": gateway, "hook": hook, "limit": NEW_LIMIT}
    return CONFIG.format(**values, token=TOKEN, admin=ADMIN_KEY)


class World(NamedTuple):
    daemon: Daemon
    gateway: LitellmAdmin
    hook: WebhookReceiver
    left: dict[str, Any]
    clock: ScaledClock

    async def push(self, key: str, usd: float, accepted: int | None = 200) -> None:
        now = self.clock.now()
        record = {"id": f"new-{now}", "charge_period_start": now - 1, "effective_cost": usd, "requests": 1}
        body = json.dumps(record | {"tags": {"team": "a", "project": "p", "api_key": key}})
        url = f"http://127.0.0.1:{self.daemon.port}/v1/ingest/meter"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            async with http.post(url, data=body) as answer:
                assert accepted in (None, answer.status)

    async def alerts(self) -> list[Alert]:
        """Every revision, in the order of the log."""
        found: list[Alert] = []
        async for message in self.daemon.log.scan(ALERTS):
            found += decode_lines(message.value, Alert, lambda *_: None)
        return found


def unpack(packed: Path, home: Path) -> None:
    """The files of an archive of our own, as they lay."""
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 has none
    with tarfile.open(packed) as tar:
        tar.extractall(home, **safe)


@asynccontextmanager
async def started(home: Path, speed: float) -> AsyncIterator[World]:
    """The present version on the files in `home`, five seconds after they were left; time passes `speed` times as
    fast."""
    left = json.loads((home / "left.json").read_text(encoding="utf-8"))
    gateway = LitellmAdmin({key: {"rpm_limit": limit} for key, limit in left["limits"].items()})
    hook, clock = WebhookReceiver(), ScaledClock(left["ended_at"] + 5, speed)
    async with TestServer(gateway.app()) as limits, TestServer(hook.app()) as hooks:
        text = configuration(home, 0, str(limits.make_url("/")), str(hooks.make_url("/hook")))
        daemon = Daemon(load_text(text), clock)
        await daemon.open()
        running = asyncio.create_task(daemon.run())
        try:
            yield World(daemon, gateway, hook, left, clock)
        finally:
            daemon.stop()
            await running
            await daemon.close()
