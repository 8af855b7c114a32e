"""Curb halts itself when it is the runaway, and any halt holds until a person lifts it."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.ledger.ledger import REAPER, Ledger
from curb.actions.policy.guards import freeze
from curb.actions.policy.limits import ActionLimits
from curb.stream.records.spend import LedgerEntry
from curb.stream.time import HOUR_S
from tests.fakes.actions_house import House, settings
from tests.fakes.alerts import T0, alert_message, an_alert, an_entry, command_message

KEYS = [f"k{number}" for number in range(12)]


async def a_house(**limits: Any) -> House:
    """Twelve keys; every cap but those of the freeze is out of the way."""
    wide = {"max_open_actions": 99, "max_actions_per_hour": 99, "max_open_per_team": 99}
    house = House(settings(limits=wide | limits, routes=[{"notify": ["chat"], "act": ["gate"], "lease_minutes": 300}]))
    house.gate.limits = dict.fromkeys(KEYS, 500)
    await house.runner.open()
    return house


def about(key: str, revision: int = 1, at: float = T0, **changes: Any) -> Any:
    tags = {"team": "search", "project": "p", "api_key": key}
    named = {"alert_id": f"a-{key}", "fingerprint": f"f-{key}", "revision": revision}
    return alert_message(an_alert(tags=tags, updated_at=at, **named, **changes))


def limited(house: House) -> int:
    return sum(limit == 10 for limit in house.gate.limits.values())


async def incidents(house: House, count: int) -> None:
    for key in KEYS[:count]:
        await house.say(about(key))
        await house.wait(60)


async def test_more_actions_than_usual_halt_it_until_somebody_resumes() -> None:
    house = await a_house(freeze_after=4)
    await incidents(house, 7)
    assert limited(house) == 5
    halted = house.runner.view()["halted"]
    assert (halted["by"], halted["reason"]) == (
        "curb",
        "frozen: more than 4 actions were begun within an hour (limits.freeze_after)",
    )
    await house.restart()
    await house.wait(2 * 3600)
    await house.say(about("k11", at=house.clock.now()))
    assert limited(house) == 5
    await house.say(command_message("resume", house.clock.now()))
    await house.say(about("k11", 2, at=house.clock.now()))
    await house.wait(61)
    assert house.runner.view()["halted"] is None
    assert house.gate.limits["k11"] == 10


async def test_what_froze_it_does_not_freeze_it_again_after_the_resume() -> None:
    house = await a_house(freeze_after=4)
    await incidents(house, 7)
    await house.say(command_message("resume", house.clock.now()))
    await house.wait(61)
    assert limited(house) == 7
    await house.restart()
    assert house.runner.view()["halted"] is None


async def test_actions_that_people_take_back_halt_it() -> None:
    house = await a_house()
    await incidents(house, 3)
    open_now = [row["action_id"] for row in house.runner.view()["open"]]
    assert len(open_now) == 3
    for number, action_id in enumerate(open_now):
        assert house.runner.view()["halted"] is None
        await house.say(command_message("undo", house.clock.now(), id=f"u{number}", action_id=action_id))
        await house.wait(1)
    assert house.runner.view()["halted"]["reason"].startswith("frozen: actions on 3 alerts were undone by people")
    await house.say(about("k9", at=house.clock.now()))
    assert limited(house) == 0


async def test_leases_still_end_while_it_is_frozen() -> None:
    house = await a_house(freeze_after=1)
    await incidents(house, 3)
    assert limited(house) == 2
    await house.wait(301 * 60)
    assert limited(house) == 0


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_a_halt_holds_over_restarts(restarts: int) -> None:
    house = await a_house()
    await house.say(command_message("halt", T0, reason="release day"))
    for _ in range(restarts):
        await house.restart()
    await incidents(house, 2)
    assert limited(house) == 0
    assert house.runner.view()["halted"]["reason"] == "release day"
    await house.say(command_message("resume", house.clock.now()))
    await house.wait(61)
    assert limited(house) == 2


def frozen(*entries: LedgerEntry, now: float = T0, resumed_at: float = 0.0, **changes: Any) -> str:
    return freeze(Ledger(entries), ActionLimits.model_validate(changes), resumed_at=resumed_at, now=now)


def test_too_many_actions_within_an_hour_freeze_until_somebody_resumes() -> None:
    begun = [an_entry(n, "planned", at=T0 - 60 * n) for n in range(9)]
    assert frozen(*begun) == "frozen: more than 8 actions were begun within an hour (limits.freeze_after)"
    assert frozen(*begun, now=T0 + 20 * HOUR_S) != ""
    assert frozen(*begun[1:]) == ""
    assert frozen(*begun, freeze_after=None) == ""
    assert frozen(*begun, resumed_at=T0 - 470) == ""
    spread = [an_entry(n, "planned", at=T0 - 10 * 60 * n) for n in range(20)]
    assert frozen(*spread) == ""
    assert frozen(*[an_entry(n, "shadow") for n in range(20)]) == ""


@pytest.mark.parametrize(("state", "by"), [("ineffective", "curb"), ("restored", "ana")])
def test_three_alerts_with_actions_in_vain_freeze(state: str, by: str) -> None:
    vain = [an_entry(n, state, by=by, at=T0 - 60 * n) for n in range(3)]
    assert frozen(*vain).startswith("frozen: actions on 3 alerts were undone by people or ineffective")
    assert frozen(*vain[1:]) == ""
    assert frozen(*(an_entry(n, state, by=by, alert_id="same") for n in range(5))) == ""
    assert frozen(*vain, freeze_after_failures=None) == ""
    assert frozen(*vain, resumed_at=T0) == ""


def test_what_ends_by_itself_is_no_failure() -> None:
    ends = [an_entry(n, "restored", by=by) for n, by in enumerate(["curb", REAPER, "curb", "curb"])]
    assert frozen(*ends) == ""
