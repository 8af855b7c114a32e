"""A replay that is killed with -9 again and again ends with exact totals, every alert once, and every message once.

The shipped traffic always runs, on the embedded log and on a real Kafka broker. With CURB_TEST_DATA=<directory that
holds bench_s1> the recorded benchmark stream runs as well, killed at twenty points, on both logs too.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curb.demo.trace import default_directory
from tests.acceptance.replays import Replay, alert_revisions, curb_totals, input_totals, write_config
from tests.fakes.demo_recording import demo_recording
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi
from tests.require import require
from tests.sizes import size

pytestmark = pytest.mark.timeout(600)

LOGS = [pytest.param("embedded"), pytest.param("kafka", marks=pytest.mark.real)]
#: Seconds after which Kafka takes a killed process for dead: the shortest that Curb allows.
_FAST = {"session_timeout_s": 6, "transaction_timeout_s": 5}
#: Slack's times in these tests lie after every replayed event, as they do in life.
_SLACK_NOW = 4_000_000_000.0


@pytest.fixture
async def slack() -> AsyncIterator[tuple[SlackApi, str]]:
    api = SlackApi(_SLACK_NOW)
    api.page_size = 200
    runner = web.AppRunner(api.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield api, f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
    await runner.cleanup()


def log_settings(kind: str, where: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    if kind == "embedded":
        return {"kind": "embedded", "directory": str(where)}
    broker = request.getfixturevalue("kafka_broker")
    prefix = f"replay-{uuid.uuid4().hex[:8]}-"
    return {"kind": "kafka", "bootstrap_servers": broker.bootstrap, "topic_prefix": prefix, "partitions": 2, **_FAST}


def alert_in(message: dict[str, Any]) -> str:
    """The alert a message is about."""
    (found,) = set(re.findall(r"\b[0-9a-f]{16}-\d{10}\b", json.dumps(message["blocks"])))
    return found


async def exactly_once(
    events: Path, bucket_s: int, kills: int, kind: str, where: Path, request: pytest.FixtureRequest, slack: Any
) -> None:
    api, url = slack
    calm = Replay(
        events,
        write_config(where / "calm.yaml", log_settings(kind, where / "calm", request), bucket_s, url, TOKEN, CHANNEL),
    )
    await calm.to_the_end()
    whole = await calm.progress()
    api.messages.clear()

    config = write_config(
        where / "killed.yaml", log_settings(kind, where / "killed", request), bucket_s, url, TOKEN, CHANNEL
    )
    killed = Replay(events, config)
    # Killed where the log shows that work is under way, on a machine of any speed.
    struck = [await killed.killed_at(whole * number // (kills + 1)) for number in range(1, kills + 1)]
    await killed.to_the_end()

    assert sum(struck) >= kills / 2
    assert await curb_totals(config) == pytest.approx(input_totals(events), rel=1e-9, abs=0)
    revisions = await alert_revisions(config)
    assert set(revisions.values()) == {1}
    assert {alert for alert, _ in revisions} == {alert for alert, _ in await alert_revisions(calm.config)}
    # One message per alert, edited in place as the alert goes on, however often the sender was killed.
    assert Counter(alert_in(message) for message in api.messages.values()) == {alert: 1 for alert, _ in revisions}


@pytest.mark.parametrize("kind", LOGS)
async def test_the_shipped_traffic(kind: str, tmp_path: Path, request: pytest.FixtureRequest, slack: Any) -> None:
    recording = demo_recording(default_directory(), tmp_path / "recording")
    events = tmp_path / "events.jsonl.gz"
    lines = gzip.decompress((recording / "events.jsonl.gz").read_bytes()).splitlines(keepends=True)
    events.write_bytes(gzip.compress(b"".join(lines[: int(len(lines) * size(0.8, 1.0))])))
    kills = size({"embedded": 4, "kafka": 2}[kind], 6)  # on Kafka each restart waits for time-outs
    await exactly_once(events, 300, kills, kind, tmp_path, request, slack)


@pytest.mark.parametrize("kind", LOGS)
async def test_the_benchmark_stream(kind: str, tmp_path: Path, request: pytest.FixtureRequest, slack: Any) -> None:
    data = os.environ.get("CURB_TEST_DATA", "")
    events = Path(data) / "bench_s1" / "events.jsonl.gz"
    if not data or not events.exists():
        require("bench_s1", "set CURB_TEST_DATA to the directory that holds bench_s1/events.jsonl.gz")
    await exactly_once(events, 300, 20, kind, tmp_path, request, slack)
