"""What every kind of notifier promises, held against its fake over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from curb.actions.kinds import NOTIFIERS
from curb.actions.notify.apprise import Apprise
from curb.actions.notify.apprise import Config as AppriseConfig
from curb.actions.notify.protocol import Notice, Notifier, Reply, Threads
from curb.actions.slack.notifier import Slack
from curb.stream.errors import PermanentError, TransientError
from curb.testing.notifiers import NOTIFIER_PROMISES, NotifierBench, opened
from tests.fakes.alertmanager_api import AlertmanagerApi
from tests.fakes.alerts import T0, an_alert
from tests.fakes.apprise_receiver import AppriseReceiver
from tests.fakes.opsgenie_api import OpsgenieApi
from tests.fakes.pagerduty_events import PagerdutyEvents
from tests.fakes.slack_api import CHANNEL, TOKEN, SlackApi
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.unit.test_slack_desk import entry


class SlackBench(NotifierBench):
    secret = TOKEN

    def __init__(self) -> None:
        self.fake = SlackApi(T0)
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        return {
            "kind": "slack",
            "name": "chat",
            "token": TOKEN,
            "channel": CHANNEL,
            "base_url": f"{address}api/",
            "timeout_s": 1.0,
        }

    def shown(self) -> int:
        return len(self.fake.messages)


class WebhookBench(NotifierBench):
    def __init__(self) -> None:
        self.fake = WebhookReceiver()
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        return {"kind": "webhook", "name": "hook", "url": f"{address}hook", "timeout_s": 1.0}

    def shown(self) -> int:
        return len(self.fake.accepted)


class AlertmanagerBench(NotifierBench):
    secret = "am-token-1"

    def __init__(self) -> None:
        self.fake = AlertmanagerApi()
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        more = {"urls": [address], "token": self.secret, "timeout_s": 1.0}
        return {"kind": "alertmanager", "name": "am", **more}

    def shown(self) -> int:
        return len(self.fake.alerts)


class AppriseBench(NotifierBench):
    """It cannot tell who asked to wait how long, nor drop what comes twice."""

    retry_after_s = None
    shown_after_a_lost_answer = 2

    def __init__(self) -> None:
        self.fake = AppriseReceiver()
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        address = address.replace("http://", "json://")
        return {"kind": "apprise", "name": "desk", "urls": [f"{address}notify"], "timeout_s": 1.0}

    def shown(self) -> int:
        return len(self.fake.messages)


class ConsoleBench(NotifierBench):
    """Standard output needs no server and has no faults."""

    has_channel = False

    def app(self) -> web.Application:
        return web.Application()

    def config(self, address: str) -> dict[str, Any]:
        return {"kind": "console", "name": "console"}

    def shown(self) -> int:
        raise AssertionError("nobody looks at the screen")


class PagerdutyBench(NotifierBench):
    secret = "pagerduty-key-1"

    def __init__(self) -> None:
        self.fake = PagerdutyEvents(self.secret)
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        more = {"routing_key": self.secret, "base_url": address, "timeout_s": 1.0}
        return {"kind": "pagerduty", "name": "duty", **more}

    def shown(self) -> int:
        return len(self.fake.incidents)


class OpsgenieBench(NotifierBench):
    secret = "opsgenie-key-1"

    def __init__(self) -> None:
        self.fake = OpsgenieApi(self.secret)
        self.faults = self.fake.faults

    def app(self) -> web.Application:
        return self.fake.app()

    def config(self, address: str) -> dict[str, Any]:
        return {"kind": "opsgenie", "name": "duty", "api_key": self.secret, "base_url": address, "timeout_s": 1.0}

    def shown(self) -> int:
        return len({*self.fake.alerts, *self.fake.closed})


BENCHES: dict[str, type[NotifierBench]] = {
    "alertmanager": AlertmanagerBench,
    "apprise": AppriseBench,
    "console": ConsoleBench,
    "opsgenie": OpsgenieBench,
    "pagerduty": PagerdutyBench,
    "slack": SlackBench,
    "webhook": WebhookBench,
}
Setup = tuple[Any, Notifier]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", sorted(NOTIFIERS))
def test_every_kind_has_a_bench(kind: str) -> None:
    assert kind in BENCHES, f"the notifier {kind} has no bench: write a NotifierBench here and name it in BENCHES"


@pytest.mark.parametrize("promise", NOTIFIER_PROMISES)
@pytest.mark.parametrize("kind", sorted(BENCHES))
async def test_promise(kind: str, promise: str) -> None:
    await NOTIFIER_PROMISES[promise](BENCHES[kind])


@pytest.fixture
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    async with opened(BENCHES[request.param]) as (bench, notifier, _):
        yield bench, notifier


def threads(setup: Setup) -> tuple[Any, Slack]:
    """The bench and the notifier, which has threads."""
    bench, notifier = setup
    assert isinstance(notifier, Slack)
    assert isinstance(notifier, Threads)
    return bench, notifier


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
