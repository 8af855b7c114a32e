"""What every kind of notifier promises, held against its fake over real HTTP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.action import Context
from curb.actions.kinds import NOTIFIERS
from curb.actions.notify.apprise import Apprise
from curb.actions.notify.apprise import Config as AppriseConfig
from curb.actions.notify.protocol import DayDigest, Digests, Notice, Notifier, Reply, Threads
from curb.actions.slack.notifier import Slack
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from tests.fakes.alerts import T0, an_alert
from tests.fakes.apprise_receiver import AppriseReceiver
from tests.fakes.faults import Faults
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.unit.test_slack_desk import entry


class SlackBench:
    def __init__(self) -> None:
        self.fake = SlackApi(T0)
        self.faults = self.fake.faults
        self.app = self.fake.app

    def config(self, base_url: str) -> dict[str, Any]:
        return {
            "kind": "slack",
            "name": "chat",
            "token": TOKEN,
            "channel": CHANNEL,
            "base_url": f"{base_url}api/",
            "timeout_s": 1.0,
        }

    def shown(self) -> int:
        return len(self.fake.messages)


class WebhookBench:
    def __init__(self) -> None:
        self.fake = WebhookReceiver()
        self.faults = self.fake.faults
        self.app = self.fake.app

    def config(self, base_url: str) -> dict[str, Any]:
        return {"kind": "webhook", "name": "hook", "url": f"{base_url}hook", "timeout_s": 1.0}

    def shown(self) -> int:
        return len(self.fake.accepted)


class AppriseBench:
    """It cannot tell who asked to wait how long, nor drop what comes twice."""

    retry_after = None
    shown_after_a_lost_answer = 2

    def __init__(self) -> None:
        self.fake = AppriseReceiver()
        self.faults = self.fake.faults
        self.app = self.fake.app

    def config(self, base_url: str) -> dict[str, Any]:
        address = base_url.replace("http://", "json://")
        return {"kind": "apprise", "name": "desk", "urls": [f"{address}notify"], "timeout_s": 1.0}

    def shown(self) -> int:
        return len(self.fake.messages)


class ConsoleBench:
    """Standard output needs no server and has no faults."""

    def __init__(self) -> None:
        self.faults: Faults | None = None
        self.app = web.Application

    def config(self, base_url: str) -> dict[str, Any]:
        return {"kind": "console", "name": "console"}


BENCHES: dict[str, Any] = {
    "apprise": AppriseBench,
    "console": ConsoleBench,
    "slack": SlackBench,
    "webhook": WebhookBench,
}
Setup = tuple[Any, Notifier]


def test_every_kind_has_a_bench() -> None:
    assert set(BENCHES) == set(NOTIFIERS)


async def draw(alert_id: str) -> bytes | None:
    return None if alert_id == "nothing to draw" else f"picture of {alert_id}".encode()


@pytest.fixture(params=sorted(NOTIFIERS))
async def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    bench = BENCHES[request.param]()
    module, _, name = NOTIFIERS[request.param].partition(":")
    config_class = getattr(importlib.import_module(module), name)
    async with TestServer(bench.app()) as server, aiohttp.ClientSession() as http:
        config = config_class.model_validate(bench.config(str(server.make_url("/"))))
        notifier = config.build(Context(ManualClock(T0), http, draw))
        yield bench, notifier
        await notifier.close()


async def test_send_find_edit(setup: Setup) -> None:
    """A reference that is given can be found again by the key and edited in place."""
    bench, notifier = setup
    ref = await notifier.send(Notice("k-1", an_alert()), "")
    assert await notifier.find("k-0") is None
    assert await notifier.find("k-1") == (ref or None)
    again = await notifier.send(Notice("k-2", an_alert(revision=2)), ref)
    assert again == ref
    assert await notifier.find("k-2") == (ref or None)
    if ref:
        assert bench.shown() == 1


@pytest.mark.parametrize("fault", ["429", "500", "slow", "reset"])
async def test_faults_of_the_other_side_are_transient(setup: Setup, fault: str) -> None:
    bench, notifier = setup
    if bench.faults is None:
        assert await notifier.send(Notice("k-1", an_alert()), "") == ""
        return
    bench.faults.next.append(fault)
    with pytest.raises(TransientError) as caught:
        await notifier.send(Notice("k-1", an_alert()), "")
    assert caught.value.retry_after == (getattr(bench, "retry_after", 7.0) if fault == "429" else None)
    assert TOKEN not in str(caught.value)
    assert bench.shown() == 0
    await notifier.send(Notice("k-1", an_alert()), "")
    assert bench.shown() == 1


async def test_a_message_whose_answer_got_lost_is_shown_once(setup: Setup) -> None:
    bench, notifier = setup
    if bench.faults is None:
        assert await notifier.find("k-1") is None
        return
    bench.faults.after.append("reset")
    with pytest.raises(TransientError):
        await notifier.send(Notice("k-1", an_alert()), "")
    if await notifier.find("k-1") is None:  # it cannot look back: the copy must be recognised by its key
        await notifier.send(Notice("k-1", an_alert()), "")
    assert bench.shown() == getattr(bench, "shown_after_a_lost_answer", 1)


def threads(setup: Setup) -> tuple[Any, Slack]:
    """The bench and the notifier, which has threads."""
    bench, notifier = setup
    assert isinstance(notifier, Slack)
    assert isinstance(notifier, Threads)
    return bench, notifier


DIGEST = DayDigest("digest-1", "2026-03-01", T0, (an_alert(tier="digest"),), ())


async def test_every_kind_sends_the_digest(setup: Setup) -> None:
    bench, notifier = setup
    assert isinstance(notifier, Digests)
    ref = await notifier.send_digest(DIGEST)
    assert await notifier.find("digest-1") == (ref or None)
    if bench.faults is not None:
        assert bench.shown() == 1


REPLIES = [
    Reply("r-1", "step", Notice("k-1", an_alert()), an_alert(), entry("proposed"), loud=True),
    Reply("r-2", "resolved", Notice("k-1", an_alert()), an_alert(status="resolved", resolved_at=T0 + 60)),
]


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
async def test_slack_has_threads(setup: Setup) -> None:
    bench, notifier = threads(setup)
    ref = await notifier.send(Notice("k-1", an_alert()), "")
    refs = [await notifier.reply(reply, ref) for reply in REPLIES]
    assert [await notifier.find_reply(reply.key, ref) for reply in REPLIES] == refs
    assert await notifier.find_reply("r-9", ref) is None
    assert [bool(reply["reply_broadcast"]) for reply in bench.fake.replies()] == [True, False]
    assert bench.shown() == 1


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
@pytest.mark.parametrize("fault", ["429", "500", "reset", "slow"])
async def test_slack_faults_in_a_thread_are_transient_and_a_lost_answer_is_found(setup: Setup, fault: str) -> None:
    bench, notifier = threads(setup)
    ref = await notifier.send(Notice("k-1", an_alert()), "")
    bench.faults.next.append(fault)
    with pytest.raises(TransientError):
        await notifier.reply(REPLIES[0], ref)
    assert bench.fake.replies() == []
    bench.faults.after.append("reset")
    with pytest.raises(TransientError):
        await notifier.reply(REPLIES[0], ref)
    assert await notifier.find_reply("r-1", ref) is not None


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
async def test_slack_shows_a_picture_by_the_three_calls_of_an_upload(setup: Setup) -> None:
    bench, notifier = threads(setup)
    ref = await notifier.send(Notice("k-1", an_alert()), "")
    chart = Reply("r-3", "chart", Notice("k-1", an_alert()), an_alert())
    assert await notifier.reply(chart, ref) == "F1"
    assert bench.fake.files["F1"]["content"] == b"picture of a1"
    methods = [each.rpartition("/")[2] for each in bench.faults.seen[-3:]]
    assert methods == ["files.getUploadURLExternal", "F1", "files.completeUploadExternal"]
    assert await notifier.find_reply("r-3", ref) is not None
    nothing = chart._replace(key="r-4", alert=an_alert(alert_id="nothing to draw"))
    assert await notifier.reply(nothing, ref) == ""
    assert len(bench.fake.files) == 1


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("fault", ["429", "500", "reset"])
async def test_slack_faults_of_an_upload_are_transient(setup: Setup, at: int, fault: str) -> None:
    bench, notifier = threads(setup)
    ref = await notifier.send(Notice("k-1", an_alert()), "")
    bench.faults.next.extend(["ok"] * at + [fault])
    with pytest.raises(TransientError):
        await notifier.reply(Reply("r-3", "chart", Notice("k-1", an_alert()), an_alert()), ref)
    assert bench.fake.replies() == []


@pytest.mark.parametrize("setup", ["apprise"], indirect=True)
async def test_apprise_tells_again_only_those_who_did_not_take_it(setup: Setup) -> None:
    bench, notifier = setup
    assert isinstance(notifier, Apprise)
    url = notifier._config.urls[0].get_secret_value()
    given = {"kind": "apprise", "name": "desk", "urls": [url, url.replace("/notify", "/second")], "timeout_s": 5}
    both = Apprise(AppriseConfig.model_validate(given))
    bench.fake.refuse_second = True
    for _ in range(2):
        with pytest.raises(TransientError, match=r"urls\[1\]$"):
            await both.send(Notice("k-1", an_alert()), "")
    bench.fake.refuse_second = False
    await both.send(Notice("k-1", an_alert()), "")
    assert (len(bench.fake.messages), len(bench.fake.second)) == (1, 1)
    resolved = an_alert(status="resolved", resolved_at=T0)
    await both.send(Notice("k-2", resolved), "")
    assert [each["type"] for each in bench.fake.messages] == ["failure", "success"]
    assert len({each["title"] for each in bench.fake.messages}) == 1


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
async def test_slack_finds_on_later_pages_and_reposts_what_was_deleted(setup: Setup) -> None:
    bench, notifier = setup
    refs = [await notifier.send(Notice(f"k-{n}", an_alert()), "") for n in range(5)]
    assert [await notifier.find(f"k-{n}") for n in range(5)] == refs
    bench.fake.messages.pop(refs[0].partition(":")[2])
    fresh = await notifier.send(Notice("k-9", an_alert()), refs[0])
    assert fresh not in refs


@pytest.mark.parametrize("setup", ["slack"], indirect=True)
async def test_slack_refusals_are_permanent_and_name_the_reason(setup: Setup) -> None:
    _, notifier = setup
    with pytest.raises(PermanentError, match="channel_not_found"):
        await notifier.send(Notice("k-1", an_alert()), "C999999999:1.0")


@pytest.mark.parametrize("setup", ["webhook"], indirect=True)
@pytest.mark.parametrize("status", [302, 400, 401, 404])
async def test_a_webhook_that_refuses_or_redirects_is_permanent(setup: Setup, status: int) -> None:
    bench, notifier = setup
    bench.fake.refuse_with = status
    with pytest.raises(PermanentError, match=str(status)):
        await notifier.send(Notice("k-1", an_alert()), "")
