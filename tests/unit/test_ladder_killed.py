"""A ladder with an approval, killed before and after every append, commit and call: it ends the same."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.ledger.ledger import Ledger
from curb.stream.log.topics import STATE
from tests.fakes.actions_house import later, ledger_messages
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder
from tests.unit.test_runner_killed import KillableLog, KilledError, Killer

pytestmark = pytest.mark.long

ROLES: dict[str, Any] = {"finance": {"people": ["fred"]}}
RUNGS = (
    {"do": "shave_to_normal", "lease_minutes": 600, "verify_within_minutes": 10},
    {"do": "block", "mode": "approve", "lease_minutes": 30, "verify_within_minutes": 10},
)
TAGS = {"team": "search", "project": "rank", "api_key": "k1+k2"}
LIVES = {
    ("k1", 1): ["planned", "applied", "ineffective", "restored"],
    ("k2", 1): ["planned", "applied", "ineffective", "restored"],
    ("k1", 2): ["proposed", "planned", "applied", "effective", "restored"],
    ("k2", 2): ["planned", "applied", "effective", "restored"],
}


async def story(killer: Killer) -> PolicyHouse:
    """Two keys are shaved, it does not help, somebody says yes to blocking them, it helps, the leases end."""
    log = KillableLog(killer)
    house = PolicyHouse(ladder(*RUNGS, approvers=ROLES), "k1", "k2", log=log)
    house.policy_gate.hook = house.chat.hook = killer.point

    async def alive(seconds: float) -> None:
        await house.clock.advance(seconds)
        for _ in range(8):
            await house.clock.advance(2)
            try:
                await house.runner.step()
            except KilledError:
                house.runner = house.new_runner()
                await house.runner.open()

    await house.runner.open()
    await log.say(alert_message(an_alert(tags=TAGS)))
    await alive(0)
    await alive(60)
    await log.say(later(2, 601, tags=TAGS))
    await alive(700)
    await log.say(command_message("approve", T0, by="fred", action_id=id_of("k1", 2)))
    await alive(10)
    await alive(60)
    now = house.clock.now()
    over = {"status": "resolved", "resolved_at": now, "usd_per_hour": 0.0}
    await log.say(later(3, now - T0, tags=TAGS, **over))
    await alive(10)
    await alive(1800)
    await alive(60)
    return house


@pytest.mark.parametrize("gap", [0, 1, 3])
async def test_killed_at_any_point_or_two_it_ends_the_same(gap: int) -> None:
    calm = Killer()
    untouched = await story(calm)
    assert untouched.policy_gate.calls == [
        ("apply", "k1", {"rpm": 20}),
        ("apply", "k2", {"rpm": 20}),
        ("undo", "k1", {"rpm": 500}),
        ("apply", "k1", {"blocked": True}),
        ("undo", "k2", {"rpm": 500}),
        ("apply", "k2", {"blocked": True}),
        ("undo", "k1", {"blocked": False}),
        ("undo", "k2", {"blocked": False}),
    ]
    assert calm.count > 100
    for at in range(1, calm.count + 1):
        house = await story(Killer(at, at + gap))
        assert house.policy_gate.keys == {key: {"rpm": 500, "blocked": False} for key in ("k1", "k2")}, at
        for (key, episode), life in LIVES.items():
            assert list(dict.fromkeys(house.steps(key, episode))) == life, (at, key, episode)
        approvers = {entry.approved_by for entry in house.ledger() if entry.rung == 2 and entry.state == "planned"}
        assert approvers == {"fred"}, at
        notices = [notice.key for _, notice in house.chat.history]
        assert len(set(notices)) == len(notices), at
        assert len(house.chat.posts) == 1, at
        assert Ledger(ledger_messages(house.log)).open_actions() == [], at
        assert set(await house.log.table(STATE)) == {b"actions/commands"}, at
