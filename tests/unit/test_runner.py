"""The actions runner: the way of an alert to a lease and back, the belts and the kill switch."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from curb.actions.ledger.ledger import action_id_for
from curb.actions.policy.ladder import climb
from curb.stream.records.spend import BudgetStatus
from tests.fakes.actions_house import ID1, ID2, House, later, settings
from tests.fakes.alerts import T0, alert_message, an_alert, command_message


@pytest.fixture
async def house() -> House:
    house = House()
    await house.runner.open()
    return house


async def test_an_alert_becomes_a_verified_lease_that_ends(house: House) -> None:
    await house.say(alert_message(an_alert()))
    assert house.gate.limits["k1"] == 10
    assert house.states() == ["planned", "applied"]
    await house.clock.advance(120)
    await house.say(later(2, 120, usd_per_hour=14.0))
    assert house.states() == ["planned", "applied", "effective"]
    assert house.ledger()[-1].usd_per_hour_after == 14.0
    await house.wait(3479)
    assert house.gate.limits["k1"] == 10
    await house.wait(2)
    assert house.gate.limits["k1"] is None
    assert house.states() == ["planned", "applied", "effective", "restored"]
    assert house.ledger()[-1].detail == "the lease ended"
    assert len(house.chat.posts) == 1
    assert [entry.state for entry in house.chat.edits[-1].ledger][-1] == "restored"


async def test_the_plan_is_durable_before_the_target_is_touched(house: House) -> None:
    seen: list[list[str]] = []

    async def hook(point: str) -> None:
        if point == "before apply":
            seen.append(house.states())

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    assert seen == [["planned"]]


async def test_nothing_is_done_about_a_resolved_alert(house: House) -> None:
    await house.say(alert_message(an_alert(status="resolved", resolved_at=T0)))
    assert house.ledger() == []
    assert house.gate.calls == []


async def test_shadow_mode_says_what_it_would_do_and_does_nothing() -> None:
    house = House(settings(mode="shadow"))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.wait(600)
    assert house.states() == ["shadow"]
    assert house.gate.calls == []
    assert house.chat.posts[0].ledger[0].plan.after == {"rpm": 10}


async def test_switching_to_auto_acts_on_an_alert_that_was_shadowed() -> None:
    house = House(settings(mode="shadow"))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    house.config = settings()
    await house.restart()
    assert house.states(ID2) == ["planned", "applied"]


async def test_a_burn_that_does_not_fall_is_ineffective_and_keeps_its_lease(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 600))
    await house.wait(901)
    assert house.states() == ["planned", "applied", "ineffective"]
    assert house.gate.limits["k1"] == 10
    assert house.ledger()[-1].detail == "the burn did not fall"


async def test_an_old_revision_proves_nothing(house: House) -> None:
    await house.clock.advance(60)
    await house.say(alert_message(an_alert(usd_per_hour=13.0)))
    await house.wait(60)
    assert house.states() == ["planned", "applied"]


async def test_a_fallen_burn_without_the_limit_in_force_is_not_effective(house: House) -> None:
    await house.say(alert_message(an_alert()))
    house.gate.limits["k1"] = 77
    await house.clock.advance(100)
    await house.say(later(2, 100, usd_per_hour=1.0))
    assert house.states() == ["planned", "applied"]
    await house.wait(850)
    assert house.states()[-1] == "ineffective"
    assert "77" in house.ledger()[-1].detail


async def test_resolved_counts_as_fallen(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    assert house.states()[-1] == "effective"
    assert house.gate.limits["k1"] == 10


async def test_restore_on_resolve_ends_the_lease_at_once() -> None:
    house = House(settings(restore_on_resolve=True))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    assert house.states()[-1] == "restored"
    assert house.gate.limits["k1"] is None


async def test_after_the_lease_it_rests_and_then_plans_afresh_if_it_still_burns(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.wait(3600)
    assert house.states() == ["planned", "applied", "restored"]
    await house.say(later(2, 3660))
    assert house.states(ID2) == []
    await house.wait(300)
    assert house.states(ID2) == ["planned", "applied"]
    assert house.gate.limits["k1"] == 10


async def test_after_the_lease_a_normal_burn_is_left_alone(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.wait(3600)
    await house.clock.advance(400)
    await house.say(later(2, 4000, usd_per_hour=13.0))
    assert house.states(ID2) == []


async def test_what_a_person_undid_is_not_done_again(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(command_message("undo", T0, action_id=ID1))
    assert house.gate.limits["k1"] is None
    assert (house.ledger()[-1].state, house.ledger()[-1].by) == ("restored", "ana")
    await house.clock.advance(4000)
    await house.say(later(2, 4000))
    assert house.states(ID2) == []


async def test_drift_is_told_and_left_alone(house: House) -> None:
    await house.say(alert_message(an_alert()))
    house.gate.limits["k1"] = 55
    await house.wait(3600)
    assert house.states()[-1] == "drift"
    assert house.gate.limits["k1"] == 55
    await house.clock.advance(1000)
    await house.say(later(2, 4600))
    assert house.gate.limits["k1"] == 55


async def test_halt_stops_new_actions_and_lets_leases_end(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(command_message("halt", T0, reason="looks wrong"))
    second = an_alert(alert_id="a2", fingerprint="f2", tags={"api_key": "k2"})
    await house.say(alert_message(second))
    assert house.gate.limits["k2"] == 500
    assert house.runner.view()["halted"] == {"by": "ana", "at": T0, "reason": "looks wrong"}
    await house.restart()
    assert house.runner.view()["halted"] is not None
    await house.wait(3600)
    assert house.gate.limits["k1"] is None
    await house.say(command_message("resume", T0 + 3600))
    await house.wait(61)
    assert house.gate.limits["k2"] == 10
    assert house.runner.view()["halted"] is None


async def test_a_command_sent_twice_counts_once(house: House) -> None:
    halt = command_message("halt", T0, id="c1")
    await house.say(halt, command_message("resume", T0, id="c2"))
    await house.say(halt)
    assert house.runner.view()["halted"] is None
    await house.restart()
    await house.say(halt)
    assert house.runner.view()["halted"] is None


BUDGET: dict[str, Any] = {
    "name": "b",
    "period": "day",
    "period_start": T0,
    "period_end": T0 + 86400,
    "amount_usd": 10.0,
    "spent_usd": 10.0,
    "threshold": 100.0,
}
REFUSALS = {
    "warm-up": ({}, {"baseline": msgspec.structs.replace(an_alert().baseline, known_days=1.0)}),
    "billed": ({}, {"money": "billed"}),
    "never_touch": ({"limits": {"never_touch": [{"team": "sea*"}]}}, {}),
    "limit: 0 actions are open": ({"limits": {"max_open_actions": 0}}, {}),
    "limit: 0 actions were begun": ({"limits": {"max_actions_per_hour": 0}}, {}),
    "stale": ({}, {"updated_at": T0 - 8000}),
    "notify only: a growth alert": ({}, {"kind": "growth"}),
    "notify only: a runaway alert of tier digest": ({}, {"tier": "digest"}),
    "budget": ({}, {"kind": "budget", "budget": BudgetStatus(**BUDGET)}),
    "nothing to do": ({}, {"tags": {"api_key": "unknown"}}),
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_belt_holds_and_says_why_once(reason: str) -> None:
    changed_settings, changed_alert = REFUSALS[reason]
    house = House(settings(**changed_settings))
    await house.runner.open()
    await house.say(alert_message(an_alert(**changed_alert)))
    for _ in range(3):
        await house.wait(120)
    assert house.states() == ["skipped"]
    assert house.ledger()[0].detail.startswith(reason)
    assert house.gate.calls == []


@pytest.mark.parametrize(
    "told",
    [
        {"kind": "abusive", "channel": "new_principal"},
        {"needs_warmup": False},
        {"kind": "budget", "budget": BudgetStatus(**BUDGET, hard=True)},
    ],
    ids=str,
)
async def test_what_is_new_or_spent_needs_no_warmup(told: dict[str, Any]) -> None:
    house = House()
    await house.runner.open()
    await house.say(alert_message(an_alert(baseline=None, **told)))
    assert house.states() == ["planned", "applied"]


async def test_one_open_action_per_target(house: House) -> None:
    other = an_alert(alert_id="a2", fingerprint="f2")
    await house.say(alert_message(an_alert()), alert_message(other))
    assert house.states() == ["planned", "applied"]
    assert house.states(action_id_for("a2", "gate", 1)) == ["skipped"]
    assert [call for call in house.gate.calls if call[0] == "apply"] == [("apply", "k1", 10)]


async def test_a_plan_that_would_raise_a_limit_is_refused(house: House) -> None:
    house.gate.to = 600
    await house.say(alert_message(an_alert(tags={"api_key": "k2"})))
    assert house.states() == ["skipped"]
    assert house.ledger()[0].detail.startswith("the plan would raise a limit")
    assert house.gate.limits["k2"] == 500


async def test_alerts_of_which_nothing_is_due_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def climb_and_note(ladder: Any, states: Any, alert: Any, now: float) -> Any:
        looked_at.append(alert.alert_id)
        return climb(ladder, states, alert, now)

    monkeypatch.setattr("curb.actions.lifecycle.lease.climb", climb_and_note)
    house = House(settings(limits={"max_open_actions": 1, "max_actions_per_hour": 1}))
    await house.runner.open()
    several = [an_alert(alert_id=f"a{n}", fingerprint=f"f{n}") for n in range(100)]
    await house.say(*map(alert_message, several))
    await house.wait(0)
    assert set(looked_at) == {alert.alert_id for alert in several}
    looked_at.clear()
    for _ in range(3):
        await house.wait(0.25)
    assert looked_at == []
    await house.say(alert_message(an_alert(alert_id="a7", fingerprint="f7", revision=2, updated_at=T0 + 1)))
    assert set(looked_at) == {"a7"}
    await house.wait(61)  # what was refused is looked at again, for the reason may be gone
    assert set(looked_at) == {alert.alert_id for alert in several}


async def test_other_tasks_run_while_thousands_of_alerts_are_looked_at(house: House) -> None:
    several = [alert_message(an_alert(alert_id=f"a{n}", fingerprint=f"f{n}")) for n in range(200)]
    await house.log.append(several)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await house.runner.take_in(0.0)
    counting = asyncio.create_task(count())
    await house.runner.step()
    counting.cancel()
    assert turns > 5
