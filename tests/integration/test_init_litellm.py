"""`curb init` against a LiteLLM proxy and Slack over loopback: what it reads, proposes, says and never prints."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from curb.actions.levers.litellm_keys import LitellmKeys
from curb.cli.init.look import look_at_chat, look_at_log
from curb.cli.main import app
from curb.config.file import load_text, variables
from curb.stream.clock import ManualClock
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.fakes.litellm_spend_logs import SpendLogs, row_of
from tests.fakes.litellm_usage import payload
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi

LIMITS: dict[str, Any] = {"rpm_limit": None, "tpm_limit": None, "max_budget": None, "spend": 2.0}


class Proxy:
    """A proxy with three keys, and 2 hours of one team's calls."""

    def __init__(self, server: TestServer, admin: LitellmAdmin, logs: SpendLogs) -> None:
        self.url, self.admin, self.logs = str(server.make_url("/")).rstrip("/"), admin, logs

    async def init(self, directory: Path, *arguments: str, key: str = ADMIN_KEY) -> Result:
        """Run the command in a thread, as the proxy answers in this one."""
        environment = {"COLUMNS": "250", "CURB_CONFIG": str(directory / "curb.yaml"), "CURB_LITELLM_KEY": key}
        given = ["init", "--yes", "--litellm-url", self.url, "--log-dir", str(directory / "data"), *arguments]
        return await asyncio.to_thread(CliRunner(env=environment).invoke, app, given)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    admin, logs = LitellmAdmin(), SpendLogs()
    admin.keys = {
        "h1": {**LIMITS, "key_alias": "batch-bot"},
        "h2": {**LIMITS, "key_alias": "chat", "rpm_limit": 600},
        "h3": {**LIMITS, "budget_id": "gold", "litellm_budget_table": {"max_budget": 50.0}},
    }
    start = time.time() - 7200
    logs.rows = [row_of(payload(n, start + n, response_cost=1.5)) for n in range(4)]
    inner = admin.app()
    inner.router.add_get("/spend/logs/v2", logs.answer)
    async with TestServer(inner) as server:
        yield Proxy(server, admin, logs)


async def test_keys_limits_and_spend_make_the_proposal(proxy: Proxy, tmp_path: Path) -> None:
    result = await proxy.init(tmp_path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["keys"] == {"total": 3, "read": 3, "unlimited": 1}
    assert (found["spend"]["calls"], found["spend"]["usd"]) == (4, pytest.approx(6.0))
    assert [each["team"] for each in found["proposal"]["teams"]] == ["search"]
    text = (tmp_path / "curb.yaml").read_text(encoding="utf-8")
    assert "# Without a limit: batch-bot." in text
    config = load_text(text, dict.fromkeys(variables(text), "x" * 8))
    assert (config.actions.mode, [each.kind for each in config.actions.actions]) == ("shadow", ["litellm_limits"])
    assert any("curb backfill" in each["command"] for each in found["next_steps"])
    # Nothing was changed.
    assert {each.split()[0] for each in proxy.admin.faults.seen} == {"GET"}


async def test_the_key_is_printed_and_written_nowhere(proxy: Proxy, tmp_path: Path) -> None:
    result = await proxy.init(tmp_path)
    assert ADMIN_KEY not in result.output
    assert ADMIN_KEY not in (tmp_path / "curb.yaml").read_text(encoding="utf-8")


async def test_a_refused_key_is_a_failed_test_and_safe_figures(proxy: Proxy, tmp_path: Path) -> None:
    result = await proxy.init(tmp_path, key="planted-secret")
    assert result.exit_code == 1
    assert "ok   reach LiteLLM" in result.output
    assert "FAIL read keys and their limits (GET /key/list): GET 127.0.0.1/key/list: HTTP 401" in result.output
    assert "needs the master key, or a proxy admin's, and a database" in result.output
    assert "no spend could be read" in result.output
    assert "planted-secret" not in result.output
    assert (tmp_path / "curb.yaml").exists()


async def test_a_proxy_that_does_not_answer_is_asked_once(proxy: Proxy, tmp_path: Path) -> None:
    proxy.admin.faults.always = "503"
    result = await proxy.init(tmp_path)
    assert (result.exit_code, proxy.admin.faults.seen) == (1, ["GET /health/liveliness"])
    assert "FAIL reach LiteLLM" in result.output


async def test_keys_come_in_pages_up_to_a_number(proxy: Proxy) -> None:
    proxy.admin.keys = {f"h{number:03}": {**LIMITS, "rpm_limit": number or None} for number in range(250)}
    seen: list[tuple[int, int]] = []
    async with aiohttp.ClientSession() as http:
        reader = LitellmKeys(proxy.url, ADMIN_KEY, http, ManualClock(0.0))
        found = await reader.read(150, lambda done, total: seen.append((done, total)))
    assert (len(found.keys), found.total, seen) == (150, 250, [(100, 250), (200, 250)])
    assert [each.name for each in found.keys if each.unlimited] == ["h000"]


@pytest.fixture
async def slack() -> AsyncIterator[tuple[SlackApi, str]]:
    api = SlackApi(1_750_000_000.0)
    async with TestServer(api.app()) as server:
        yield api, str(server.make_url("/api/"))


def chat(url: str, token: str = TOKEN) -> Any:
    notifier = {"kind": "slack", "name": "on-call", "token": token, "channel": CHANNEL, "base_url": url}
    return load_text(json.dumps({"actions": {"notifiers": [notifier, {"kind": "console", "name": "screen"}]}}))


async def test_slack_gets_a_message_only_when_asked(slack: tuple[SlackApi, str]) -> None:
    api, url = slack
    checks = await look_at_chat(chat(url), send_test=False)
    assert ([each.ok for each in checks], api.posted) == ([True], 0)
    checks = await look_at_chat(chat(url), send_test=True)
    assert ([each.ok for each in checks], api.posted) == ([True, True], 1)
    assert "test message of curb init" in json.dumps(list(api.messages.values()))


async def test_a_wrong_slack_token_is_a_failed_test(slack: tuple[SlackApi, str]) -> None:
    checks = await look_at_chat(chat(slack[1], "xoxb-planted-secret"), send_test=False)
    assert [each.ok for each in checks] == [False]
    assert "invalid_auth" in checks[0].detail
    assert "planted" not in str(checks)


async def test_a_webhook_gets_the_test_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        posted.append(await request.json())
        return web.Response()

    receiver = web.Application()
    receiver.router.add_post("/{any:.*}", take)
    async with TestServer(receiver) as server:
        environment = {
            "COLUMNS": "250",
            "CURB_CONFIG": str(tmp_path / "curb.yaml"),
            "HOOK": f"json://127.0.0.1:{server.port}/planted-secret",
        }
        given = ["init", "--yes", "--gateway", "none", "--slack", "webhook", "--slack-env", "HOOK", "--send-test"]
        result = await asyncio.to_thread(
            CliRunner(env=environment).invoke, app, [*given, "--log-dir", str(tmp_path / "data")]
        )
    assert (result.exit_code, len(posted)) == (0, 1), result.output
    assert "planted-secret" not in result.output


async def test_kafka_out_of_reach_is_a_failed_test() -> None:
    config = load_text("log: {kind: kafka, bootstrap_servers: '127.0.0.1:9', request_timeout_s: 1}")
    check = await look_at_log(config)
    assert (check.what, check.ok) == ("reach Kafka", False)
