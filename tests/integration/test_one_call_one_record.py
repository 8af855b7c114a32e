"""A daemon with a gateway's callback and its application's spans: each call counts once; what was not read is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from curb.cli.main import app
from curb.config.file import load_file
from curb.daemon import Daemon
from tests.fakes.litellm_usage import array, payload
from tests.fakes.otel_genai import JSON, as_json, bare, span, traces

TOKEN = "a-long-token"
NOW = int(time.time()) - 3600
CONFIG = """
log: {{directory: {directory}/data}}
http: {{port: {port}}}
commit_interval_s: 0.05
connectors:
  - {{kind: litellm, name: gateway, token: {token}}}
  - {{kind: otel_genai, name: spans, token: {token}}}
"""


def write_config(directory: Path, port: int) -> Path:
    path = directory / "curb.yaml"
    path.write_text(CONFIG.format(directory=directory, port=port, token=TOKEN), encoding="utf-8")
    return path


class House:
    """A daemon that runs, and its configuration with the port it took."""

    def __init__(self, daemon: Daemon, config: Path) -> None:
        self.daemon, self.config = daemon, config

    async def curb(self, *args: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*args, "-c", str(self.config)])

    async def post(self, path: str, body: bytes) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": JSON}
        url = f"http://127.0.0.1:{self.daemon.port}/v1/ingest/{path}"
        async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200

    async def spend(self, events: int) -> list[dict[str, Any]]:
        """The rows of `curb spend` once they hold so many events; within ten seconds."""
        async with asyncio.timeout(10):
            while True:
                result = await self.curb("spend", "--json")
                rows = [json.loads(each) for each in result.stdout.splitlines()]
                if sum(row["events"] for row in rows) >= events:
                    return rows
                await asyncio.sleep(0.05)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    daemon = Daemon(load_file(write_config(tmp_path, 0)))
    await daemon.open()
    running = asyncio.create_task(daemon.run())
    yield House(daemon, write_config(tmp_path, daemon.port))
    daemon.stop()
    await running
    await daemon.close()


def answer(number: int) -> str:
    return f"chatcmpl-{number:029d}a"


async def test_a_call_that_gateway_and_application_report_counts_once(house: House) -> None:
    calls = [payload(n, NOW + n, id=answer(n), response_cost=0.5, model="gpt-4o") for n in range(6)]
    await house.post("gateway", array(calls))
    spans = [span(n, NOW + n, attributes={"gen_ai.response.id": answer(n)}) for n in range(8)]
    await house.post("spans/v1/traces", as_json(traces(spans)))
    rows = await house.spend(8)
    assert sum(row["events"] for row in rows) == 8
    alone = sum(row["total_usd"] for row in rows) - 6 * 0.5
    assert 0 < alone < 0.01  # two calls that went past the gateway, priced


async def test_status_and_list_name_what_was_not_counted(house: House) -> None:
    await house.post("spans/v1/traces", as_json(traces([bare(1, NOW)], scope="my.llm")))
    for command in (("status",), ("connectors", "list")):
        shown = await house.curb(*command)
        assert "spans without a call to a model, by scope: my.llm (1)" in " ".join(shown.output.split())
    rows = [json.loads(each) for each in (await house.curb("connectors", "list", "--json")).stdout.splitlines()]
    assert {row["name"]: (row["last_heard"], len(row["notes"])) for row in rows} == {
        "gateway": (None, 0),
        "spans": (None, 1),
    }
