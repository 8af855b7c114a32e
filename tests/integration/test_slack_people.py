"""People in Slack, over a real websocket and over the daemon's HTTP port: once on the log, always answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext
from curb.actions.slack.desk import Desk
from curb.actions.slack.listener import Listener
from curb.actions.slack.notifier import Config
from curb.actions.slack.requests import read
from curb.actions.slack.socket import SlackSocket
from curb.config.file import load_text
from curb.daemon import Daemon
from curb.stream.clock import ManualClock, WallClock
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS
from curb.stream.records.spend import Command
from tests.fakes.alerts import T0, an_alert
from tests.fakes.memory_log import MemoryLog
from tests.fakes.slack_api import APP_TOKEN, CHANNEL, TOKEN, SlackApi
from tests.fakes.slack_people import ANA, BOB, SIGNING_SECRET, press, signed, slash, submission
from tests.unit.test_slack_desk import EVERYTHING, Log, entry, message

PING_S = 0.05


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


class World(NamedTuple):
    slack: SlackApi
    log: MemoryLog
    stop: asyncio.Event


@pytest.fixture
async def world() -> AsyncIterator[World]:
    slack, log, clock, stop = SlackApi(T0), MemoryLog(), ManualClock(T0), asyncio.Event()
    async with TestServer(slack.app()) as server, aiohttp.ClientSession() as http:
        base_url = f"{server.make_url('/')}api/"
        config = Config.model_validate(
            {
                "kind": "slack",
                "name": "chat",
                "token": TOKEN,
                "channel": CHANNEL,
                "app_token": APP_TOKEN,
                "base_url": base_url,
                "may": EVERYTHING,
            }
        )
        desk = Desk({"chat": config}, Log(entry()), clock)
        listener = Listener(desk, {"chat": config.calls(ActionContext(clock, http))}, log.append)
        running = asyncio.create_task(SlackSocket("chat", APP_TOKEN, base_url, listener, ping_s=PING_S).run(stop))
        yield World(slack, log, stop)
        stop.set()
        await running


def commands(log: MemoryLog) -> list[Command]:
    return [msgspec.json.decode(each.value, type=Command) for each in log.of(COMMANDS)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_press_is_on_the_log_before_it_is_acknowledged_and_the_person_is_told(world: World) -> None:
    await world.slack.people.until(lambda: world.slack.people.connections == 1)
    envelope = await world.slack.people.send("interactive", press(message(entry()), "undo"))
    assert await world.slack.people.acked(envelope) is None
    (command,) = commands(world.log)
    assert (command.kind, command.by) == ("undo", f"slack:{ANA} (ana)")
    await until(lambda: len(world.slack.ephemeral) == 1)
    whisper = world.slack.ephemeral[0]
    assert (whisper["user"], whisper["channel"]) == (ANA, CHANNEL)
    assert whisper["text"].startswith("Noted")


async def test_slash_commands_and_dialogs_are_answered_in_the_acknowledgement(world: World) -> None:
    people = world.slack.people
    await people.until(lambda: people.connections == 1)
    answer = await people.acked(await people.send("slash_commands", slash("help")))
    assert answer["response_type"] == "ephemeral"
    await people.send("interactive", press(message(), "planned"))
    await until(lambda: len(world.slack.views) == 1)
    opened = world.slack.views[0]
    assert opened["trigger_id"] == "trigger-1.000001"
    wrong = await people.acked(await people.send("interactive", submission(opened["view"], {"max_usd": "5"})))
    assert wrong == {"response_action": "errors", "errors": {"until": "a time is needed"}}
    good = submission(opened["view"], {"until": int(T0) + 3600, "max_usd": "5"})
    assert await people.acked(await people.send("interactive", good)) is None
    assert len(world.log.of(COMMANDS)) == 1


async def test_the_wrong_person_is_told_and_nothing_is_appended(world: World) -> None:
    await world.slack.people.until(lambda: world.slack.people.connections == 1)
    await world.slack.people.send("interactive", press(message(entry()), "halt", by=BOB))
    await until(lambda: len(world.slack.ephemeral) == 1)
    assert world.slack.ephemeral[0]["user"] == BOB
    assert world.log.of(COMMANDS) == []


async def test_what_is_none_of_ours_or_unreadable_is_acknowledged_all_the_same(world: World) -> None:
    people = world.slack.people
    await people.until(lambda: people.connections == 1)
    for kind, payload in (("events_api", {"type": "event_callback"}), ("interactive", {"type": "block_actions"})):
        assert await people.acked(await people.send(kind, payload)) is None
    assert world.log.of(COMMANDS) == []


async def test_a_log_that_is_away_is_said_and_pressing_again_works(world: World) -> None:
    people = world.slack.people
    await people.until(lambda: people.connections == 1)
    world.log.fail_next = 1
    await people.send("interactive", press(message(entry()), "undo"))
    await until(lambda: len(world.slack.ephemeral) == 1)
    assert "cannot write this down" in world.slack.ephemeral[0]["text"]
    await people.acked(await people.send("interactive", press(message(entry()), "undo")))
    assert len(commands(world.log)) == 1


@pytest.mark.parametrize("how", ["disconnect", "reset"])
async def test_it_reconnects_and_an_envelope_sent_again_is_the_same_command(world: World, how: str) -> None:
    people = world.slack.people
    await people.until(lambda: people.connections == 1)
    payload = press(message(entry()), "undo")
    await people.acked(await people.send("interactive", payload, "e-1"))
    if how == "disconnect":
        await people.disconnect()
    else:
        people.reset()
    await people.until(lambda: people.connections == 2)
    people.acks.clear()
    await people.acked(await people.send("interactive", payload, "e-1"))
    ids = {command.id for command in commands(world.log)}
    assert len(ids) == 1


async def test_it_connects_although_slack_fails_at_first() -> None:
    slack, stop = SlackApi(T0), asyncio.Event()
    slack.faults.next.extend(["500", "429", "reset"])
    async with TestServer(slack.app()) as server:
        listener = Listener(Desk({}, Log(), ManualClock(T0)), {}, MemoryLog().append)
        socket = SlackSocket("chat", APP_TOKEN, f"{server.make_url('/')}api/", listener, ping_s=PING_S)
        running = asyncio.create_task(socket.run(stop))
        await slack.people.until(lambda: slack.people.connections >= 1)
        await until(lambda: socket.connected)
        stop.set()
        await running
    assert not socket.connected


# --- signed requests, on the daemon's port ---


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    slack = SlackApi(T0)
    async with TestServer(slack.app()) as server:
        config = load_text(
            f"""
