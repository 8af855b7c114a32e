"""Rung zero: a soft alert limits a key to its own highest minute for minutes, in the mode of its route."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.policy.routing import decide
from tests.fakes.actions_house import settings
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.policy_gate import PolicyHouse, ladder

SHAVE = {"do": "shave_to_normal", "lease_minutes": 240, "verify_within_minutes": 10}
BLOCK = {"do": "block", "lease_minutes": 120, "verify_within_minutes": 10}
SOFT: dict[str, Any] = {"tier": "soft", "alert_id": "soft", "fingerprint": "soft", "channel": "fast/requests"}


async def opened(house: PolicyHouse) -> PolicyHouse:
    await house.runner.open()
    return house


async def test_a_soft_cap_ends_by_itself_and_nobody_gets_a_message() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert(**SOFT)))
    assert house.policy_gate.keys["k1"] == {"rpm": 20, "blocked": False}
    entry = house.ledger()[-1]
    assert (entry.rung, entry.do, entry.lease_s) == (0, "shave_to_normal", 600)
    assert entry.why == "its own highest minute, a soft cap"
    await house.wait(601)
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": False}
    assert house.chat.posts == []


async def test_a_page_takes_the_place_of_the_soft_cap_and_plans_from_the_original() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert(**SOFT)))
    await house.say(alert_message(an_alert()))
    for _ in range(4):
        await house.wait(2)
    last = house.ledger()[-1]
    assert (last.alert_id, last.rung, last.plan.before["rpm"]) == (an_alert().alert_id, 1, 500)
    assert house.policy_gate.keys["k1"] == {"rpm": 20, "blocked": False}
    await house.wait(700)
    assert house.policy_gate.keys["k1"]["rpm"] == 20, "the lease of the soft cap ends nothing"


async def test_what_comes_after_a_soft_cap_is_measured_by_the_burn_before_it() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert(**SOFT, usd_per_hour=40.0, requests_per_minute=90.0)))
    await house.say(alert_message(an_alert(usd_per_hour=11.0, requests_per_minute=30.0)))
    for _ in range(4):
        await house.wait(2)
    last = house.ledger()[-1]
    assert (last.rung, last.usd_per_hour_before, last.requests_per_minute_before) == (1, 40.0, 90.0)


@pytest.mark.parametrize(("mode", "state"), [("shadow", "shadow"), ("approve", "proposed")])
async def test_it_follows_the_mode(mode: str, state: str) -> None:
    house = await opened(PolicyHouse(ladder({**SHAVE, "mode": mode}, approvers={"ops": {"people": ["ana"]}})))
    await house.say(alert_message(an_alert(**SOFT)))
    assert house.ledger()[-1].state == state
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": False}


def test_a_ladder_without_a_shave_has_no_rung_zero_and_a_setting_turns_it_off() -> None:
    soft = an_alert(**SOFT)
    (step,) = decide(soft, settings()).ladders[0]
    assert (step.rung, step.acts[0].lease_s, step.acts[0].verb) == (0, 600, "shave")
    blocks = settings(routes=[{"ladder": [{"do": "block", "act": ["gate"]}]}])
    assert decide(soft, blocks).ladders == ()
    assert decide(soft, settings(limits={"soft_cap_minutes": 0})).ladders == ()
    pages = settings(routes=[{"match": {"tier": ["page"]}, "act": ["gate"]}])
    assert len(decide(soft, pages).ladders) == 1
    notices = settings(routes=[{"match": {"tier": ["notice"]}, "act": ["gate"]}])
    assert decide(soft, notices).ladders == ()
    assert soft.fired_at == T0
