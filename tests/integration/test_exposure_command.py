"""`curb exposure` against a LiteLLM proxy over loopback: tiers, teams, a blocked key, and what is on the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from curb.cli.main import app
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.fakes.spend import T0


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[LitellmAdmin, str]]:
    gold = {"max_budget": 50.0}
    fake = LitellmAdmin(
        keys={
            "free": {"key_alias": "batch-[red]bot", "spend": 1.0},
            "rate": {"key_alias": "chat", "rpm_limit": 10, "spend": 1.0},
            # The list shows the name of the tier only.
            "tier": {"key_alias": "tiered", "budget_id": "gold", "spend": 20.0},
            "team": {"key_alias": "of-team", "team_id": "t1", "user_id": "ana", "spend": 1.0},
            "over": {"key_alias": "blocked", "blocked": True},
        },
        teams={"t1": {"team_alias": "ads", "rpm_limit": 2, "blocked": False}},
        users={"ana": {"user_id": "ana"}},
    )
    fake.hidden = {"tier": {"litellm_budget_table": gold}}
    async with TestServer(fake.app()) as server:
        yield fake, str(server.make_url("/"))


async def run(directory: Path, url: str, *arguments: str) -> Result:
    """The command, over a log on which key `free` paid $4 for 40 requests in its most expensive hour."""
    config = {
        "log": {"kind": "embedded", "directory": str(directory / "data")},
        "actions": {"actions": [{"kind": "litellm_limits", "name": "limits", "base_url": url, "api_key": ADMIN_KEY}]},
    }
    path = directory / "curb.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = EmbeddedLog(directory / "data", ManualClock(T0))
    await log.open()
    parts = []
    for hour, usd in ((0, 4.0), (1, 1.0)):
        tags = {"team": "ads", "project": "p", "api_key": "free"}
        part = SpendPartial(scope="key", tags=tags, bucket_start=T0 + 3600 * hour, effective_cost=usd, events=1)
        part.requests = int(10 * usd)
        parts.append(part)
    await log.append([Message(SPEND, encode_lines(parts), partition=0)])
    await log.close()
    given = ["exposure", "-c", str(path), *arguments]
    return await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, given)


async def test_every_key_with_no_limit_first(proxy: tuple[LitellmAdmin, str], tmp_path: Path) -> None:
    result = await run(tmp_path, proxy[1], "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    shown = [(each["api_key"], each["bound"], each["usd"]) for each in found["keys"]]
    # Ten cents a request; $30 of the tier's $50 are left; the team allows two requests a minute.
    assert shown == [
        ("free", "none", None),
        ("rate", "limited", pytest.approx(60.0)),
        ("tier", "limited", pytest.approx(30.0)),
        ("team", "limited", pytest.approx(12.0)),
        ("over", "refused", 0.0),
    ]
    assert found["keys"][0]["top_hour_usd"] == 4.0
    assert found["total"]["limited_usd"] == pytest.approx(102.0)
    assert {each.split()[0] for each in proxy[0].faults.seen} == {"GET"}


async def test_for_people(proxy: tuple[LitellmAdmin, str], tmp_path: Path) -> None:
    result = await run(tmp_path, proxy[1], "--top", "2")
    for text in ("no limit", "batch-[red]bot", "$60.00", "rpm_limit 10", "3 more keys", "1 of 5 keys have no limit"):
        assert text in result.output
    assert ADMIN_KEY not in result.output


async def test_a_gateway_out_of_reach_is_one_line_and_exit_code_1(
    proxy: tuple[LitellmAdmin, str], tmp_path: Path
) -> None:
    proxy[0].faults.always = "503"
    result = await run(tmp_path, proxy[1])
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if line.strip()] == [
        "curb: GET 127.0.0.1/key/list: HTTP 503: refused with 503"
    ]


async def test_without_a_gateway_there_is_nothing_to_rank(tmp_path: Path) -> None:
    (tmp_path / "curb.yaml").write_text("{}", encoding="utf-8")
    result = await asyncio.to_thread(CliRunner().invoke, app, ["exposure", "-c", str(tmp_path / "curb.yaml")])
    assert result.exit_code == 2
    assert "no action limits a rate of requests" in result.output
