"""What is proposed by a person or an assistant: asked for, never done without approval, refused on the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.actions_house import later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder

ROLES: dict[str, Any] = {"on-call": {"people": ["olga"]}}
SHAVE = {"do": "shave_to_normal", "mode": "auto", "lease_minutes": 60}
BLOCK = {"do": "block", "mode": "auto", "lease_minutes": 60}


async def opened(*rungs: dict[str, Any], **changes: Any) -> PolicyHouse:
    house = PolicyHouse(ladder(*rungs, approvers=ROLES, **changes))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    return house


async def propose(house: PolicyHouse, *, id: str = "p1", action: str = "gate", alert_id: str = "a1") -> None:
    args = {"alert_id": alert_id, "action": action, "reason": "the loop goes on"}
    await house.say(command_message("propose", T0, id=id, by="assistant", **args))


def asked(house: PolicyHouse) -> list[Any]:
    return [entry for entry in house.ledger() if entry.by == "assistant"]


async def test_the_next_rung_is_asked_for_and_carried_out_when_a_person_approves() -> None:
    house = await opened(SHAVE, BLOCK)
    assert house.policy_gate.keys["k1"]["rpm"] == 20
    calls = list(house.policy_gate.calls)
    await propose(house)
    await house.wait(600)
    (entry,) = asked(house)
    assert (entry.state, entry.rung, entry.do) == ("proposed", 2, "block")
    assert entry.detail.startswith("assistant proposes it (the loop goes on); on-call may approve")
    assert house.policy_gate.calls == calls, "a proposal changes nothing"
    approve = command_message("approve", house.clock.now(), by="olga", action_id=entry.action_id)
    await house.say(approve)
    for _ in range(3):
        await house.wait(5)
    assert house.policy_gate.calls != calls


async def test_an_automatic_rung_is_not_done_because_it_is_proposed() -> None:
    house = await opened({"do": "notify", "verify_within_minutes": 60}, SHAVE)
    await propose(house)
    assert [(each.state, each.rung) for each in asked(house)] == [("proposed", 2)]
    assert house.policy_gate.calls == []


async def test_in_shadow_mode_it_is_noted() -> None:
    house = await opened({"do": "notify", "verify_within_minutes": 60}, SHAVE | {"mode": "shadow"})
    await propose(house)
    assert [each.state for each in asked(house)] == ["shadow"]
    assert house.policy_gate.calls == []


async def test_the_same_proposal_counts_once_also_after_a_restart() -> None:
    house = await opened({"do": "notify", "verify_within_minutes": 60}, SHAVE)
    await propose(house)
    await propose(house)
    await house.restart()
    await house.wait(10)
    assert len(asked(house)) == 1
    assert house.runner._memory.inbox.proposals == {}


async def test_what_cannot_be_proposed_is_refused_on_the_ledger() -> None:
    house = await opened(SHAVE)
    await propose(house)
    (entry,) = asked(house)
    assert entry.state == "skipped"
    assert entry.detail == (
        "proposed by assistant, and not asked for: no route has this action for the alert, or it was tried already"
    )


async def test_while_curb_is_halted_nothing_is_asked_for() -> None:
    house = await opened({"do": "notify", "verify_within_minutes": 60}, SHAVE)
    await house.say(command_message("halt", T0))
    await propose(house)
    (entry,) = asked(house)
    assert (entry.state, "halted" in entry.detail) == ("skipped", True)


@pytest.mark.parametrize("changes", [{"action": "other"}, {"alert_id": "a9"}])
async def test_other_actions_and_alerts_are_none_of_its_business(changes: dict[str, str]) -> None:
    house = await opened({"do": "notify", "verify_within_minutes": 60}, SHAVE)
    await propose(house, **changes)
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    await house.wait(10)
    assert asked(house) == []
    assert house.runner._memory.inbox.proposals == {}
    assert id_of("k1") not in {entry.action_id for entry in house.ledger()}
