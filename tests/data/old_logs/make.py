"""Makes a data directory with another version of Curb: `make.py CHECKOUT OUT.tar.gz [--kill]`; see README.md.

CHECKOUT is a work tree of that version with its own `.venv`. Run it from the root of the present version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from tests.fakes.litellm_admin import LitellmAdmin
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.old_logs import KEYS, OLD_LIMIT, TOKEN, configuration
from tests.ports import free_port

#: Seconds of traffic before the loop, and after its limit is in force.
_BEFORE_S, _AFTER_S = 15, 15


async def make(checkout: Path, out: Path, *, kill: bool) -> None:
    """Run the version on steady traffic and a key over its budget, end it, and pack what it wrote."""
    gateway, hook = LitellmAdmin({key: {"rpm_limit": OLD_LIMIT} for key in KEYS}), WebhookReceiver()
    async with TestServer(gateway.app()) as limits, TestServer(hook.app()) as hooks:
        with tempfile.TemporaryDirectory() as directory:
            port, home = free_port(), Path(directory)
            urls = str(limits.make_url("/")), str(hooks.make_url("/hook"))
            (home / "curb.yaml").write_text(configuration(home / "data", port, *urls), encoding="utf-8")
            version = (await _output("git", "-C", str(checkout), "rev-parse", "--short", "HEAD")).strip()
            with (home / "daemon.out").open("wb") as said:
                command = [str(checkout / ".venv/bin/curb"), "run", "-c", str(home / "curb.yaml")]
                daemon = await asyncio.create_subprocess_exec(*command, cwd=checkout, stdout=said, stderr=said)
            try:
                await _feed(f"http://127.0.0.1:{port}", gateway)
            finally:
                daemon.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
                await daemon.wait()
                print((home / "daemon.out").read_text(encoding="utf-8")[-2000:])
            left = {
                "version": version,
                "ended_by": "SIGKILL" if kill else "SIGTERM",
                "ended_at": time.time(),
                "notices": {key: _about(body) for key, body in hook.accepted.items()},
                "limits": {key: row["rpm_limit"] for key, row in gateway.keys.items()},
            }
            (home / "data" / "left.json").write_text(json.dumps(left, indent=1), encoding="utf-8")
            _pack(home / "data", out)


def _about(notice: dict[str, Any]) -> dict[str, Any]:
    alert = notice.get("alert", {})
    return {"alert_id": alert.get("alert_id"), "revision": alert.get("revision"), "status": alert.get("status")}


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def _feed(url: str, gateway: LitellmAdmin) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        async with asyncio.timeout(60):
            while not await _is_ready(http, url):
                await asyncio.sleep(0.2)
        for _ in range(_BEFORE_S):
            await _push(http, url, dict.fromkeys(KEYS, 0.001))
            await asyncio.sleep(1)
        async with asyncio.timeout(90):
            while gateway.keys[KEYS[0]]["rpm_limit"] == OLD_LIMIT:
                await _push(http, url, dict.fromkeys(KEYS, 0.001) | {KEYS[0]: 0.1})
                await asyncio.sleep(1)
        for _ in range(_AFTER_S):
            await _push(http, url, dict.fromkeys(KEYS, 0.001) | {KEYS[0]: 0.02})
            await asyncio.sleep(1)


async def _is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _push(http: aiohttp.ClientSession, url: str, spent: dict[str, float]) -> None:
    now = time.time()
    lines = [
        json.dumps(
            {"id": f"{key}-{now}", "charge_period_start": now - 1, "effective_cost": usd, "requests": 1}
            | {"tags": {"team": "a", "project": "p", "api_key": key}}
        )
        for key, usd in spent.items()
    ]
    async with http.post(f"{url}/v1/ingest/meter", data="\n".join(lines)) as answer:
        assert answer.status == 200, await answer.text()


def _pack(data: Path, out: Path) -> None:
    """All files as they lie there, with the write-ahead log that a killed process leaves."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:gz") as tar:
        for path in sorted(data.rglob("*")):
            tar.add(path, str(path.relative_to(data)), recursive=False)
    print(out, out.stat().st_size, "bytes", sqlite3.sqlite_version)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--kill", action="store_true", help="end it with SIGKILL instead of SIGTERM")
    given = arguments.parse_args()
    asyncio.run(make(given.checkout.resolve(), given.out, kill=given.kill))
