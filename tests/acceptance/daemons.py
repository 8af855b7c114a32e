"""Runs `curb run` as its own process, as an operator does, and talks to it over HTTP and with the other commands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.fakes.litellm_admin import ADMIN_KEY

#: Of the source `meter` of `capped`.
TOKEN = "ingest-token"
#: A mark for every key, so that all of them may be held.
UNCRITICAL = [{"match": {}, "is": "non_critical"}]


def capped(
    port: int, log: dict[str, Any], gateway: str, *, rpm: int, action: Any = (), route: Any = (), **more: Any
) -> str:
    """A configuration: a key that spends more than ten cents a day is held to `rpm` requests a minute at a LiteLLM.

    `action`, `route` and `limits` are settings beside those that are here; anything else is of the first level.
    """
    limited = {"kind": "litellm_limits", "name": "throttle", "base_url": gateway, "api_key": ADMIN_KEY}
    cap = {"name": "per-key", "scope": "key", "amount_usd": 0.1, "period": "day", "thresholds": [100], "hard": True}
    settings = {
        "log": log,
        "http": {"port": port, **more.pop("http", {})},
        "commit_interval_s": 0.1,
        "connectors": [{"kind": "usage_jsonl", "name": "meter", "token": TOKEN}],
        "detector": {"bucket_s": 10, "grace_s": 1, "budgets": [cap]},
        "actions": {
            "mode": "auto",
            "actions": [{**limited, "new_principal_rpm": rpm, **dict(action)}],
            "routes": [{"match": {"kind": ["budget"]}, "act": ["throttle"], **dict(route)}],
            "limits": more.pop("limits"),
        },
    }
    return yaml.safe_dump({**settings, **more})


async def curb(*arguments: str) -> tuple[int, str]:
    """Run a command to its end; its exit code and output."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "curb", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def curb_json(*arguments: str) -> list[dict[str, Any]]:
    """Run a command with --json; what it printed."""
    code, out = await curb(*arguments, "--json")
    assert code == 0, out
    return [json.loads(line) for line in out.splitlines()]


class Daemon:
    """One `curb run -c config` on `port`; with `descriptors`, it may open no more files than that; with `code`, of the
    version in that directory."""

    def __init__(self, config: Path, port: int, descriptors: int | None = None, code: Path | None = None) -> None:
        self.config, self.port, self.url = config, port, f"http://127.0.0.1:{port}"
        self._limit = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors)] if descriptors else []
        self.log = config.with_suffix(".out")
        self._code = code
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, ready_s: float = 30.0) -> None:
        """Start and wait until it is ready; fails with its output when it ends before, or takes longer."""
        await self.begin()
        await self.until_ready(ready_s)

    async def begin(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            command = [*self._limit, sys.executable, "-m", "curb", "run", "-c", str(self.config)]
            environment = os.environ | ({"PYTHONPATH": str(self._code)} if self._code else {})
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, cwd=self._code, env=environment
            )

    async def until_ready(self, ready_s: float = 30.0) -> None:
        """Fails with its output when it ends before, or takes longer."""
        assert self._process is not None
        async with aiohttp.ClientSession() as http, asyncio.timeout(ready_s):
            while not await self._is_ready(http):
                assert self._process.returncode is None, self.log.read_text(encoding="utf-8")
                await asyncio.sleep(0.05)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def end(self) -> None:
        """Make sure it is gone, whatever happened."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    def resident_mib(self) -> float:
        """Memory of the process."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
