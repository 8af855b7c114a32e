"""What would happen now: read from the log and the targets, and nothing is changed by asking."""

from __future__ import annotations

from typing import Any

from curb.actions.lifecycle.preview import PreviewLine, preview, read_memory
from curb.actions.settings import ActionsSettings
from tests.fakes.actions_house import later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder

SHAVE = {"do": "shave_to_normal", "verify_within_minutes": 10}
ROLES: dict[str, Any] = {"finance": {"people": ["fred"]}}


async def asked(house: PolicyHouse, config: ActionsSettings | None = None) -> list[PreviewLine]:
    before = {at: list(messages) for at, messages in house.log.messages.items() if messages}
    memory = await read_memory(house.log, house.clock)
    found = [line async for line in preview(memory, config or house.config, {"gate": house.policy_gate}, house.clock)]
    assert {at: list(messages) for at, messages in house.log.messages.items() if messages} == before
    return found


async def test_it_shows_target_before_after_rung_mode_and_why_without_a_daemon() -> None:
    house = PolicyHouse(ladder(SHAVE, {"do": "block", "mode": "approve"}, approvers=ROLES))
    await house.log.append([alert_message(an_alert())])
    (line,) = await asked(house)
    assert line.plan is not None
    assert (line.plan.target, line.plan.before, line.plan.after) == ("gate/k1", {"rpm": 500}, {"rpm": 20})
    assert (line.rung, line.rungs, line.do, line.mode) == (1, 2, "shave_to_normal", "auto")
    assert (line.why, line.why_not) == ("its normal level (p95)", "")
    assert house.policy_gate.calls == []


async def test_it_says_why_nothing_would_be_done() -> None:
    house = PolicyHouse(ladder(SHAVE))
    assert await asked(house) == []
    await house.log.append([alert_message(an_alert()), command_message("halt", T0)])
    assert [line.why_not for line in await asked(house)] == ["halted: the kill switch is on"]
    await house.log.append([command_message("resume", T0)])
    (line,) = await asked(house, ladder({"do": "pause"}))
    assert line.why_not == "nothing to do: gate cannot pause"
    (line,) = await asked(house, ladder({"do": "notify", "verify_within_minutes": 5}, SHAVE))
    assert line.why_not == "people have until 2025-06-15 15:11 UTC, then rung 2"
    (line,) = await asked(house, ActionsSettings())
    assert line.why_not == "no route asks for an action; people are notified"


async def test_it_says_what_is_in_force_and_what_waits() -> None:
    house = PolicyHouse(ladder(SHAVE))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    (line,) = await asked(house)
    assert line.why_not == f"already applied until 2025-06-15 16:06 UTC: {id_of('k1')}"
    house = PolicyHouse(ladder(SHAVE | {"mode": "approve"}, approvers=ROLES))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    (line,) = await asked(house)
    assert line.why_not.startswith("already proposed, an answer counts until")


async def test_it_shows_the_rung_an_alert_has_come_to() -> None:
    house = PolicyHouse(ladder(SHAVE, {"do": "block", "mode": "approve"}, approvers=ROLES))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.log.append([later(2, 601)])
    await house.runner.take_in(0)
    await house.runner._passes[0].once()
    shown = await asked(house, ladder(SHAVE, {"do": "block"}))
    assert [(line.rung, line.do, line.plan is not None) for line in shown] == [(2, "block", True)]


async def test_what_cannot_be_brought_back_would_be_asked_for() -> None:
    house = PolicyHouse(ladder({"do": "block"}))
    house.policy_gate.reversible = False
    await house.log.append([alert_message(an_alert())])
    (line,) = await asked(house)
    assert (line.mode, line.plan.warning if line.plan else "") == ("approve", "what it did so far is lost")
