"""The ladder in the runner: one rung up when the burn does not fall, and down again, each time from the original."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from curb.stream.errors import TransientError
from curb.stream.records.spend import BudgetStatus
from tests.fakes.actions_house import later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder

SHAVE = {"do": "shave_to_normal", "lease_minutes": 240, "verify_within_minutes": 10}
BLOCK = {"do": "block", "lease_minutes": 120, "verify_within_minutes": 10, "cool_down_minutes": 20}


async def opened(house: PolicyHouse) -> PolicyHouse:
    await house.runner.open()
    return house


async def climbed() -> PolicyHouse:
    """The shave did not help and the key is blocked."""
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert()))
    assert house.policy_gate.keys["k1"] == {"rpm": 20, "blocked": False}
    await house.clock.advance(601)
    await house.say(later(2, 601, usd_per_hour=230.0))
    for _ in range(4):
        await house.wait(2)
    return house


async def test_what_does_not_help_makes_way_for_the_next_rung_which_plans_from_the_original() -> None:
    house = await climbed()
    assert house.steps() == ["planned", "applied", "ineffective", "restored"]
    assert house.last().detail == "makes way for rung 2, block"
    assert house.steps(episode=2) == ["planned", "applied"]
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": True}
    assert (house.last(episode=2).rung, house.last(episode=2).do) == (2, "block")


async def test_a_burn_that_falls_keeps_the_lower_rung() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(120)
    await house.say(later(2, 120, usd_per_hour=14.0))
    await house.wait(3600)
    assert house.steps() == ["planned", "applied", "effective"]
    assert house.steps(episode=2) == []


async def test_a_gateway_that_says_yes_and_does_nothing_is_escalated() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    house.policy_gate.deaf = True
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.say(later(2, 601))
    ineffective = next(entry for entry in house.ledger() if entry.state == "ineffective")
    assert "the target reads {'rpm': 500}" in ineffective.detail
    house.policy_gate.deaf = False
    for _ in range(4):
        await house.wait(2)
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": True}


async def test_without_newer_figures_no_rung_is_climbed() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.clock.advance(5)
    await house.say(alert_message(an_alert()))
    await house.wait(3000)
    assert house.steps() == ["planned", "applied", "ineffective"]
    assert house.last().detail == "nothing was heard of the burn since"
    assert house.steps(episode=2) == []
    await house.say(later(2, 3000))
    for _ in range(4):
        await house.wait(2)
    assert house.steps(episode=2) == ["planned", "applied"]


async def test_people_have_their_time_on_a_notify_rung() -> None:
    house = await opened(PolicyHouse(ladder({"do": "notify", "verify_within_minutes": 5}, SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.wait(299)
    assert house.ledger() == []
    assert len(house.chat.posts) == 1
    await house.wait(2)
    assert house.steps() == ["planned", "applied"]


async def test_on_a_notify_rung_a_burn_that_falls_by_itself_is_left_alone() -> None:
    house = await opened(PolicyHouse(ladder({"do": "notify", "verify_within_minutes": 5}, SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(200)
    await house.say(later(2, 200, usd_per_hour=13.0))
    await house.wait(600)
    assert house.ledger() == []


async def test_it_steps_down_when_the_burn_was_normal_for_a_while_and_rests_before_it_comes_again() -> None:
    house = await climbed()
    await house.clock.advance(60)
    await house.say(later(3, 700, usd_per_hour=0.0))
    assert house.steps(episode=2)[-1] == "effective"
    await house.wait(300)
    await house.say(later(4, 1000, usd_per_hour=100.0))  # not normal: the while begins anew
    await house.wait(120)
    await house.say(later(5, 1120, usd_per_hour=1.0))
    await house.wait(590)
    assert house.policy_gate.keys["k1"]["blocked"]
    await house.wait(20)
    assert house.last(episode=2).state == "restored"
    assert house.last(episode=2).detail.startswith("stepped down")
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": False}
    ended = house.clock.now() - T0
    await house.say(later(6, ended + 30))
    await house.wait(19 * 60)
    assert house.steps(episode=3) == []
    await house.say(later(7, ended + 1190))
    await house.wait(61)
    assert house.steps(episode=3) == ["planned", "applied"]


async def test_the_first_rung_ends_with_its_lease_and_does_not_step_down() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(60)
    await house.say(later(2, 60, usd_per_hour=1.0))
    await house.wait(3600)
    assert house.steps() == ["planned", "applied", "effective"]


async def test_what_a_person_undid_ends_the_climb() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.say(command_message("undo", T0 + 601, action_id=id_of("k1")))
    await house.say(later(2, 700))
    await house.wait(3600)
    assert house.steps()[-1] == "restored"
    assert house.steps(episode=2) == []
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": False}


async def test_nothing_to_do_on_a_rung_leads_to_the_next_in_time() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK), rpm=5))
    await house.say(alert_message(an_alert()))
    assert house.ledger()[-1].detail == "nothing to do: no such subject, or it is limited already"
    await house.wait(590)
    assert house.steps() == []
    await house.wait(70)
    assert house.steps() == ["planned", "applied"]
    assert house.last().rung == 2


async def test_a_rung_whose_verb_the_action_cannot_do_says_so() -> None:
    house = await opened(PolicyHouse(ladder({"do": "pause"})))
    await house.say(alert_message(an_alert()))
    assert house.ledger()[-1].detail == "nothing to do: gate cannot pause"


async def test_a_crash_while_climbing_goes_on_where_the_ledger_ends() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE, BLOCK)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.say(later(2, 601))
    for _ in range(6):
        await house.restart()
        await house.wait(2)
    assert house.steps() == ["planned", "applied", "ineffective", "restored"]
    assert house.steps(episode=2) == ["planned", "applied"]
    assert [call for call in house.policy_gate.calls if call[0] == "apply"] == [
        ("apply", "k1", {"rpm": 20}),
        ("apply", "k1", {"blocked": True}),
    ]


def a_budget(**changes: object) -> BudgetStatus:
    status = BudgetStatus(
        name="b",
        period="day",
        period_start=T0 - 43200,
        period_end=T0 + 36000,
        amount_usd=1000.0,
        spent_usd=800.0,
        threshold=80.0,
        hard=True,
    )
    return msgspec.structs.replace(status, **changes)


async def test_shave_to_budget_leaves_the_rate_at_which_it_lasts_and_judges_by_it() -> None:
    house = await opened(PolicyHouse(ladder({"do": "shave_to_budget", "verify_within_minutes": 10})))
    alert = an_alert(kind="budget", budget=a_budget())
    await house.say(alert_message(alert))
    # $200 for ten hours are $20 an hour, a twelfth of the $240 that 400 requests a minute cost.
    assert house.policy_gate.keys["k1"]["rpm"] == 34
    assert house.last().aim_usd_per_hour == pytest.approx(20.0)
    assert "budget b" in house.last().why
    await house.clock.advance(60)
    await house.say(later(2, 60, kind="budget", budget=a_budget(), usd_per_hour=100.0))
    assert house.steps()[-1] == "applied"
    await house.say(later(3, 61, kind="budget", budget=a_budget(), usd_per_hour=25.0))
    assert house.steps()[-1] == "effective"


async def test_a_budget_that_comes_to_a_higher_tier_begins_its_ladder_again() -> None:
    house = await opened(PolicyHouse(ladder({"do": "shave_to_budget"})))
    await house.say(alert_message(an_alert(kind="budget", tier="notice", budget=a_budget())))
    assert house.policy_gate.keys["k1"]["rpm"] == 34
    await house.clock.advance(600)
    most = a_budget(spent_usd=1100.0, amount_usd=1200.0, threshold=100.0)
    risen = {"tier": "page", "tier_since": T0 + 600, "usd_per_hour": 40.0, "requests_per_minute": 80.0}
    await house.say(later(2, 600, kind="budget", budget=most, **risen))
    for _ in range(4):
        await house.wait(2)
    assert house.steps() == ["planned", "applied", "restored"]
    assert house.last().detail == "makes way for rung 1, shave_to_budget"
    assert house.steps(episode=2) == ["planned", "applied"]
    # $100 for ten hours, a quarter of the $40 that 80 requests a minute cost when it rose.
    assert house.policy_gate.aims[-1].requests_per_minute == pytest.approx(20.0, rel=0.05)
    await house.say(later(3, 620, kind="budget", budget=most, **{**risen, "usd_per_hour": 9.0}))
    for _ in range(4):
        await house.wait(2)
    assert house.steps(episode=2) == ["planned", "applied", "effective"]


async def test_a_soft_budget_makes_nothing_last() -> None:
    house = await opened(PolicyHouse(ladder({"do": "shave_to_budget"})))
    await house.say(alert_message(an_alert(kind="budget", budget=a_budget(hard=False))))
    assert house.ledger()[-1].detail.startswith("budget: only one with hard: true")


async def test_figures_are_those_at_firing_however_low_the_burn_is_by_now() -> None:
    house = await opened(PolicyHouse(ladder({"do": "notify", "verify_within_minutes": 5}, {"do": "shave_to_budget"})))
    alert = an_alert(kind="budget", budget=a_budget(spent_usd=-100000.0))
    await house.say(alert_message(alert))
    lower = {"usd_per_hour": 24.0, "requests_per_minute": 40.0, "baseline": None}
    await house.clock.advance(301)
    await house.say(later(2, 301, kind="budget", budget=alert.budget, **lower))
    assert house.policy_gate.aims[-1].requests_per_minute == 400.0
    assert house.policy_gate.aims[-1].usd_per_hour == 240.0


async def test_headroom_is_on_top_of_the_normal_level() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE | {"headroom": 1.5})))
    await house.say(alert_message(an_alert()))
    assert house.policy_gate.keys["k1"]["rpm"] == 30


async def test_the_ledger_says_what_was_saved_and_turned_away() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE)))
    house.policy_gate.rejected = 0
    await house.say(alert_message(an_alert()))
    await house.clock.advance(1800)
    await house.say(later(2, 1800, usd_per_hour=12.0, actual_usd=26.0))
    house.policy_gate.rejected = 11_990
    await house.say(command_message("undo", T0 + 1800, action_id=id_of("k1")))
    # Half an hour at $240 would have cost $120; $6 were spent.
    assert house.last().saved_usd == pytest.approx(114.0)
    assert house.last().rejected == 11_990
    assert house.last().state == "restored"


async def test_a_lease_that_cannot_be_given_back_is_told_and_tried_until_it_is() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE | {"lease_minutes": 60})))
    await house.say(alert_message(an_alert()))

    async def hook(point: str) -> None:
        if point == "before undo":
            raise TransientError("gateway down")

    house.policy_gate.hook = hook
    told = len(house.chat.history)
    for _ in range(30):
        await house.wait(200)
    assert house.last().overdue
    assert "still in force: gateway down" in house.last().detail
    said = [entry for entry in house.ledger() if entry.overdue]
    assert [entry.tries for entry in said] == list(range(1, len(said) + 1))
    assert said[0].at >= T0 + 3600 + 60
    assert all(after.at - before.at >= 60 for before, after in pairwise(said))
    assert len(house.chat.history) > told

    async def works(point: str) -> None: ...

    house.policy_gate.hook = works
    await house.wait(901)
    assert (house.last().state, house.last().overdue) == ("restored", False)
    assert house.policy_gate.keys["k1"]["rpm"] == 500


async def test_a_change_by_hand_during_the_lease_is_noticed_told_and_left_alone() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(60)
    await house.say(later(2, 60, usd_per_hour=12.0))
    house.policy_gate.keys["k1"]["rpm"] = 300
    for _ in range(4):
        await house.wait(160)
    assert house.last().state == "drift"
    assert "{'rpm': 300}" in house.last().detail
    assert house.policy_gate.keys["k1"]["rpm"] == 300
    await house.say(later(3, 4000))
    assert house.steps(episode=2) == []


async def test_a_target_that_was_deleted_during_the_lease_is_told_and_closed() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(60)
    await house.say(later(2, 60, usd_per_hour=12.0))
    del house.policy_gate.keys["k1"]
    for _ in range(4):
        await house.wait(160)
    assert house.last().state == "drift"
    assert house.last().detail.startswith("the key no longer exists")
    assert house.runner.view()["open"] == []


async def test_a_limit_given_back_by_hand_is_not_set_again() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE)))
    await house.say(alert_message(an_alert()))
    await house.clock.advance(60)
    await house.say(later(2, 60, usd_per_hour=12.0))
    house.policy_gate.keys["k1"]["rpm"] = 500
    for _ in range(4):
        await house.wait(160)
    assert (house.last().state, house.last().by) == ("restored", "somebody else")
    await house.say(later(3, 4000))
    await house.wait(4000)
    assert house.steps(episode=2) == []


async def test_a_clock_set_back_lengthens_no_lease_and_one_set_ahead_ends_it() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE | {"lease_minutes": 60})))
    await house.say(alert_message(an_alert()))
    await house.wait(1800)
    house.clock.jump(-7200)
    await house.wait(1799)
    assert house.policy_gate.keys["k1"]["rpm"] == 20
    await house.wait(2)
    assert house.last().state == "restored"

    house = await opened(PolicyHouse(ladder(SHAVE | {"lease_minutes": 60})))
    await house.say(alert_message(an_alert()))
    house.clock.jump(3600)
    await house.wait(0)
    assert house.last().state == "restored"


async def test_a_lease_found_after_the_clock_was_set_back_is_not_longer_than_it_was() -> None:
    house = await opened(PolicyHouse(ladder(SHAVE | {"lease_minutes": 60})))
    await house.say(alert_message(an_alert()))
    house.clock.jump(-86400)
    await house.restart()
    await house.wait(3601)
    assert house.last().state == "restored"
