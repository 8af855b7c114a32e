"""The whole actions room on the embedded log: real HTTP to the gateway and to Slack, a restart in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext
from curb.actions.levers.litellm_limits import Config as LimitsConfig
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.actions.slack.notifier import Config as SlackConfig
from curb.stream.clock import ManualClock
from curb.stream.log.embedded import EmbeddedLog
from tests.fakes.actions_house import NamedAction, NamedNotifier
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi


class World(NamedTuple):
    gateway: LitellmAdmin
    slack: SlackApi
    clock: ManualClock
    start: Callable[[EmbeddedLog], ActionsRunner]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    gateway, slack, clock = LitellmAdmin({"k1": {"rpm_limit": 600}}), SlackApi(T0), ManualClock(T0)
    limits: dict[str, Any] = {"kind": "litellm_limits", "name": "limits", "api_key": ADMIN_KEY}
    chat: dict[str, Any] = {"kind": "slack", "name": "chat", "token": TOKEN, "channel": CHANNEL}
    routes = [{"notify": ["chat"], "act": ["limits"], "lease_minutes": 30}]
    marked = {"criticality": [{"match": {"team": "*"}, "is": "non_critical"}]}
    settings = ActionsSettings.model_validate(
        {
            "mode": "auto",
            "actions": [NamedAction(kind="x", name="limits")],
            "notifiers": [NamedNotifier(kind="x", name="chat")],
            "routes": routes,
            "limits": marked,
        }
        | {"telling": {"group_wait_seconds": 0}}
    )
    async with TestServer(gateway.app()) as one, TestServer(slack.app()) as two, aiohttp.ClientSession() as http:
        context = ActionContext(clock, http)
        action = LimitsConfig.model_validate(limits | {"base_url": str(one.make_url("/"))}).build(context)
        notifier = SlackConfig.model_validate(chat | {"base_url": str(two.make_url("/api/"))}).build(context)

        def start(log: EmbeddedLog) -> ActionsRunner:
            return ActionsRunner(log, clock, settings, {"limits": action}, {"chat": notifier}, poll_s=0.02)

        yield World(gateway, slack, clock, start)


async def run_until(log: EmbeddedLog, runner: ActionsRunner, is_done: Callable[[], bool]) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    async with asyncio.timeout(20):
        while not is_done():
            assert not task.done()
            await asyncio.sleep(0.01)
    stop.set()
    await task
    await log.close()


def said(slack: SlackApi) -> str:
    return str([message["blocks"] for message in slack.messages.values()])


async def test_a_lease_outlives_a_restart_and_ends(world: World, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, world.clock)
    await log.open()
    await log.append([alert_message(an_alert())])
    runner = world.start(log)
    await run_until(
        log, runner, lambda: world.gateway.keys["k1"]["rpm_limit"] == 20 and "actions undo" in said(world.slack)
    )
    assert runner.view()["open"][0]["state"] == "applied"

    await world.clock.advance(1800)
    log = EmbeddedLog(tmp_path, world.clock)
    await log.open()
    await run_until(
        log, world.start(log), lambda: world.gateway.keys["k1"]["rpm_limit"] == 600 and "Undone" in said(world.slack)
    )
    assert world.slack.posted == 1
    assert [who for who, _ in world.gateway.updates] == ["curb/limits"] * 2
    assert [body for _, body in world.gateway.updates] == [{"rpm_limit": 20}, {"rpm_limit": 600}]
