"""The actions runner killed before and after every append, commit and call: it ends the same."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.ledger.ledger import Ledger
from curb.stream.log.protocol import Message
from curb.stream.log.topics import STATE
from tests.fakes.actions_house import House, later, ledger_messages, told
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.memory_log import MemoryLog


class KilledError(BaseException):
    """The process is gone."""


class Killer:
    """Ends the process at the given points, counting every append, commit and call, before and after each."""

    def __init__(self, *at: int) -> None:
        self.at, self.count = at, 0

    async def point(self, _name: str = "") -> None:
        self.count += 1
        if self.count in self.at:
            raise KilledError


class KillableLog(MemoryLog):
    def __init__(self, killer: Killer) -> None:
        super().__init__()
        self.killer = killer

    async def append(self, messages: Any) -> None:
        await self.killer.point()
        await super().append(messages)
        await self.killer.point()

    async def say(self, message: Message) -> None:
        """What another process appends."""
        await super().append([message])


async def story(killer: Killer) -> House:
    """Alert, throttle, fall, resolve, lease end; whenever the process is killed it starts again."""
    log = KillableLog(killer)
    house = House(log=log)
    house.gate.hook = house.chat.hook = killer.point

    async def alive(seconds: float) -> None:
        await house.clock.advance(seconds)
        for _ in range(4):
            try:
                await house.runner.step()
            except KilledError:
                house.runner = house.new_runner()
                await house.runner.open()

    await house.runner.open()
    await log.say(alert_message(an_alert()))
    await alive(0)
    await log.say(later(2, 60, usd_per_hour=14.0))
    await alive(60)
    await log.say(later(3, 600, usd_per_hour=12.0, status="resolved", resolved_at=T0 + 600))
    await alive(540)
    await alive(3000)
    await alive(60)
    return house


@pytest.mark.parametrize("gap", [0, 1, 2, 5])
async def test_killed_at_any_point_or_two_it_ends_the_same(gap: int) -> None:
    calm = Killer()
    untouched = await story(calm)
    assert untouched.gate.calls == [("apply", "k1", 10), ("undo", "k1", None)]
    assert calm.count > 30
    for at in range(1, calm.count + 1):
        house = await story(Killer(at, at + gap))
        assert house.gate.limits == {"k1": None, "k2": 500}, at
        assert {value for verb, _, value in house.gate.calls if verb == "apply"} == {10}, at
        assert len(house.chat.posts) == 1, at
        notices = [notice for _, notice in house.chat.history]
        assert len({notice.key for notice in notices}) == len(notices), at
        status, states = told(notices[-1])
        assert (status, list(dict.fromkeys(states))) == ("resolved", ["applied", "effective", "restored"]), at
        assert list(dict.fromkeys(house.states())) == ["planned", "applied", "effective", "restored"], at
        folded = Ledger(ledger_messages(house.log))
        assert folded.open_actions() == [], at
        last = folded.last_notice("chat", "a1")
        assert last is not None, at
        assert last.state == "sent", at
        assert await house.log.table(STATE) == {}, at
