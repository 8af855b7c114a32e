"""Routes, matchers, rungs, approvers and quiet times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.policy.roles import Approver, is_one_of, may_approve, may_deny
from curb.actions.policy.route import QuietTime
from curb.actions.policy.routing import budget_left, decide
from curb.actions.settings import ActionsSettings
from curb.stream.records.spend import BudgetStatus
from tests.fakes.actions_house import NamedAction, NamedNotifier
from tests.fakes.alerts import T0, an_alert


def settings(**changes: Any) -> ActionsSettings:
    base: dict[str, Any] = {
        "actions": [NamedAction(kind="x", name="limits"), NamedAction(kind="x", name="jobs")],
        "notifiers": [NamedNotifier(kind="x", name="chat")],
    }
    return ActionsSettings.model_validate(base | changes)


def matches(alert: Any, **match: Any) -> bool:
    limits = {"criticality": [{"match": {"team": "lab*"}, "is": "non_critical"}]}
    return decide(alert, settings(routes=[{"match": match, "notify": ["chat"]}], limits=limits)).notify == ("chat",)


def a_budget(spent: float) -> BudgetStatus:
    return BudgetStatus(
        name="b", period="day", period_start=T0, period_end=T0 + 9, amount_usd=100.0, spent_usd=spent, threshold=80.0
    )


def test_the_short_form_is_a_ladder_of_one_rung() -> None:
    (ladder,) = decide(an_alert(), settings(routes=[{"act": ["limits", "jobs"], "lease_minutes": 5}])).ladders
    assert [(act.name, act.mode, act.lease_s, act.rung) for act in ladder[0].acts] == [
        ("limits", "shadow", 300.0, 1),
        ("jobs", "shadow", 300.0, 1),
    ]
    shaves, pauses = ladder[0].acts[0].suited(frozenset({"shave"})), ladder[0].acts[1].suited(frozenset({"pause"}))
    assert (shaves.verb, shaves.do, shaves.leaves_normal) == ("shave", "shave_to_normal", True)
    assert (pauses.verb, pauses.do, pauses.leaves_normal) == ("pause", "pause", False)


def test_a_ladder_has_modes_leases_and_waits_of_its_own() -> None:
    rungs = [
        {"do": "notify", "verify_within_minutes": 3},
        {"do": "shave_to_normal", "act": ["limits"]},
        {"do": "block", "act": ["limits"], "mode": "approve", "lease_minutes": 10, "cool_down_minutes": 2},
    ]
    config = settings(mode="auto", routes=[{"ladder": rungs}], approvers={"r": {"people": ["a"]}})
    (ladder,) = decide(an_alert(), config).ladders
    assert [step.wait_s for step in ladder] == [180.0, 900.0, 900.0]
    assert [(act.verb, act.mode, act.lease_s, act.cool_down_s) for step in ladder for act in step.acts] == [
        ("shave", "auto", 3600.0, 300.0),
        ("block", "approve", 600.0, 120.0),
    ]


def test_an_action_belongs_to_the_first_route_that_names_it() -> None:
    block = {"ladder": [{"do": "block", "act": ["limits", "jobs"]}]}
    config = settings(routes=[{"act": ["limits"], "continue": True}, block])
    assert [[act.name for step in ladder for act in step.acts] for ladder in decide(an_alert(), config).ladders] == [
        ["limits"],
        ["jobs"],
    ]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"criticality": ["non_critical"]}, False),
        ({"criticality": ["critical"]}, True),  # nobody marked it
        ({"environment": ["prod"]}, False),
        ({"confidence_min": 0.5}, True),
        ({"confidence_min": 0.9}, False),
        ({"dollars_at_risk_min": 1000}, True),
        ({"dollars_at_risk_min": 2000}, False),
        ({"dollars_at_risk_max": 1000}, False),
        ({"budget_left_below": 0.5}, False),
    ],
)
def test_matchers(match: dict[str, Any], expected: bool) -> None:
    assert matches(an_alert(confidence=0.7), **match) is expected


def test_matchers_on_marks_environments_and_budgets() -> None:
    marked = an_alert(tags={"team": "labs", "env": "dev-2"}, budget=a_budget(85.0))
    assert matches(marked, criticality=["non_critical"])
    assert not matches(marked, criticality=["critical"])
    assert matches(marked, environment=["prod", "dev*"])
    assert matches(marked, budget_left_below=0.2)
    assert not matches(marked, budget_left_below=0.1)
    assert budget_left(an_alert(budget=a_budget(140.0))) == 0.0


@pytest.mark.parametrize(
    ("route", "error"),
    [
        ({"ladder": [{"do": "block"}]}, "needs `act`"),
        ({"ladder": [{"do": "notify", "act": ["limits"]}]}, "takes no `act`"),
        ({"ladder": [{"do": "block", "act": ["limits"]}], "act": ["limits"]}, "not both"),
        ({"ladder": [{"do": "block", "act": ["typo"]}]}, r"routes\[0\].ladder\[0\].act.*'typo'; known names: limits"),
        ({"ladder": [{"do": "block", "act": ["limits"], "approvers": ["boss"]}]}, "list `approvers` is empty"),
        ({"act": ["limits"], "mode": "approve"}, "nobody may approve"),
        ({"ladder": [{"do": "block", "act": ["limits"], "quiet_times": [{"from": "9", "to": "10:00"}]}]}, "pattern"),
    ],
)
def test_what_cannot_be_meant_is_an_error(route: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        settings(routes=[route])


def test_a_time_zone_must_exist() -> None:
    with pytest.raises(ValidationError, match="unknown time zone"):
        QuietTime.model_validate({"from": "22:00", "to": "06:00", "time_zone": "Mars/Base"})


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_quiet_times_go_over_midnight_and_by_local_time() -> None:
    # 2026-03-07 is a Saturday.
    night = QuietTime.model_validate({"days": ["sat"], "from": "22:00", "to": "06:00"})
    covered = ["2026-03-07 22:00", "2026-03-07 23:59", "2026-03-08 05:59"]
    free = ["2026-03-07 21:59", "2026-03-07 03:00", "2026-03-08 06:00", "2026-03-08 22:30"]
    assert [night.covers(at(text)) for text in covered] == [True] * 3
    assert [night.covers(at(text)) for text in free] == [False] * 4
    berlin = QuietTime.model_validate({"from": "09:00", "to": "10:00", "time_zone": "Europe/Berlin"})
    assert berlin.covers(at("2026-07-01 07:30"))
    assert not berlin.covers(at("2026-07-01 09:30"))


@pytest.mark.parametrize(
    ("by", "expected"),
    [("ana", True), ("slack:U1 (Ana)", True), ("U1", True), ("slack:U2", False), ("slack:", False), ("", False)],
)
def test_people_are_known_by_slack_id_or_user_name(by: str, expected: bool) -> None:
    assert is_one_of(by, ["ana", "U1"]) is expected


def test_each_rung_says_what_it_wants_and_whether_the_normal_level_stays() -> None:
    rungs = [
        {"do": "shave_to_normal", "act": ["limits"]},
        {"do": "shave_to_normal", "act": ["limits"], "headroom": 0.9},
        {"do": "shave_to_budget", "act": ["limits"], "answer_within_minutes": 30},
        {"do": "pause", "act": ["jobs"]},
        {"do": "block", "act": ["limits"]},
    ]
    (ladder,) = decide(an_alert(), settings(routes=[{"ladder": rungs}])).ladders
    assert [(step.rung, step.do) for step in ladder] == [
        (1, "shave_to_normal"),
        (2, "shave_to_normal"),
        (3, "shave_to_budget"),
        (4, "pause"),
        (5, "block"),
    ]
    acts = [act for step in ladder for act in step.acts]
    assert [(act.verb, act.do, act.leaves_normal, act.headroom) for act in acts] == [
        ("shave", "shave_to_normal", True, 1.0),
        ("shave", "shave_to_normal", False, 0.9),
        ("shave", "shave_to_budget", False, 1.0),
        ("pause", "pause", False, 1.0),
        ("block", "block", False, 1.0),
    ]
    assert [act.answer_within_s for act in acts] == [14400.0, 14400.0, 1800.0, 14400.0, 14400.0]
    (short,) = decide(an_alert(), settings(routes=[{"act": ["limits"]}])).ladders
    assert [(act.verb, act.leaves_normal) for act in short[0].acts] == [("shave", True)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [({"env": "prod"}, True), ({"environment": "prod"}, True), ({"env": "test", "environment": "prod"}, False)],
)
def test_the_environment_has_two_names(tags: dict[str, str], expected: bool) -> None:
    assert matches(an_alert(tags=tags), environment=["prod*"]) is expected


def test_who_may_deny_and_approve_is_said_in_clauses() -> None:
    approvers = {"lead": Approver(people=("U1",), up_to_usd=100.0), "cfo": Approver(people=("U2",))}
    assert may_deny(approvers, "slack:U1 (Ana B)") == ""
    assert may_deny(approvers, "bob") == "only people named in actions.approvers may"
    assert may_approve(approvers, "slack:U1 (Ana B)", (), 100.0) == ""
    assert may_approve(approvers, "slack:U1", (), 100.01) == "for $100 at risk it takes one of: cfo"
    assert may_approve(approvers, "U1", (), 5.0) == ""
    assert may_approve(approvers, "U2", ("lead",), 5.0) == "for $5 at risk it takes one of: lead"
    assert may_approve(approvers, "U2", ("lead",), 5000.0) == "nobody may approve $5,000 at risk (actions.approvers)"
