"""What is refused, late, repeated or dated ahead shows in `status`, as an alert and as a metric."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.daemons import Daemon, curb, curb_json
from tests.ports import free_port

TOKEN = "ingest-token"
_CONFIG = """
log: {{directory: {data}}}
http: {{port: {port}}}
commit_interval_s: 0.1
connectors: [{{kind: usage_jsonl, name: meter, token: {token}}}]
detector: {{bucket_s: 10, grace_s: 1}}
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    config, port = tmp_path / "curb.yaml", free_port()
    config.write_text(_CONFIG.format(data=tmp_path / "data", port=port, token=TOKEN), encoding="utf-8")
    running = Daemon(config, port)
    await running.start()
    yield running
    await running.end()


def line(name: str, age_s: float = 1.0, **more: Any) -> bytes:
    record = {"id": name, "charge_period_start": time.time() - age_s, "effective_cost": 0.25, "requests": 1}
    return json.dumps(record | {"tags": {"team": "a", "project": "p", "api_key": "k"}} | more).encode()


async def push(daemon: Daemon, *lines: bytes) -> int:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{daemon.url}/v1/ingest/meter"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=io.BytesIO(b"\n".join(lines)), headers=headers) as answer,
    ):
        return answer.status


async def alerts(daemon: Daemon, channels: set[str]) -> dict[str, dict[str, Any]]:
    """The alerts of kind feed by channel, once those of `channels` are there."""
    async with asyncio.timeout(60):
        while True:
            found = await curb_json("alerts", "-c", str(daemon.config))
            feeds = {each["channel"]: each for each in found if each["kind"] == "feed"}
            if channels <= feeds.keys():
                return feeds


async def test_what_is_lost_is_counted_and_reported(daemon: Daemon) -> None:
    good = [line(f"g{n}") for n in range(30)]
    late = [line(f"l{n}", age_s=5 * 3600) for n in range(4)]
    ahead = [line(f"a{n}", age_s=-900) for n in range(3)]
    status = await push(daemon, *good, *good[:5], *late, *ahead, b"no json", b"no json", line("n", effective_cost=-1))
    assert status == 207

    found = await alerts(daemon, {"feed/lost/too_late", "feed/clock/ahead"})
    lost, clock = found["feed/lost/too_late"], found["feed/clock/ahead"]
    assert (lost["tags"], lost["tier"]) == ({"source": "meter"}, "digest")
    assert "7 of 40 records" in lost["explanation"]
    assert "4 counted, too late to be scored, 2 no JSON, 1 a negative cost" in lost["explanation"]
    assert "3 of 37 records of an hour are dated up to 15 min ahead" in clock["explanation"]

    (shown,) = await curb_json("status", "-c", str(daemon.config))
    (feed,) = shown["feeds"]
    day = feed["last_24_h"]
    assert (day["received"], day["counted"], day["duplicates"]) == (45, 37, 5)
    assert (day["not_scored"], day["scored"], day["skewed"]) == (4, 33, 3)
    assert day["refused"] == {"not_json": 2, "negative_cost": 1}
    assert day["lost_percent"] == 17.5
    assert len(feed["problems"]) == 2

    (row,) = await curb_json("connectors", "list", "-c", str(daemon.config))
    assert (row["last_24_h"], row["problems"]) == (day, feed["problems"])
    code, text = await curb("status", "-c", str(daemon.config))
    assert code == 0
    assert "refused: 1 negative_cost, 2 not_json" in " ".join(text.split())

    async with aiohttp.ClientSession() as http, http.get(f"{daemon.url}/metrics") as answer:
        metrics = await answer.text()
    assert 'curb_feed_records_total{outcome="refused",source="meter"} 3.0' in metrics
    assert 'curb_feed_lost_percent{source="meter"} 17.5' in metrics
    async with aiohttp.ClientSession() as http, http.get(daemon.url) as answer:
        assert "17.5 %" in await answer.text()


async def test_a_source_of_which_nothing_is_readable_is_reported_before_its_first_record(daemon: Daemon) -> None:
    assert await push(daemon, *[b"no json"] * 20) == 400
    (found,) = (await alerts(daemon, {"feed/lost/not_json"})).values()
    assert found["tier"] == "notice"
    assert "20 of 20 records of an hour (100.0%)" in found["explanation"]
