"""`curb mcp`: an assistant reads what Curb knows by the SDK's own client, and can do nothing but propose."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from aiohttp.test_utils import TestServer

from curb.config.file import load_text
from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import Command
from tests.fakes.alerts import alert_message, an_alert
from tests.integration.test_openapi import ACTIONS, daemon

mcp = pytest.importorskip("mcp", reason="needs the extra mcp")

READER, ASSISTANT = "reader-token", "assistant-token"
TOKENS = [
    {"name": "dashboards", "token": READER, "roles": ["read"]},
    {"name": "assistant", "token": ASSISTANT, "roles": ["propose"]},
]
READS: dict[str, dict[str, Any]] = {
    "spend": {"scope": "key", "limit": 1},
    "alerts": {},
    "alert": {"alert_id": "a1"},
    "explain": {"alert_id": "a1"},
    "budgets": {},
    "leases": {},
}


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A daemon with an alert, and its address in `url`."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    found = daemon()
    found.config = load_text(yaml.safe_dump({"http": {"tokens": TOKENS}, "actions": ACTIONS}))
    await found.log.append([alert_message(found.view.alerts["a1"])])
    async with TestServer(make_app(cast(Running, found), Doors())) as server:
        found.url = str(server.make_url("/"))
        yield found


def client(house: Any, token: str = ASSISTANT) -> Any:
    from curb.cli.assistant.api import DaemonApi
    from curb.cli.assistant.tools import make_server

    return mcp.Client(make_server(DaemonApi(house.url, token)))


def commands(house: Any) -> list[Command]:
    return [msgspec.json.decode(each.value, type=Command) for each in house.log.of(COMMANDS)]


async def test_it_reads_what_the_daemon_knows(house: Any) -> None:
    async with client(house, READER) as assistant:
        found = {}
        for name, arguments in READS.items():
            answer = await assistant.call_tool(name, arguments)
            assert not answer.is_error, answer.content
            found[name] = answer.structured_content
    assert len(found["spend"]["series"]) == 1
    assert [each["alert_id"] for each in found["alerts"]["alerts"]] == ["a1"]
    assert found["alert"]["may_propose"] == ["gate"]
    assert found["explain"]["alert"]["alert_id"] == "a1"
    assert found["budgets"]["budgets"][0]["name"] == "keys"
    assert found["leases"]["mode"] == "shadow"


async def test_all_tools_only_read_but_one_that_only_proposes(house: Any) -> None:
    async with client(house) as assistant:
        tools = (await assistant.list_tools()).tools
    assert {tool.name for tool in tools if tool.annotations.read_only_hint} == set(READS)
    assert [tool.name for tool in tools if not tool.annotations.read_only_hint] == ["propose"]
    assert not any(tool.annotations.destructive_hint for tool in tools)


async def test_a_proposal_is_a_record_with_its_author_and_nothing_else(house: Any) -> None:
    async with client(house) as assistant:
        asked = {"alert_id": "a1", "action": "gate", "reason": "it goes on\n<!channel>"}
        answer = await assistant.call_tool("propose", asked)
    assert not answer.is_error, answer.content
    (command,) = commands(house)
    assert (command.kind, command.by) == ("propose", "assistant")
    assert command.args == {"alert_id": "a1", "action": "gate", "reason": "it goes on <!channel>"}


@pytest.mark.parametrize(
    ("token", "asked", "why"),
    [
        (READER, {}, "may not propose"),
        ("wrong-token", {}, "missing or wrong bearer token"),
        (ASSISTANT, {"action": "other"}, "its routes have gate"),
        (ASSISTANT, {"alert_id": "none"}, "no such alert"),
    ],
)
async def test_a_proposal_that_is_not_taken_says_why(house: Any, token: str, asked: dict[str, str], why: str) -> None:
    async with client(house, token) as assistant:
        answer = await assistant.call_tool("propose", {"alert_id": "a1", "action": "gate", "reason": "", **asked})
    assert answer.is_error
    assert why in answer.content[0].text
    assert commands(house) == []


async def test_an_alert_that_is_over_has_nothing_to_propose(house: Any) -> None:
    house.view.alerts["a1"] = an_alert(status="resolved", resolved_at=2e9)
    async with client(house) as assistant:
        found = await assistant.call_tool("alert", {"alert_id": "a1"})
        answer = await assistant.call_tool("propose", {"alert_id": "a1", "action": "gate", "reason": ""})
    assert found.structured_content["may_propose"] == []
    assert "resolved" in answer.content[0].text


@pytest.mark.parametrize("alert_id", ["", "..", "../commands", "a1/explain", "%2e%2e", "a1?x=1", "x" * 5000])
async def test_an_id_is_data_and_leads_to_no_other_place(house: Any, alert_id: str) -> None:
    async with client(house) as assistant:
        answer = await assistant.call_tool("alert", {"alert_id": alert_id})
    assert answer.is_error
    assert any(word in answer.content[0].text for word in ("no such alert", "an id is missing", "HTTP 4"))


async def test_without_a_daemon_a_tool_says_so(house: Any) -> None:
    house.url = "http://127.0.0.1:1/"
    async with client(house) as assistant:
        answer = await assistant.call_tool("budgets", {})
    assert answer.is_error
    assert "no daemon answers at http://127.0.0.1:1" in answer.content[0].text


async def test_the_command_speaks_over_standard_input_and_output(house: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{READER}\n")
    command = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "curb", "mcp", "--url", house.url, "--token-file", str(token)],
        env=dict(os.environ),
    )
    async with mcp.Client(command) as assistant:
        answer = await assistant.call_tool("budgets", {})
    assert answer.structured_content["budgets"][0]["name"] == "keys"
