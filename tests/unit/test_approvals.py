"""Proposals: who may answer, once, in time, and for what was shown; several targets and their canary."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.policy.routing import Act, decide
from curb.actions.settings import ActionsSettings
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Baseline
from tests.fakes.actions_house import later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.gateway import nothing
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder

ROLES: dict[str, Any] = {
    "owners": {"people": ["U0OWNER", "olga"], "up_to_usd": 500},
    "finance": {"people": ["U0MONEY", "fred"]},
}
ASK = {"do": "shave_to_normal", "mode": "approve", "answer_within_minutes": 60, "lease_minutes": 60}
MANY = {"team": "search", "project": "rank", "api_key": "k1+k2+k3"}


def asking(**changes: Any) -> ActionsSettings:
    return ladder(ASK | changes, approvers=ROLES)


def house_act(house: PolicyHouse, alert: Any) -> Act:
    return decide(alert, house.config).act[0].suited(house.policy_gate.verbs)


async def proposed(config: ActionsSettings | None = None, *keys: str, **alert: Any) -> PolicyHouse:
    house = PolicyHouse(config or asking(), *keys)
    await house.runner.open()
    await house.say(alert_message(an_alert(**alert)))
    assert house.steps() == ["proposed"]
    assert house.policy_gate.calls == []
    return house


async def answer(house: PolicyHouse, kind: str, by: str, *, id: str = "", key: str = "k1") -> None:
    message = command_message(kind, house.clock.now(), id=id or f"{kind} {by}", by=by, action_id=id_of(key))
    await house.say(message)


async def test_a_proposal_says_what_why_who_and_until_when() -> None:
    house = await proposed()
    entry = house.last()
    assert (entry.plan.before, entry.plan.after) == ({"rpm": 500}, {"rpm": 20})
    assert entry.why == "its normal level (p95)"
    assert entry.answer_by == T0 + 3600
    # $1,900 at risk is more than the owners may decide about.
    assert entry.approvers == ["U0MONEY", "fred"]
    assert house.chat.posts[0].ledger[-1].state == "proposed"
    assert house.runner.view()["proposed"][0]["action_id"] == id_of("k1")


async def test_a_yes_is_carried_out_and_the_lease_counts_from_it() -> None:
    house = await proposed()
    await house.wait(600)
    await answer(house, "approve", "slack:U0MONEY (Mona)")
    assert house.steps() == ["proposed", "planned", "applied"]
    assert house.last().approved_by == "slack:U0MONEY (Mona)"
    assert house.last().lease_expires_at == T0 + 600 + 3600
    assert house.policy_gate.keys["k1"]["rpm"] == 20
    await house.wait(3600)
    assert house.policy_gate.keys["k1"]["rpm"] == 500


async def test_a_no_is_a_no_for_this_alert_and_for_the_rungs_above() -> None:
    house = await proposed(ladder(ASK, {"do": "block"}, approvers=ROLES))
    await answer(house, "deny", "olga")
    assert (house.last().state, house.last().detail) == ("denied", "denied by olga")
    await house.say(later(2, 3000))
    await house.wait(6000)
    assert house.policy_gate.calls == []


@pytest.mark.parametrize("by", ["eve", "slack:U0EVIL", "slack:olga2", "U0OWNER2"])
@pytest.mark.parametrize("kind", ["approve", "deny"])
async def test_others_are_refused_and_told(kind: str, by: str) -> None:
    house = await proposed()
    told = len(house.chat.history)
    await answer(house, kind, by)
    assert house.last().state == "proposed"
    assert f"{by} may not {kind} it" in house.last().detail
    assert len(house.chat.history) == told + 1
    assert house.policy_gate.calls == []
    await answer(house, "approve", "fred")
    assert house.steps()[-1] == "applied"


async def test_small_overruns_are_for_the_owners_and_large_ones_for_finance() -> None:
    house = await proposed(dollars_at_risk=400.0)
    assert house.last().approvers == ["U0OWNER", "olga", "U0MONEY", "fred"]
    await answer(house, "approve", "slack:U0OWNER")
    assert house.steps()[-1] == "applied"
    house = await proposed()
    await answer(house, "approve", "slack:U0OWNER")
    assert "for $1,900 at risk it takes one of: finance" in house.last().detail
    assert house.policy_gate.calls == []


async def test_a_rung_names_the_roles_that_count() -> None:
    house = await proposed(asking(approvers=["owners"]), dollars_at_risk=5000.0)
    assert house.last().detail.startswith("nobody is named")
    await answer(house, "approve", "fred")
    assert "nobody may approve $5,000" in house.last().detail
    assert house.policy_gate.calls == []


async def test_pressed_twice_is_once() -> None:
    house = await proposed()
    yes = command_message("approve", T0, id="p1", by="fred", action_id=id_of("k1"))
    await house.say(yes, yes, command_message("approve", T0, id="p2", by="fred", action_id=id_of("k1")))
    await house.say(yes)
    await house.restart()
    assert house.steps() == ["proposed", "planned", "applied"]
    assert len(house.policy_gate.calls) == 1


async def test_an_answer_that_was_dealt_with_is_not_dealt_with_again_after_a_crash() -> None:
    house = await proposed()
    await answer(house, "approve", "eve")
    count = len(house.ledger())
    for _ in range(3):
        await house.restart()
    assert len(house.ledger()) == count


async def test_the_first_answer_counts() -> None:
    house = await proposed()
    yes = command_message("approve", T0, by="fred", action_id=id_of("k1"))
    await house.say(yes, command_message("deny", T0 + 1, by="olga", action_id=id_of("k1")))
    assert house.steps()[:3] == ["proposed", "planned", "applied"]


async def test_an_approval_after_the_alert_resolved_does_nothing_and_says_so() -> None:
    house = await proposed()
    await house.clock.advance(60)
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    assert (house.last().state, house.last().by) == ("denied", "curb")
    await answer(house, "approve", "fred")
    assert house.last().detail == "fred came too late with approve: the alert is resolved, nothing was done"
    assert house.policy_gate.calls == []


async def test_an_approval_and_the_end_of_the_alert_in_one_breath_do_nothing() -> None:
    house = await proposed()
    over = later(2, 60, status="resolved", resolved_at=T0 + 60)
    await house.say(command_message("approve", T0, by="fred", action_id=id_of("k1")), over)
    assert house.policy_gate.calls == []
    assert house.last().state == "denied"


async def test_an_approval_that_comes_too_late_does_nothing_and_says_so() -> None:
    house = await proposed()
    await house.wait(3600)
    assert house.last().detail == "nobody answered in time, nothing was done"
    await answer(house, "approve", "fred")
    assert "fred came too late" in house.last().detail
    assert house.policy_gate.calls == []


async def test_while_halted_an_approval_waits_for_another_one() -> None:
    house = await proposed()
    await house.say(command_message("halt", T0))
    await answer(house, "approve", "fred", id="x1")
    assert house.last().detail == "approved by fred, and not done: halted: the kill switch is on"
    await house.say(command_message("resume", T0))
    await house.wait(120)
    assert house.policy_gate.calls == []
    await answer(house, "approve", "fred", id="x2")
    assert house.steps()[-1] == "applied"


async def test_a_target_that_was_changed_since_is_not_touched() -> None:
    house = await proposed(asking(headroom=2))
    house.policy_gate.keys["k1"]["rpm"] = 30
    await answer(house, "approve", "fred")
    assert house.last().state == "denied"
    assert "nothing to do any more" in house.last().detail
    assert house.policy_gate.calls == []


async def test_a_target_that_is_gone_is_said() -> None:
    house = await proposed()

    async def hook(point: str) -> None:
        raise PermanentError("HTTP 404: no such key")

    house.policy_gate.hook = hook
    await answer(house, "approve", "fred")
    assert house.last().detail == "approved by fred, and not done: HTTP 404: no such key"
    assert house.last().state == "denied"


async def test_what_cannot_be_undone_is_asked_for_also_in_auto_mode() -> None:
    house = PolicyHouse(ladder({"do": "block", "mode": "auto"}, approvers=ROLES))
    house.policy_gate.reversible = False
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    assert house.steps() == ["proposed"]
    assert house.last().plan.warning == "what it did so far is lost"
    await house.wait(120)
    assert house.policy_gate.calls == []
    await answer(house, "approve", "fred")
    assert house.steps()[-1] == "applied"


async def test_a_higher_rung_that_is_asked_for_leaves_the_lower_one_in_force_until_then() -> None:
    shave = {"do": "shave_to_normal", "verify_within_minutes": 10, "lease_minutes": 600}
    house = PolicyHouse(ladder(shave, {"do": "block", "mode": "approve"}, approvers=ROLES))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.clock.advance(601)
    await house.say(later(2, 601))
    await house.wait(2)
    assert house.steps(episode=2) == ["proposed"]
    assert house.policy_gate.keys["k1"] == {"rpm": 20, "blocked": False}
    await house.say(command_message("approve", T0, by="fred", action_id=id_of("k1", 2)))
    for _ in range(4):
        await house.wait(2)
    assert house.steps() == ["planned", "applied", "ineffective", "restored"]
    assert house.steps(episode=2) == ["proposed", "planned", "applied"]
    assert house.policy_gate.keys["k1"] == {"rpm": 500, "blocked": True}


async def test_a_shadow_mode_that_is_switched_on_ends_the_proposal() -> None:
    house = await proposed()
    house.config = ladder(ASK | {"mode": "shadow"}, approvers=ROLES)
    await house.restart()
    await answer(house, "approve", "fred")
    assert house.last().detail == "approved by fred, and not done: no route asks for it any more"
    assert house.policy_gate.calls == []


async def test_a_limit_that_was_changed_since_to_something_else_is_not_touched() -> None:
    house = await proposed()
    house.policy_gate.keys["k1"]["rpm"] = 400
    house.config = asking(headroom=2)
    await house.restart()
    await answer(house, "approve", "fred")
    assert house.last().state == "denied"
    assert house.last().detail == "approved by fred, and not done: the target was changed since it was proposed"
    assert house.policy_gate.calls == []


async def test_a_guard_that_speaks_up_since_keeps_the_proposal_open() -> None:
    house = await proposed()
    house.config = ladder(ASK, approvers=ROLES, limits={"never_touch_targets": ["gate/k1"], "shave_unmarked": True})
    await house.restart()
    await answer(house, "approve", "fred")
    assert house.last().state == "proposed"
    assert house.last().detail == (
        "approved by fred, and not done: never_touch: gate/k1 is one of limits.never_touch_targets"
    )
    assert house.policy_gate.calls == []


async def test_two_alerts_ask_for_one_target_and_one_gets_it() -> None:
    house = await proposed()
    await house.say(alert_message(an_alert(alert_id="b1", fingerprint="g1")))
    other = next(entry for entry in house.ledger() if entry.alert_id == "b1")
    assert other.state == "proposed"
    await answer(house, "approve", "fred")
    await house.say(command_message("approve", T0, id="b", by="fred", action_id=other.action_id))
    newest = [entry for entry in house.ledger() if entry.alert_id == "b1"][-1]
    assert (newest.state, newest.by, newest.command_id) == ("denied", "fred", "b")
    assert newest.detail == "approved by fred, and not done: there is nothing to do any more"
    assert len(house.policy_gate.calls) == 1


async def test_an_answer_that_came_too_late_is_noted_once() -> None:
    house = await proposed()
    await house.wait(3600)
    await answer(house, "approve", "fred", id="late")
    assert (house.last().state, house.last().by, house.last().command_id) == ("denied", "fred", "late")
    count = len(house.ledger())
    await house.wait(60)
    await house.restart()
    assert len(house.ledger()) == count


async def test_what_was_approved_carries_its_figures() -> None:
    house = await proposed(asking(), "k1", "k2", "k3", tags=MANY)
    await answer(house, "approve", "fred")
    planned = next(entry for entry in house.ledger() if entry.state == "planned")
    assert (planned.also, planned.detail, planned.by) == (["gate/k2", "gate/k3"], "approved by fred", "fred")
    assert (planned.usd_per_hour_before, planned.spent_usd_before) == (240.0, 20.0)
    assert (planned.spent_since, planned.measured_at, planned.lease_s) == (T0 - 300, T0, 3600.0)


async def test_a_target_that_cannot_be_planned_is_a_failure_on_the_ledger() -> None:
    house = PolicyHouse(ladder(ASK | {"mode": "auto"}, approvers=ROLES))

    async def hook(_: str) -> None:
        raise PermanentError("HTTP 403: no rights")

    house.policy_gate.hook = hook
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    (entry,) = house.ledger()
    assert (entry.state, entry.alert_id, entry.detail) == ("failed", "a1", "HTTP 403: no rights")
    assert (entry.rung, entry.do) == (1, "shave_to_normal")


async def test_what_a_guard_refuses_is_skipped_with_its_rung_and_reason() -> None:
    house = PolicyHouse(ladder({"do": "block"}, limits={"never_touch": [{"team": "search"}]}))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    (entry,) = house.ledger()
    assert (entry.state, entry.rung, entry.do) == ("skipped", 1, "block")
    assert entry.detail == "never_touch: a matcher of limits.never_touch fits its tags"
    assert house.policy_gate.calls == []


# --- several targets --------------------------------------------------------------------------------------------------


async def test_of_several_targets_one_goes_first_and_the_others_when_it_reads_back() -> None:
    house = PolicyHouse(ladder({"do": "shave_to_normal"}), "k1", "k2", "k3")
    seen: list[list[str]] = []

    async def hook(point: str) -> None:
        if point == "before apply":
            seen.append([key for key, values in house.policy_gate.keys.items() if values["rpm"] == 20])

    house.policy_gate.hook = hook
    await house.runner.open()
    house.policy_gate.deaf = True
    await house.say(alert_message(an_alert(tags=MANY)))
    await house.wait(60)
    assert [key for _, key, _ in house.policy_gate.calls] == ["k1"]
    house.policy_gate.keys["k1"]["rpm"] = 20
    house.policy_gate.deaf = False
    for _ in range(4):
        await house.wait(16)
    assert [key for _, key, _ in house.policy_gate.calls] == ["k1", "k2", "k3"]
    assert seen == [[], ["k1"], ["k1", "k2"]]
    assert house.steps("k1") == ["planned", "applied", "applied"]
    assert house.last("k1").also == ["gate/k2", "gate/k3"]
    await house.wait(3700)
    assert {values["rpm"] for values in house.policy_gate.keys.values()} == {500}


async def test_one_yes_is_for_all_targets_that_were_named() -> None:
    house = await proposed(asking(), "k1", "k2", "k3", tags=MANY)
    assert house.last().detail.endswith("and 2 more: shave k2; shave k3")
    await answer(house, "approve", "fred")
    for _ in range(4):
        await house.wait(16)
    assert {values["rpm"] for values in house.policy_gate.keys.values()} == {20}
    approvers = {entry.approved_by for entry in house.ledger() if entry.state == "planned"}
    assert approvers == {"fred"}


async def test_in_shadow_mode_all_targets_are_recorded_and_none_is_touched() -> None:
    house = PolicyHouse(ladder({"do": "shave_to_normal", "mode": "shadow"}), "k1", "k2", "k3")
    await house.runner.open()
    await house.say(alert_message(an_alert(tags=MANY)))
    await house.wait(7200)
    assert [house.steps(key) for key in ("k1", "k2", "k3")] == [["shadow"]] * 3
    assert house.policy_gate.calls == []


async def test_in_quiet_times_nothing_automatic_begins() -> None:
    # T0 is a Sunday, 15:06 UTC.
    quiet = {"days": ["sun"], "from": "14:00", "to": "17:00", "time_zone": "Europe/Berlin"}
    always = {"days": ["sun"], "from": "15:00", "to": "16:00"}
    free = PolicyHouse(ladder({"do": "shave_to_normal", "quiet_times": [quiet]}))
    await free.runner.open()
    await free.say(alert_message(an_alert()))
    assert free.steps() == ["planned", "applied"]
    house = PolicyHouse(ladder({"do": "shave_to_normal", "quiet_times": [always]}))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    assert house.ledger()[-1].detail.startswith("quiet")
    await house.wait(54 * 60)
    assert house.steps() == ["planned", "applied"]


async def test_a_limit_that_another_action_gives_back_while_it_is_read_is_never_taken_for_the_original() -> None:
    """The plan is made from a reduced limit, and the reduction ends before the plan is entered."""
    house = PolicyHouse(ladder({"do": "shave_to_normal", "lease_minutes": 30}))
    await house.runner.open()
    await house.say(alert_message(an_alert(alert_id="b1", fingerprint="g1")))
    assert house.policy_gate.keys["k1"]["rpm"] == 20
    other = an_alert(baseline=Baseline(expected_usd_per_hour=12.0, requests_per_minute_p95=10.0, known_days=10.0))
    await house.clock.advance(60)

    async def hook(point: str) -> None:
        if point == "after plan":
            house.policy_gate.hook = nothing
            await house.runner._action_workers[0]._advance_all()

    house.policy_gate.hook = hook
    undo = command_message("undo", T0, action_id=id_of("k1", alert_id="b1"))
    await house.log.append([undo])
    await house.runner.take_in(0)
    await house.log.append([alert_message(other)])
    await house.runner.take_in(0)
    worker = house.runner._action_workers[0]
    await worker._proposals.consider(other, house_act(house, other))
    assert house.policy_gate.keys["k1"]["rpm"] == 500
    assert house.ledger()[-1].detail == "held: another action had the same target when it was read"
    await house.wait(61)
    assert house.last().plan.before == {"rpm": 500}
