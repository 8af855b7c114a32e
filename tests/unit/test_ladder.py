"""Where an alert stands on its ladder, by what became of the actions so far."""

from __future__ import annotations

from typing import Any

import pytest

from curb.actions.ledger.ledger import NOT_UNDONE, ActionState, Ledger
from curb.actions.policy.ladder import NOTHING_TO_DO, burns, climb, is_due, may_take
from curb.actions.policy.routing import Act, Ladder, LadderStep
from curb.stream.records.spend import Alert, LedgerEntry
from tests.fakes.alerts import T0, a_plan, an_alert, an_entry

SHAVE, BLOCK = (Act("gate", "auto", 3600.0, rung=rung, cool_down_s=300.0) for rung in (1, 2))
#: Ten minutes to help each.
LADDER: Ladder = (LadderStep(1, "shave_to_normal", (SHAVE,), 600.0), LadderStep(2, "block", (BLOCK,), 600.0))


def alert(**changes: Any) -> Alert:
    """It fired at T0, was heard of half an hour later and burns three times the expected."""
    usual = {"fired_at": T0, "updated_at": T0 + 1800, "usd_per_hour": 30.0, "expected_usd_per_hour": 10.0}
    return an_alert(**{**usual, **changes})


def entry(state: str, minute: float = 1, **changes: Any) -> LedgerEntry:
    usual = {"at": T0 + 60 * minute, "rung": 1, "plan": a_plan("gate/k1"), "by": "curb", "alert_id": "a"}
    return an_entry(1, state, **{**usual, **changes})


def states(*entries: LedgerEntry) -> list[ActionState]:
    return list(Ledger(entries).actions())


def stands(*entries: LedgerEntry, minute: float = 30, of: Alert | None = None) -> tuple[int, float]:
    """The rung that counts, and the minute since when."""
    place = climb(LADDER, states(*entries), of or alert(), T0 + 60 * minute)
    return place.step.rung, (place.since - T0) / 60


# --- the climb --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["proposed", "planned", "applied", "effective"])
def test_what_is_on_its_way_or_helps_is_waited_for(state: str) -> None:
    assert stands(entry(state)) == (1, 0)


def test_what_turned_out_ineffective_makes_way_at_once() -> None:
    made = [entry("applied"), entry("ineffective", 11), entry("restored", 12)]
    assert stands(*made, minute=10.9) == (1, 0)
    assert stands(*made, minute=11) == (2, 11)


def test_a_failure_makes_way_after_the_time_it_had() -> None:
    assert stands(entry("failed", 3), minute=12.9) == (1, 0)
    assert stands(entry("failed", 3), minute=13) == (2, 13)


@pytest.mark.parametrize(
    ("detail", "rung"), [(NOTHING_TO_DO + "it is at its normal rate", 2), ("limit: no more at one time", 1)]
)
def test_what_was_skipped_makes_way_only_when_there_was_nothing_to_do(detail: str, rung: int) -> None:
    assert stands(entry("skipped", 3, detail=detail)) == (rung, 13 if rung == 2 else 0)


@pytest.mark.parametrize(
    "by_people",
    [
        entry("denied", 3),
        entry("drift", 3),
        entry("restored", 3, by="ana"),
        entry("failed", 3, detail=NOT_UNDONE + "the gateway is down"),
    ],
    ids=["denied", "changed", "undone", "not undone"],
)
def test_what_people_did_ends_the_climb(by_people: LedgerEntry) -> None:
    ineffective = entry("ineffective", 2)
    assert stands(entry("applied"), ineffective, by_people) == (1, 0)
    another = entry("ineffective", 2, action_id="i2", plan=a_plan("gate/k2"))
    assert stands(another, by_people) == (1, 0)


def test_an_undo_by_curb_itself_does_not() -> None:
    assert stands(entry("applied"), entry("ineffective", 2), entry("restored", 3)) == (2, 2)


def test_figures_from_before_it_was_applied_say_nothing() -> None:
    made = [entry("applied", 1), entry("ineffective", 11)]
    assert stands(*made, of=alert(updated_at=T0 + 60)) == (1, 0)
    assert stands(*made, of=alert(updated_at=T0 + 61)) == (2, 11)


@pytest.mark.parametrize(("usd_per_hour", "rung"), [(15.0, 1), (15.1, 2)])
def test_the_next_rung_comes_while_it_burns_half_as_much_again_as_expected(usd_per_hour: float, rung: int) -> None:
    assert stands(entry("ineffective", 11), of=alert(usd_per_hour=usd_per_hour))[0] == rung