http: {{port: 0, token: api-token}}
log: {{kind: embedded, directory: {tmp_path}/log}}
state_dir: {tmp_path}/state
actions:
  notifiers:
    - kind: slack
      name: chat
      token: {TOKEN}
      channel: {CHANNEL}
      base_url: {server.make_url("/")}api/
      signing_secret: {SIGNING_SECRET}
      may: {{undo: [{ANA}], halt: [{ANA}], status: [{ANA}]}}
"""
        )
        daemon = Daemon(config)
        await daemon.open()
        daemon.view.apply(Message(ALERTS, encode(an_alert())))
        daemon.view.apply(Message(ACTIONS, encode(entry())))
        yield daemon
        await daemon.close()


Post = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def post(daemon: Daemon) -> AsyncIterator[Post]:
    async with aiohttp.ClientSession() as http:

        async def send(body: bytes, headers: dict[str, str], name: str = "chat") -> tuple[int, Any]:
            url = f"http://127.0.0.1:{daemon.port}/v1/slack/{name}"
            async with http.post(url, data=body, headers=headers) as answer:
                text = await answer.read()
                return answer.status, msgspec.json.decode(text) if text else None

        yield send


async def on_log(daemon: Daemon) -> list[Command]:
    return [msgspec.json.decode(message.value, type=Command) async for message in daemon.log.scan(COMMANDS)]


async def test_a_signed_request_counts_once_and_needs_no_token(daemon: Daemon, post: Post) -> None:
    body, headers = signed(slash("halt too loud"), WallClock().now())
    status, answer = await post(body, headers)
    assert (status, answer["response_type"]) == (200, "ephemeral")
    assert (await post(body, headers))[0] == 409
    (command,) = await on_log(daemon)
    assert (command.kind, command.args) == ("halt", {"reason": "too loud"})
    status, answer = await post(*signed(slash("status"), WallClock().now()))
    shown = "\n".join(block["text"]["text"] for block in answer["blocks"])
    assert f"halted by slack:{ANA} (ana)" in shown
    assert "alert a1" in shown
    assert "action act1" in shown


async def test_forged_and_stale_requests_are_refused(daemon: Daemon, post: Post) -> None:
    now = WallClock().now()
    body, headers = signed(press(message(entry()), "undo"), now)
    assert (await post(body + b" ", headers))[0] == 401
    assert (await post(*signed(slash("halt"), now, "not-the-secret")))[0] == 401
    assert (await post(*signed(slash("halt"), now - 400)))[0] == 401
    assert (await post(body, {}))[0] == 401
    assert (await post(body, headers, "nobody"))[0] == 404
    assert (await post(b"x" * 300_000, headers))[0] == 413
    assert (await post(*signed({"command": "", "payload": "{"}, now)))[0] == 400
    assert await on_log(daemon) == []


async def test_a_press_over_http_is_the_same_command_as_over_the_socket(daemon: Daemon, post: Post) -> None:
    assert (await post(*signed(press(message(entry()), "undo"), WallClock().now()))) == (200, None)
    (command,) = await on_log(daemon)
    desk = Desk({"chat": daemon.config.actions.notifiers[0]}, Log(entry()), ManualClock(T0))
    (asked,) = read(press(message(entry()), "undo"))
    (message_of_socket,) = (await desk.answer(asked)).messages
    assert msgspec.json.decode(message_of_socket.value, type=Command).id == command.id
