"""What would happen now: read from the log and the targets, and nothing is changed by asking."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.lifecycle.preview import PreviewLine, preview, read_memory
from curb.actions.settings import ActionsSettings
from curb.stream.errors import PermanentError, TransientError
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


async def test_every_line_names_its_alert_rung_and_action() -> None:
    house = PolicyHouse(ladder({"do": "notify", "verify_within_minutes": 5}, SHAVE))
    await house.log.append([alert_message(an_alert())])
    (line,) = await asked(house)
    assert (line.alert.alert_id, line.rung, line.rungs, line.do, line.action) == ("a1", 1, 2, "notify", "")
    house = PolicyHouse(ladder(SHAVE, {"do": "block"}))
    await house.log.append([alert_message(an_alert())])
    (line,) = await asked(house)
    assert (line.alert.alert_id, line.rung, line.rungs, line.do, line.action) == (
        "a1",
        1,
        2,
        "shave_to_normal",
        "gate",
    )
    memory = await read_memory(house.log, house.clock)
    (line,) = [each async for each in preview(memory, house.config, {}, house.clock)]
    assert (line.rung, line.rungs, line.plan) == (1, 2, None)
    assert line.why_not == "the action 'gate' is not configured"


@pytest.mark.parametrize("error", [PermanentError("HTTP 403: no rights"), TransientError("HTTP 503: busy")])
async def test_a_target_that_cannot_be_read_is_said(error: Exception) -> None:
    async def fails(_: str) -> None:
        raise error

    house = PolicyHouse(ladder(SHAVE, {"do": "block"}))
    await house.log.append([alert_message(an_alert())])
    house.policy_gate.hook = fails
    (line,) = await asked(house)
    assert line.why_not == f"cannot be planned: {error}"
    assert (line.rung, line.rungs, line.plan, line.alert.alert_id) == (1, 2, None, "a1")


async def test_the_last_rung_of_people_names_no_next_one() -> None:
    house = PolicyHouse(ladder(SHAVE, {"do": "notify", "verify_within_minutes": 5}))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.log.append([later(2, 601)])
    await house.runner.take_in(0)
    await house.runner._passes[0].once()
    (line,) = await asked(house)
    assert (line.rung, line.do) == (2, "notify")
    assert line.why_not == "people have until 2025-06-15 15:21 UTC"


async def test_a_block_says_that_it_must_not_go_on() -> None:
    house = PolicyHouse(ladder({"do": "block"}))
    await house.log.append([alert_message(an_alert())])
    (line,) = await asked(house)
    assert (line.do, line.why) == ("block", "it must not go on")
