"""What the runner cannot be sure of: appends whose answer was lost, undos that were only said, a clock that was set."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.ledger.inbox_state import state_message
from curb.actions.ledger.ledger import ActionState, Ledger, in_order
from curb.actions.ledger.memory import Memory, kept_key
from curb.actions.lifecycle.reaper import Reaper
from curb.stream.errors import PermanentError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, STATE
from tests.fakes.actions_house import ID1, House, later, settings
from tests.fakes.alerts import T0, alert_message, an_alert, an_entry, command_message
from tests.fakes.memory_log import MemoryLog


@pytest.fixture
async def house() -> House:
    house = House()
    house.gate.limits["k1"] = 500
    await house.runner.open()
    return house


async def test_a_plan_that_was_written_although_the_append_failed_is_carried_out_or_closed(house: House) -> None:
    await house.log.append([alert_message(an_alert())])
    await house.runner.take_in(0)
    house.log.fail_after = 99
    for passes in house.runner._passes:
        await passes.once()
    house.log.fail_after = 0
    assert (house.states(), house.gate.limits["k1"]) == (["planned"], 500)
    await house.say(later(2, 1, status="resolved"))
    await house.wait(61)
    assert house.states()[-1] == "restored"
    assert house.runner.view()["open"] == []


class Deaf:
    """Says yes to an undo and does nothing."""

    def __init__(self, house: House) -> None:
        self._house, self._undo = house, house.gate.undo
        self.asked = 0
        house.gate.undo = self  # type: ignore[method-assign]

    async def __call__(self, plan: Any, outcome: Any) -> None:
        self.asked += 1

    def hears_again(self) -> None:
        self._house.gate.undo = self._undo  # type: ignore[method-assign]


async def test_an_undo_is_asked_for_until_the_old_value_is_back(house: House) -> None:
    await house.say(alert_message(an_alert()))
    gate = Deaf(house)
    await house.wait(3600)
    await house.wait(120)
    assert gate.asked >= 2
    assert (house.gate.limits["k1"], "restored" in house.states()) == (10, False)
    assert "took the undo and still reads" in str(house.runner.view()["problems"])
    gate.hears_again()
    await house.wait(120)
    assert (house.gate.limits["k1"], house.states()[-1]) == (500, "restored")


async def test_the_reaper_does_not_believe_either(house: House) -> None:
    await house.say(alert_message(an_alert()))
    gate = Deaf(house)
    await house.clock.advance(3600 + 121)
    reaper = Reaper(house.log, house.clock, {"gate": house.gate})
    assert await reaper.once() == [ID1]
    gate.hears_again()
    await house.clock.advance(300)
    assert await reaper.once() == []
    assert (house.gate.limits["k1"], house.states()[-1]) == (500, "restored")


async def test_what_cannot_be_read_back_after_its_undo_is_asked_for_again(house: House) -> None:
    await house.say(alert_message(an_alert()))
    refuse = True

    async def hook(point: str) -> None:
        if point == "verify" and refuse:
            raise PermanentError("403")

    house.gate.hook = hook
    await house.wait(3600)
    assert house.states()[-1] != "restored"
    refuse = False
    await house.wait(120)
    assert (house.gate.limits["k1"], house.states()[-1]) == (500, "restored")


async def test_a_plan_that_was_being_given_back_is_not_applied_after_a_restart(house: House) -> None:
    """Its reason was a command; it is gone, because the clock was set back or its answer was written meanwhile."""

    async def hook(point: str) -> None:
        if point == "after apply":
            raise RuntimeError("reset")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    assert (house.states(), house.gate.limits["k1"]) == (["planned"], 10)

    async def dies(point: str) -> None:
        if point == "after undo":
            raise KeyboardInterrupt

    house.gate.hook = dies
    await house.clock.advance(3601)
    with pytest.raises(KeyboardInterrupt):
        await house.runner.step()
    house.clock.jump(-3601)

    async def works(point: str) -> None: ...

    house.gate.hook = works
    await house.restart()
    assert (house.states()[-1], house.gate.limits["k1"]) == ("restored", 500)
    assert [verb for verb, _, _ in house.gate.calls] == ["apply", "undo"]


async def test_an_answer_that_comes_after_all_is_over_is_not_kept_for_ever() -> None:
    approvers = {"owners": {"people": ["ana"]}}
    house = House(settings(mode="approve", approvers=approvers))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    assert house.states() == ["proposed"]
    await house.say(later(2, 60, status="resolved"))
    await house.wait(60)
    await house.wait(60)
    await house.say(command_message("approve", T0 + 130, action_id=ID1))
    await house.wait(60)
    assert house.gate.calls == []
    kept = [key for key in await house.log.table(STATE) if key.startswith(b"actions/ledger/")]
    assert kept == []


def test_entries_stay_in_their_order_when_the_clock_was_set_back() -> None:
    first = ActionState([an_entry(1, "planned", at=T0 + 100), an_entry(1, "restored", at=T0 - 7000)])
    second = ActionState([an_entry(2, "planned", at=T0 + 50)])
    told = [(entry.action_id, entry.state) for entry in in_order([first, second])]
    assert told == [("i2", "planned"), ("i1", "planned"), ("i1", "restored")]


def test_who_is_about_to_end_what_others_have_ended_opens_it_not_again() -> None:
    applied, restored = an_entry(1), an_entry(1, "restored", by="curb-reaper")
    overdue, ending = an_entry(1, "effective", overdue=True), an_entry(1, "planned", ending=True)
    for late in (overdue, ending):
        assert Ledger([applied, restored, late]).open_actions() == []
        assert len(Ledger([applied, late]).open_actions()) == 1


async def test_no_step_is_taken_on_memory_that_is_in_doubt(house: House) -> None:
    await house.log.append([alert_message(an_alert())])
    await house.runner.take_in(0)
    house.log.fail_after = 1
    for _ in range(3):
        for passes in house.runner._passes:
            await passes.once()
        await house.clock.advance(300)
    assert (house.states(), house.gate.calls, house.chat.posts) == (["planned"], [], [])
    await house.runner.step()
    await house.runner.step()
    assert house.states()[:2] == ["planned", "applied"]
    assert len(house.chat.posts) == 1


async def test_what_is_kept_beside_the_log_never_comes_after_what_is_on_it() -> None:
    log = MemoryLog()
    planned, applied, restored = (an_entry(1, state, at=T0) for state in ("planned", "applied", "restored"))
    kept = state_message(kept_key(planned), [an_entry(1, "proposed", at=T0 - 9e6), planned, restored])
    await log.append([*(Message(ACTIONS, encode(each), key=b"k") for each in (planned, applied, restored)), kept])
    memory = Memory(log)
    await memory.load(T0)
    [state] = memory.ledger.actions()
    assert [entry.state for entry in state.entries] == ["proposed", "planned", "applied", "restored"]
