"""A hard cap is acted on while the port is full of half-open connections and bombs, and all is level afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.acceptance.daemons import TOKEN, UNCRITICAL, Daemon, capped
from tests.fakes.litellm_admin import LitellmAdmin
from tests.ports import free_port

pytestmark = pytest.mark.timeout(300)
KEY, OLD_LIMIT, NEW_LIMIT = "k-runaway", 500, 5
#: Of the daemon; half of them are for connections, so that these are more than it may hold.
DESCRIPTORS, HALF_OPEN = 256, 300
#: Nothing, half a head, and a head without its body.
STARTS = (
    b"",
    b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ",
    f"POST /v1/ingest/meter HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Content-Length: 99\r\n\r\n".encode(),
)


@pytest.fixture
async def gateway() -> LitellmAdmin:
    return LitellmAdmin({KEY: {"rpm_limit": OLD_LIMIT}})


@pytest.fixture
async def daemon(tmp_path: Path, gateway: LitellmAdmin) -> AsyncIterator[Daemon]:
    config, port = tmp_path / "curb.yaml", free_port()
    async with TestServer(gateway.app()) as server:
        log, limits = {"directory": str(tmp_path / "data")}, {"max_percent_of_traffic": 100, "criticality": UNCRITICAL}
        times = {"head_timeout_s": 5, "body_timeout_s": 5}
        text = capped(
            port, log, str(server.make_url("/")), rpm=NEW_LIMIT, limits=limits, http=times, state_dir=str(tmp_path)
        )
        config.write_text(text, encoding="utf-8")
        running = Daemon(config, port, descriptors=DESCRIPTORS)
        await running.start()
        yield running
        await running.end()


async def half_open(daemon: Daemon, start: bytes) -> asyncio.StreamReader | None:
    """None where the port had no place."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(start)
    except OSError:
        return None
    reader.keep = writer  # type: ignore[attr-defined]
    return reader


async def until_answered(http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str]:
    """As senders do: again while the port has no place."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.request(method, url, **options) as answer:
                    if answer.status != 503:
                        return answer.status, await answer.text()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


async def test_a_cap_is_acted_on_while_the_port_is_attacked(daemon: Daemon, gateway: LitellmAdmin) -> None:
    held = [await half_open(daemon, STARTS[n % len(STARTS)]) for n in range(HALF_OPEN)]
    inbox, bomb = f"{daemon.url}/v1/ingest/meter", gzip.compress(b" " * (64 << 20))
    record = {"id": "r1", "charge_period_start": time.time() - 1, "effective_cost": 5.0, "requests": 1}
    line = json.dumps(record | {"tags": {"team": "t", "project": "p", "api_key": KEY}})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        for token, status in (("wrong", 401), (TOKEN, 413)):
            headers = {"Authorization": f"Bearer {token}", "Content-Encoding": "gzip"}
            assert (await until_answered(http, "POST", inbox, data=bomb, headers=headers))[0] == status
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await until_answered(http, "POST", inbox, data=line, headers=headers))[0] == 200
        assert (await until_answered(http, "GET", f"{daemon.url}/healthz"))[0] == 200
        async with asyncio.timeout(90):
            while gateway.keys[KEY]["rpm_limit"] != NEW_LIMIT:
                await asyncio.sleep(0.2)
        # Every one of them is closed by the daemon, and then all places are free again.
        async with asyncio.timeout(60):
            for reader in held:
                if reader is not None:
                    await _ended(reader)
        async with asyncio.timeout(30):
            while _connections((await until_answered(http, "GET", f"{daemon.url}/metrics"))[1]) > 1:
                await asyncio.sleep(0.2)
    assert daemon.log.read_text(encoding="utf-8").count("\n") < HALF_OPEN
    assert await daemon.stop() == 0
    kept = [daemon.config.parent / "data", *(daemon.config.parent / "data").rglob("*")]
    assert {oct(each.stat().st_mode)[-2:] for each in kept} == {"00"}


async def _ended(reader: Any) -> None:
    try:
        while await reader.read(4096):
            continue
    except OSError:
        pass
    reader.keep.close()


def _connections(metrics: str) -> float:
    (line,) = [each for each in metrics.splitlines() if each.startswith("curb_http_connections ")]
    return float(line.split()[1])
