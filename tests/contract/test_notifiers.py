"""What every kind of notifier promises, held against its fake over real HTTP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from actions.action import Context
from actions.kinds import NOTIFIERS
from actions.notifier import Notice, Notifier
from stream.clock import ManualClock
from stream.errors import PermanentError, TransientError
from tests.fakes.alerts import T0, an_alert
from tests.fakes.faults import Faults
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi
from tests.fakes.webhook_receiver import WebhookReceiver


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
            "timeout_s": 0.2,
        }

    def shown(self) -> int:
        return len(self.fake.messages)


class WebhookBench:
    def __init__(self) -> None:
        self.fake = WebhookReceiver()
        self.faults = self.fake.faults
        self.app = self.fake.app

    def config(self, base_url: str) -> dict[str, Any]:
        return {"kind": "webhook", "name": "hook", "url": f"{base_url}hook", "timeout_s": 0.2}

    def shown(self) -> int:
        return len(self.fake.accepted)


class ConsoleBench:
    """Standard output needs no server and has no faults."""

    def __init__(self) -> None:
        self.faults: Faults | None = None
        self.app = web.Application

    def config(self, base_url: str) -> dict[str, Any]:
        return {"kind": "console", "name": "console"}


BENCHES: dict[str, Any] = {"slack": SlackBench, "webhook": WebhookBench, "console": ConsoleBench}
Setup = tuple[Any, Notifier]


def test_every_kind_has_a_bench() -> None:
    assert set(BENCHES) == set(NOTIFIERS)


@pytest.fixture(params=sorted(NOTIFIERS))
async def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    bench = BENCHES[request.param]()
    module, _, name = NOTIFIERS[request.param].partition(":")
    config_class = getattr(importlib.import_module(module), name)
    async with TestServer(bench.app()) as server, aiohttp.ClientSession() as http:
        config = config_class.model_validate(bench.config(str(server.make_url("/"))))
        notifier = config.build(Context(ManualClock(T0), http))
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
    assert caught.value.retry_after == (7.0 if fault == "429" else None)
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
    assert bench.shown() == 1


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
