"""A runner with one gateway, one channel and one log around it, on a clock that moves when told."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.actions.action import Action, ActionConfig, ActionContext, RateConfig
from curb.actions.ledger.ledger import action_id_for
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.notify.protocol import Notifier, NotifierConfig
from curb.actions.settings import ActionsSettings
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS
from curb.stream.records.spend import ActionsMessage, LedgerEntry, NoticeEntry
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.gateway import Channel, Gateway
from tests.fakes.memory_log import MemoryLog

ID1 = action_id_for("a1", "gate", 1, "gate/k1")
ID2 = action_id_for("a1", "gate", 2, "gate/k1")

#: Everything is marked as what may be stopped.
MARKED: dict[str, Any] = {"criticality": [{"match": {}, "is": "non_critical"}]}


class NamedAction(ActionConfig):
    """A configured action of which only the name counts."""

    def build(self, context: ActionContext) -> Action:
        raise AssertionError("the house has its own gateway")


class NamedRate(RateConfig):
    """The same, of a kind that limits a rate of requests."""

    def build(self, context: ActionContext) -> Action:
        raise AssertionError("the house has its own gateway")


class NamedNotifier(NotifierConfig):
    """A configured notifier of which only the name counts."""

    def build(self, context: ActionContext) -> Notifier:
        raise AssertionError("the house has its own channel")


def settings(**changes: Any) -> ActionsSettings:
    base: dict[str, Any] = {
        "mode": "auto",
        "actions": [NamedAction(kind="x", name="gate")],
        "notifiers": [NamedNotifier(kind="x", name="chat")],
        "routes": [{"notify": ["chat"], "act": ["gate"], "lease_minutes": 60}],
        "telling": {"group_wait_seconds": 0, "group_by": [], "inhibit": False, "repeat_hours": 0},
    }
    limits = MARKED | changes.pop("limits", {})
    return ActionsSettings.model_validate(base | changes | {"limits": limits})


class House:
    """One log, one gateway, one channel; runners come and go."""

    def __init__(self, config: ActionsSettings | None = None, log: Any = None) -> None:
        self.log = log or MemoryLog()
        self.clock = ManualClock(T0)
        self.config = config or settings()
        self.gate = Gateway({"k1": None, "k2": 500})
        self.chat = Channel()
        self.runner = self.new_runner()

    def new_runner(self) -> ActionsRunner:
        return ActionsRunner(self.log, self.clock, self.config, {"gate": self.gate}, {"chat": self.chat})

    async def restart(self) -> None:
        self.runner = self.new_runner()
        await self.runner.open()
        await self.runner.step()

    async def say(self, *messages: Message) -> None:
        await self.log.append(messages)
        await self.runner.step()

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.runner.step()

    def ledger(self) -> list[LedgerEntry]:
        return [m for m in ledger_messages(self.log) if isinstance(m, LedgerEntry)]

    def states(self, action_id: str | None = None) -> list[str]:
        """Of one action, or of the first on the ledger."""
        ledger = self.ledger()
        wanted = action_id or (ledger[0].action_id if ledger else "")
        return [entry.state for entry in ledger if entry.action_id == wanted]


def ledger_messages(log: MemoryLog) -> list[ActionsMessage]:
    return [msgspec.json.decode(m.value, type=LedgerEntry | NoticeEntry) for m in log.of(ACTIONS)]


def later(revision: int, seconds: float, **changes: Any) -> Message:
    return alert_message(an_alert(revision=revision, updated_at=T0 + seconds, **changes))


def told(notice: Any) -> tuple[str, list[str]]:
    return notice.alert.status, [entry.state for entry in notice.ledger if entry.state != "planned"]