def test_a_rung_that_was_taken_stays_when_the_burn_falls() -> None:
    blocked = entry("applied", 12, rung=2, action_id="i2")
    assert stands(entry("ineffective", 11), blocked, of=alert(usd_per_hour=1.0)) == (2, 11)


def test_a_rung_of_another_action_is_not_this_one() -> None:
    assert stands(entry("ineffective", 11, plan=a_plan("jobs/k1", "jobs"))) == (1, 0)
    assert stands(entry("ineffective", 11, rung=2)) == (1, 0)


def test_the_first_of_several_that_failed_counts() -> None:
    later = entry("ineffective", 20, action_id="i2", plan=a_plan("gate/k2"))
    assert stands(later, entry("ineffective", 11)) == (2, 11)


def test_a_rung_that_only_notifies_waits_for_people_and_is_not_the_last() -> None:
    ladder: Ladder = (LadderStep(1, "notify", (), 300.0), LadderStep(2, "block", (BLOCK,), 600.0))
    assert [climb(ladder, [], alert(), T0 + at).step.rung for at in (299, 300)] == [1, 2]
    assert climb(ladder, [], alert(), T0 + 300).since == T0 + 300
    with pytest.raises(ValueError, match=r"^a ladder without rungs$"):
        climb((), [], alert(), T0)


def test_a_budget_burns_while_its_alert_fires() -> None:
    assert burns(alert(kind="budget", usd_per_hour=1.0))
    assert not burns(alert(kind="budget", status="resolved"))
    assert not burns(alert(status="resolved"))


# --- what a rung may take ---------------------------------------------------------------------------------------------


def due(*entries: LedgerEntry, act: Act = SHAVE, minute: float = 30, of: Alert | None = None) -> bool:
    return is_due(act, states(*entries), of or alert(), T0 + 60 * minute)


def takes(*entries: LedgerEntry, act: Act = SHAVE, minute: float = 30, of: Alert | None = None) -> bool:
    return may_take("gate/k1", act, states(*entries), of or alert(), T0 + 60 * minute)


def test_the_first_time_it_is_due() -> None:
    assert due()
    assert takes()
    assert due(entry("skipped"))
    assert takes(entry("skipped"))
    assert due(entry("applied"), act=BLOCK)
    assert takes(entry("failed", plan=a_plan("gate/k2")))


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("applied", {}),
        ("proposed", {}),
        ("failed", {"detail": NOT_UNDONE}),
        ("failed", {}),
        ("denied", {}),
        ("drift", {}),
    ],
)
def test_what_is_open_or_failed_is_not_tried_again(state: str, changes: dict[str, str]) -> None:
    assert not due(entry(state, **changes))
    assert not takes(entry(state, **changes))


def test_after_its_lease_it_rests_and_then_needs_newer_figures_that_burn() -> None:
    over = entry("restored", 10)
    for check in (due, takes):
        assert not check(over, minute=14.9)
        assert check(over, minute=15)
        assert not check(over, of=alert(updated_at=T0 + 600))
        assert check(over, of=alert(updated_at=T0 + 601))
        assert not check(over, of=alert(usd_per_hour=15.0))
        assert not check(entry("restored", 10, by="ana"))


def test_what_was_shown_in_shadow_mode_may_be_done() -> None:
    assert due(entry("shadow"))
    assert takes(entry("shadow"))
    assert not due(entry("shadow"), act=SHAVE._replace(mode="shadow"))
    assert not takes(entry("shadow"), act=SHAVE._replace(mode="shadow"))


@pytest.mark.parametrize(
    ("state", "by", "may"),
    [("restored", "curb", True), ("restored", "ana", False), ("failed", "curb", True), ("denied", "ana", False)],
)
def test_a_higher_rung_takes_a_target_that_no_person_changed(state: str, by: str, may: bool) -> None:
    assert takes(entry(state, by=by), act=BLOCK) is may
    assert not takes(entry("failed", rung=2, by=by), act=BLOCK)


@pytest.mark.parametrize(
    ("changes", "due_now"),
    [
        ({"also": ("gate/k2",), "read_back": True}, True),
        ({"also": ("gate/k2",), "read_back": False}, False),
        ({"also": ("gate/k2",), "state": "effective"}, True),
        ({"also": ("gate/k1",), "read_back": True}, False),
        ({"read_back": True}, False),
    ],
)
def test_the_others_follow_a_canary_that_reads_back(changes: dict[str, Any], due_now: bool) -> None:
    assert due(entry(changes.pop("state", "applied"), **changes)) is due_now
