"""A person extends a lease: by its own length, from now, once, and only who might have approved it."""

from __future__ import annotations

import pytest

from curb.stream.errors import PermanentError
from tests.fakes.actions_house import ID1, House, settings
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import id_of
from tests.unit.test_approvals import answer, asking, proposed
from tests.unit.test_undo_refused import Refusing


@pytest.fixture
async def house() -> House:
    """With a limit in force for an hour."""
    house = House(settings())
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    return house


async def extend(house: House, id: str = "e1") -> None:
    await house.say(command_message("extend", house.clock.now(), id=id, action_id=ID1))


async def test_a_lease_is_extended_by_its_length_from_now(house: House) -> None:
    await house.wait(3000)
    await extend(house)
    last = house.ledger()[-1]
    assert (last.by, last.detail, last.lease_expires_at) == ("ana", "extended by ana", T0 + 3000 + 3600)
    await house.wait(3590)
    assert house.gate.limits["k1"] == 10
    await house.wait(10)
    assert (house.ledger()[-1].state, house.ledger()[-1].detail) == ("restored", "the lease ended")
    assert house.gate.limits["k1"] is None


async def test_asked_twice_it_is_extended_once_also_after_a_restart(house: House) -> None:
    await house.wait(600)
    await extend(house)
    await house.wait(60)
    await extend(house)
    await house.restart()
    await house.wait(60)
    assert [entry.detail for entry in house.ledger()].count("extended by ana") == 1
    await house.wait(3600 - 120)
    assert house.ledger()[-1].state == "restored"


async def test_an_undo_wins(house: House) -> None:
    undo = command_message("undo", T0, id="u1", action_id=ID1)
    await house.say(undo, command_message("extend", T0, id="e1", action_id=ID1))
    assert house.ledger()[-1].state == "restored"
    await extend(house, "e2")
    await house.wait(60)
    assert house.ledger()[-1].state == "restored"


async def test_a_lease_that_is_over_is_not_extended(house: House) -> None:
    await house.clock.advance(3600)
    await extend(house)
    await house.wait(10)
    assert "not extended for ana: it is being given back" in [entry.detail for entry in house.ledger()]
    assert house.ledger()[-1].state == "restored"


async def test_what_cannot_be_given_back_is_not_extended(house: House) -> None:
    Refusing(house, PermanentError("HTTP 403"))
    await house.wait(3600)
    await extend(house)
    assert "not extended for ana: it is being given back" in [entry.detail for entry in house.ledger()]


async def test_while_halted_nothing_is_extended(house: House) -> None:
    await house.say(command_message("halt", T0))
    await extend(house)
    last = house.ledger()[-1]
    assert last.detail == "not extended for ana: halted: the kill switch is on"
    assert last.lease_expires_at == T0 + 3600


@pytest.mark.parametrize(("by", "extended"), [("fred", True), ("slack:U0MONEY (Mona)", True), ("olga", False)])
async def test_what_was_approved_takes_one_of_the_approvers(by: str, extended: bool) -> None:
    house = await proposed(asking())
    await answer(house, "approve", "fred")
    await house.wait(600)
    await answer(house, "extend", by)
    last = house.ledger()[-1]
    assert (last.lease_expires_at == T0 + 600 + 3600) is extended
    assert (f"not extended for {by}" in last.detail) is not extended


async def test_a_proposal_is_not_extended_and_not_approved_by_it() -> None:
    house = await proposed(asking())
    await answer(house, "extend", "fred")
    await house.wait(60)
    assert house.steps() == ["proposed"]
    assert house.runner.view()["proposed"][0]["action_id"] == id_of("k1")
