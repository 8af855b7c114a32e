"""One incident in Slack with people in it, over real HTTP: approvals, undo, faults and crashes; all is said once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext
from curb.actions.ledger.inbox_state import AlertFact
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.notify.names import TagNames
from curb.actions.slack.calls import SlackCalls
from curb.actions.slack.desk import Desk
from curb.actions.slack.listener import Listener
from curb.actions.slack.notifier import Config
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.records.spend import Alert, LedgerEntry
from tests.fakes.actions_house import House, ledger_messages, settings
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.slack_api import APP_TOKEN, CHANNEL, TOKEN, SlackApi
from tests.fakes.slack_people import ANA, BOB, buttons, press

MAY = {verb: [ANA] for verb in ("approve", "deny", "undo", "snooze", "halt")}


async def draw(alert_id: str) -> bytes | None:
    return f"picture of {alert_id}".encode()


class Office(House):
    """A house whose channel is Slack, with people in it."""

    def __init__(self, slack: SlackApi, config: Config, http: aiohttp.ClientSession, mode: str) -> None:
        approvers = {"on-call": {"people": [ANA]}}
        super().__init__(settings(mode=mode, approvers=approvers))
        self.slack = slack
        context = ActionContext(self.clock, http, draw)
        self.notifier = config.build(context)
        desk = Desk({"chat": config}, self, self.clock)
        calls: dict[str, SlackCalls] = {"chat": config.calls(context)}
        self.listener = Listener(desk, calls, self.log.append)
        self.runner = self.new_runner()

    def new_runner(self) -> ActionsRunner:
        notifiers = {"chat": self.notifier} if hasattr(self, "notifier") else {}
        return ActionsRunner(self.log, self.clock, self.config, {"gate": self.gate}, notifiers)

    # What people may know: here, what the runner knows.

    def alert(self, alert_id: str) -> Alert | None:
        fact: AlertFact | None = self.runner._memory.inbox.alerts.get(alert_id)
        return fact.alert if fact is not None else None

    def action(self, action_id: str) -> Sequence[LedgerEntry]:
        return [entry for entry in self.ledger() if entry.action_id == action_id]

    def tags(self) -> Sequence[str]:
        return ("team",)

    async def names(self) -> TagNames:
        return TagNames()

    async def status(self) -> Sequence[str]:
        return ()

    async def pressed(self, verb: str, *, by: str = ANA) -> None:
        """Somebody presses a button of the message, and Curb takes its next steps."""
        await self.press(press(self.message, verb, by=by))

    async def press(self, payload: dict[str, Any]) -> None:
        taken = await self.listener.take(payload)
        if taken.after is not None:
            await taken.after()
        await self.runner.step()
        await self.runner.step()

    @property
    def message(self) -> dict[str, Any]:
        (message,) = self.slack.messages.values()
        return message

    def verbs(self) -> set[str]:
        return {button["action_id"].split(".")[1] for button in buttons(self.message)}

    def said(self) -> list[str]:
        return [reply.get("text", "picture") for reply in self.slack.replies()]


@pytest.fixture
async def office(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Office]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    slack = SlackApi(T0)
    async with TestServer(slack.app()) as server, aiohttp.ClientSession() as http:
        given = {
            "kind": "slack",
            "name": "chat",
            "token": TOKEN,
            "app_token": APP_TOKEN,
            "channel": CHANNEL,
            "may": MAY,
        }
        config = Config.model_validate(given | {"base_url": f"{server.make_url('/')}api/"})
        office = Office(slack, config, http, getattr(request, "param", "approve"))
        await office.runner.open()
        yield office


async def test_a_proposal_is_approved_by_a_button_and_undone_by_another(office: Office) -> None:
    await office.say(alert_message(an_alert()))
    assert office.gate.limits["k1"] is None
    assert {"approve", "deny", "snooze", "halt"} <= office.verbs()
    await office.pressed("approve", by=BOB)
    assert office.gate.limits["k1"] is None
    assert office.slack.ephemeral[0]["user"] == BOB
    await office.pressed("approve")
    assert office.gate.limits["k1"] == 10
    assert "undo" in office.verbs()
    assert "approve" not in office.verbs()
    shown = press(office.message, "undo")
    await office.press(shown)
    await office.press(shown)
    assert office.gate.limits["k1"] is None
    assert [verb for verb, _, _ in office.gate.calls] == ["apply", "undo"]
    assert "undo" not in office.verbs()
    texts = "\n".join(office.said())
    assert all(word in texts for word in ("Waiting for approval", "Throttled k1", "Undone: limit k1"))
    assert office.slack.posted == 1


async def test_a_proposal_that_is_denied_stays_undone(office: Office) -> None:
    await office.say(alert_message(an_alert()))
    await office.pressed("deny")
    assert office.gate.calls == []
    assert "Not done" in office.said()[-1]
    assert "approve" not in office.verbs()


async def test_an_approval_after_the_alert_resolved_does_nothing_and_the_thread_says_so(office: Office) -> None:
    await office.say(alert_message(an_alert()))
    late = press(office.message, "approve")
    over = an_alert(revision=2, status="resolved", resolved_at=T0 + 60, updated_at=T0 + 60)
    await office.log.append([alert_message(over)])
    await office.press(late)
    await office.wait(60)
    assert office.gate.calls == []
    assert any(text.startswith("Not done") for text in office.said())
    assert any(text.startswith("Resolved") for text in office.said())


async def test_snoozing_is_seen_and_halting_stops_what_is_new(office: Office) -> None:
    await office.say(alert_message(an_alert()))
    await office.pressed("snooze")
    assert "snooze" not in office.verbs()
    await office.pressed("halt")
    assert office.runner.view()["halted"]["by"] == f"slack:{ANA} (ana)"


@pytest.mark.parametrize("office", ["auto"], indirect=True)
@pytest.mark.parametrize("seed", range(12))
async def test_faults_and_crashes_at_any_moment_say_nothing_twice_and_lose_nothing(office: Office, seed: int) -> None:
    """429, 500, resets before and after Slack did it, and restarts of Curb, while an incident runs its course."""
    rng = random.Random(seed)
    story = [
        an_alert(tier="notice"),
        an_alert(revision=2, updated_at=T0 + 60),
        an_alert(revision=3, updated_at=T0 + 120, usd_per_hour=13.0),
        an_alert(revision=4, updated_at=T0 + 180, status="resolved", resolved_at=T0 + 180, usd_per_hour=12.0),
    ]
    for alert in story:
        await office.log.append([alert_message(alert)])
        for _ in range(4):
            faults = office.slack.faults
            for queue in (faults.next, faults.after):
                queue.extend(rng.choice(["429", "500", "reset"]) for _ in range(rng.randrange(3)))
            if rng.random() < 0.3:
                office.runner = office.new_runner()
                await office.runner.open()
            await office.wait(rng.choice([1, 20]))
    office.slack.faults.next.clear()
    office.slack.faults.after.clear()
    for _ in range(20):
        await office.wait(400)
    assert office.slack.posted == 1
    keys = [reply["metadata"]["event_payload"]["key"] for reply in office.slack.replies() if "metadata" in reply]
    names = [reply["files"][0]["name"] for reply in office.slack.replies() if reply.get("files")]
    assert len(keys) == len(set(keys))
    assert len(names) == len(set(names))
    texts = [text.partition(":")[0].partition(" after")[0] for text in office.said() if text != "picture"]
    assert {"Resolved", "Undone"} <= set(texts)
    assert any(text.startswith("Throttled k1") for text in texts)
    assert "(resolved)" in office.message["text"]
    assert office.runner._memory.inbox.alerts == {}
    sent = [m for m in ledger_messages(office.log) if not isinstance(m, LedgerEntry) and m.state == "failed"]
    assert sent == []


async def test_a_second_runner_on_the_same_log_is_refused_and_takes_over_without_a_word(
    office: Office, tmp_path: Path
) -> None:
    clock = ManualClock(T0)
    one, two = EmbeddedLog(tmp_path, clock), EmbeddedLog(tmp_path, clock)
    await one.open()
    await two.open()
    first, second = (
        ActionsRunner(log, clock, office.config, {"gate": office.gate}, {"chat": office.notifier}) for log in (one, two)
    )
    await first.open()
    await one.append([alert_message(an_alert())])
    await first.step()
    with pytest.raises(PermanentError, match="another process"):
        await second.open()
    await first.close()
    await second.open()
    for _ in range(3):
        await second.step()
        await clock.advance(1)
    assert office.slack.posted == 1
    assert len([text for text in office.said() if text != "picture"]) == 2, "the figures, and what waits for approval"
    await second.close()
    await one.close()
    await two.close()
