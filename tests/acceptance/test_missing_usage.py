"""A key whose calls lose their usage looks free: after a past of two days, a running daemon says so within the hour."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.daemons import Daemon, curb, curb_json
from tests.fakes.litellm_spend_logs import row_of
from tests.fakes.litellm_usage import array, payload
from tests.ports import free_port

pytestmark = pytest.mark.timeout(300)
TOKEN = "ingest-token"
_CONFIG = """
log: {{directory: {directory}/data}}
state_dir: {directory}/connectors
http: {{port: {port}}}
commit_interval_s: 0.1
connectors: [{{kind: litellm, name: gateway, token: {token}}}]
detector: {{bucket_s: 60, grace_s: 5}}
"""
_BLIND, _METERED = _KEYS = ("a" * 64, "b" * 64)
#: Seconds between two calls of a key in its past.
_PAST_EVERY_S = 120.0
_DAYS = 2
#: Calls of each key within the seconds before they are pushed: $1.80 by the usual dollars per call.
_NOW = 400
_NOTHING: dict[str, Any] = {
    "response_cost": 0.0,
    "cost_breakdown": {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0, "tool_usage_cost": 0.0},
    "total_tokens": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
}


def call(number: int, at: float, key: str, usage: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {"user_api_key_hash": key, "user_api_key_alias": f"key-{key[0]}"}
    if usage:
        return payload(number, at, stream=True, metadata=metadata)
    none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return payload(number, at, stream=True, metadata={**metadata, "usage_object": none}, **_NOTHING)


def past(until: float) -> str:
    """Spend logs of LiteLLM of two days, one row a line."""
    count = int(_DAYS * 86400 / _PAST_EVERY_S)
    calls = [
        call(2 * number + which, until - (count - number) * _PAST_EVERY_S, key, usage=True)
        for number in range(count)
        for which, key in enumerate(_KEYS)
    ]
    return "".join(json.dumps(row_of(each)) + "\n" for each in calls)


async def test_streams_without_usage_are_an_alert_within_the_hour(tmp_path: Path) -> None:
    now, port, config = time.time(), free_port(), tmp_path / "curb.yaml"
    config.write_text(_CONFIG.format(directory=tmp_path, port=port, token=TOKEN), encoding="utf-8")
    logs = tmp_path / "spend_logs.jsonl"
    logs.write_text(past(now), encoding="utf-8")
    code, out = await curb("backfill", str(logs), "-c", str(config), "--days", str(_DAYS + 1), "--like", "gateway")
    assert code == 0, out

    daemon = Daemon(config, port)
    try:
        await daemon.start(ready_s=90.0)
        start = time.time()
        live = [
            call(1_000_000 + 2 * number + which, start - number % 5, key, usage=key == _METERED)
            for number in range(_NOW)
            for which, key in enumerate(_KEYS)
        ]
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(f"{daemon.url}/v1/ingest/gateway", data=io.BytesIO(array(live))) as answer:
                assert answer.status == 200, await answer.text()
        async with asyncio.timeout(200):
            found: list[dict[str, Any]] = []
            while not found:
                alerts = await curb_json("alerts", "-c", str(config))
                found = [each for each in alerts if each["channel"] == "missing_usage"]
                await asyncio.sleep(0.5)
    finally:
        await daemon.end()
    (alert,) = found
    assert (alert["kind"], alert["tier"], alert["tags"]["api_key"]) == ("feed", "notice", _BLIND)
    assert "to gpt-4o report neither tokens nor a cost, usually 0%" in alert["reason"]
    assert "so far (an estimate)" in alert["reason"]
