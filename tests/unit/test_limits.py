"""The belts: what may be done about an alert and its subjects, and why not."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.action import Action, ActionContext, RateConfig
from curb.actions.kinds import ACTIONS
from curb.actions.ledger.ledger import NOT_UNDONE, Ledger
from curb.actions.policy.guards import allowed, anything_marked, caps, raises_a_limit, refusal
from curb.actions.policy.limits import MARKS, ActionLimits, criticality
from curb.actions.settings import ActionsSettings
from curb.actions.target import Verb
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, BudgetStatus, LedgerEntry, Plan
from curb.stream.time import HOUR_S
from tests.fakes.actions_house import NamedAction
from tests.fakes.alerts import T0, a_plan, an_alert, an_entry


class Gate(RateConfig):
    """An action on request rates."""

    kind: str = "gate"
    name: str = "gate"

    def build(self, context: ActionContext) -> Action:
        raise AssertionError("guards build nothing")


class Wanted(NamedTuple):
    name: str = "gate"
    mode: str = "auto"
    verb: Verb = "shave"
    leaves_normal: bool = True
    rung: int = 1


def limits(**changes: Any) -> ActionLimits:
    return ActionLimits.model_validate(changes)


def settings(**changes: Any) -> ActionsSettings:
    """One action on request rates, `gate`, and one on running work, `jobs`; everything is marked unless said."""
    marked = {"criticality": [{"match": {}, "is": "non_critical"}]}
    return ActionsSettings.model_validate(
        {"actions": [Gate(), NamedAction(kind="kubernetes", name="jobs")], "limits": marked | changes}
    )


def why_not(config: ActionsSettings | None = None, ledger: Ledger | None = None, **alert: Any) -> str:
    return refusal(an_alert(**alert), ledger or Ledger(), config or settings(), halted=False, now=T0, action="gate")


def entered(
    plans: list[Plan],
    config: ActionsSettings | None = None,
    *entries: LedgerEntry,
    alert: Alert | None = None,
    **wanted: Any,
) -> tuple[list[str], str]:
    act = Wanted(**({"name": plans[0].action} | wanted))
    found, why = allowed(plans, alert or an_alert(), act, Ledger(entries), config or settings(), now=T0)
    return [plan.target for plan in found], why


# --- marks ---


@pytest.mark.parametrize(
    ("tags", "mark"),
    [
        ({"team": "search"}, "important"),
        ({"team": "search", "project": "toys"}, "important"),
        ({"team": "ads", "project": "toys"}, "non_critical"),
        ({"team": "pay", "project": "toys"}, "critical"),
        ({"team": "ads"}, None),
        ({"team": "ads", "criticality": "Low "}, "non_critical"),
        ({"team": "search", "criticality": "low"}, "important"),
        ({"team": "ads", "criticality": "who knows"}, None),
    ],
)
def test_the_most_critical_of_all_that_is_said_counts(tags: dict[str, str], mark: str | None) -> None:
    rules = [
        {"match": {"project": "toys"}, "is": "non_critical"},
        {"match": {"team": "sea*"}, "is": "important"},
        {"match": {"team": "pay"}, "is": "critical"},
    ]
    assert criticality(tags, limits(criticality=rules)) == mark


@pytest.mark.parametrize("value", [UNTAGGED, OTHER])
def test_what_has_no_value_is_not_marked_by_a_glob_except_as_critical(value: str) -> None:
    for mark in ("non_critical", "important", "critical"):
        found = criticality({"team": value}, limits(criticality=[{"match": {"team": "*"}, "is": mark}]))
        assert found == ("critical" if mark == "critical" else None)


#: What may be done, by mark: (the alert's, the target's own) → shave to normal, shave below it, anything that stops.
MAY = {
    "non_critical": (True, True, True),
    "important": (True, False, False),
    "critical": (False, False, False),
    "": (False, False, False),
}
ASKS = (("gate", "shave", True), ("gate", "shave", False), ("gate", "pause", True), ("gate", "block", False))
WORK = (("jobs", "shave", True), ("jobs", "shave", False), ("jobs", "pause", False), ("jobs", "block", False))


@pytest.mark.parametrize("mode", ["shadow", "approve", "auto"])
@pytest.mark.parametrize("shave_unmarked", [False, True])
@pytest.mark.parametrize(("alerts", "targets"), list(itertools.product(MAY, MAY)))
def test_only_what_its_mark_allows_is_entered(alerts: str, targets: str, shave_unmarked: bool, mode: str) -> None:
    mark = "critical" if "critical" in (alerts, targets) else targets or alerts
    to_normal, below, stop = MAY[mark]
    to_normal |= shave_unmarked and mark == ""
    config = settings(
        criticality=[{"match": {"team": "*"}, "is": alerts}] if alerts else [], shave_unmarked=shave_unmarked
    )
    for name, verb, leaves_normal in ASKS + WORK:
        only_rates = name == "gate" and verb == "shave"
        may = (to_normal if leaves_normal else below) if only_rates else stop
        plan = a_plan(action=name, criticality=targets)
        found, why = entered([plan], config, verb=verb, leaves_normal=leaves_normal, mode=mode)
        assert (bool(found), bool(why)) == (may, not may), (name, verb, leaves_normal)


@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_no_kind_of_action_touches_what_is_critical_or_unmarked(kind: str) -> None:
    """By default, in every mode and with every verb; what is marked non_critical, it does."""
    action: Any = ACTIONS.config(kind).model_construct(kind=kind, name="act")
    verbs: tuple[Verb, ...] = ("shave", "pause", "block")
    for mode, verb, leaves_normal in itertools.product(("shadow", "approve", "auto"), verbs, (True, False)):
        wanted: dict[str, Any] = {"mode": mode, "verb": verb, "leaves_normal": leaves_normal}
        for mark, criticality_of_target, may in (
            (None, "", False),
            ("critical", "", False),
            ("critical", "non_critical", False),
            (None, "critical", False),
            ("non_critical", "critical", False),
            ("non_critical", "", True),
            (None, "non_critical", True),
        ):
            rules = [] if mark is None else [{"match": {"team": "search"}, "is": mark}]
            config = ActionsSettings.model_validate({"actions": [action], "limits": {"criticality": rules}})
            found, _ = entered([a_plan(action="act", criticality=criticality_of_target)], config, **wanted)
            assert bool(found) == may, (wanted, mark, criticality_of_target)


def test_nothing_that_is_not_marked_is_touched_by_default() -> None:
    config = ActionsSettings.model_validate({"actions": [Gate()]})
    assert entered([a_plan()], config)[1].startswith("unmarked: ")
    assert config.mode == "shadow"


def test_a_headroom_below_one_leaves_less_than_normal() -> None:
    rules = {"criticality": [{"match": {}, "is": "important"}]}
    for headroom, may in ((1.0, True), (0.9, False)):
        config = ActionsSettings.model_validate({"actions": [Gate(headroom=headroom)], "limits": rules})
        assert bool(entered([a_plan()], config)[0]) == may


def test_what_is_critical_is_not_even_read() -> None:
    config = settings(criticality=[{"match": {"team": "search"}, "is": "critical"}])
    assert why_not(config).startswith("critical: ")
    assert why_not(tags={"team": "ads", "criticality": "critical"}).startswith("critical: ")
    assert why_not() == ""


@given(marks=st.lists(st.sampled_from(sorted(MARKS)), max_size=5), own=st.sampled_from([*sorted(MARKS), "", "odd"]))
def test_one_more_mark_never_allows_more(marks: list[str], own: str) -> None:
    rank = {"non_critical": 0, "important": 1, "critical": 2, None: 3}
    rules = [{"match": {"team": "a"}, "is": MARKS[mark]} for mark in marks]
    tags = {"team": "a", "criticality": own}
    found = criticality(tags, limits(criticality=rules))
    for fewer in itertools.combinations(rules, max(0, len(rules) - 1)):
        less = criticality(tags, limits(criticality=list(fewer)))
        assert less is None or rank[less] <= rank[found]


# --- never ---


def test_targets_are_left_alone_by_glob() -> None:
    config = settings(never_touch_targets=["gate/prod-*"])
    found, why = entered([a_plan("gate/prod-1"), a_plan("gate/dev-1")], config)
    assert found == ["gate/dev-1"]
    assert why == "never_touch: gate/prod-1 is one of limits.never_touch_targets"


def test_a_limit_is_never_raised_and_a_target_never_held_twice() -> None:
    raised = a_plan("gate/up", before={"rpm": 5}, after={"rpm": 9})
    held = an_entry(plan=a_plan("gate/held"))
    found, why = entered([raised, a_plan("gate/held"), a_plan("gate/free")], None, held)
    assert found == ["gate/free"]
    assert why == "the plan would raise a limit; held: i1 has the same target"


# --- how much ---

CANARY_OFF = {"canary": False}


@pytest.mark.parametrize(
    ("caps", "room", "name"),
    [
        ({"max_open_actions": 3}, 1, "max_open_actions"),
        ({"max_actions_per_hour": 4, "max_open_actions": 9}, 2, "max_actions_per_hour"),
        ({"max_open_per_team": 1}, 1, "max_open_per_team"),
        ({"max_subjects_per_action": 2, "max_open_actions": 9}, 2, "max_subjects_per_action"),
    ],
)
def test_no_more_than_a_cap_allows(caps: dict[str, int], room: int, name: str) -> None:
    others = [an_entry(1, "planned"), an_entry(2, "planned"), an_entry(1), an_entry(2)]
    plans = [a_plan(f"gate/k{number}") for number in range(4)]
    found, why = entered(plans, settings(**CANARY_OFF, **caps), *others)
    assert found == [plan.target for plan in plans[:room]]
    assert why == f"limit: no more at one time (limits.{name})"


def test_what_could_not_be_undone_is_still_in_force() -> None:
    stuck = an_entry(1, "failed", detail=f"{NOT_UNDONE}key revoked")
    config = settings(max_open_actions=1)
    assert entered([a_plan()], config, stuck)[0] == []
    assert why_not(config, Ledger([stuck])).startswith("limit: 1 actions are open")
    assert entered([a_plan()], config, an_entry(1, "failed", detail="refused"))[0] == ["gate/k1"]


def test_what_cannot_be_given_back_takes_places_of_its_own_action_only_and_says_so() -> None:
    """One cluster that refuses every undo keeps no gateway from being used, and gets no more to hold itself."""
    stuck = an_entry(1, plan=a_plan("other/k1", action="other"), ending=True, tries=3, refusal="HTTP 403: denied")
    mine = an_entry(2, ending=True, tries=3, refusal="HTTP 403: denied")
    config = settings(max_open_actions=1)
    assert why_not(config, Ledger([stuck])) == ""
    assert entered([a_plan()], config, stuck)[0] == ["gate/k1"]
    said = ", 1 of them cannot be given back: HTTP 403: denied"
    assert why_not(config, Ledger([mine])) == f"limit: 1 actions are open (limits.max_open_actions){said}"
    assert entered([a_plan()], config, mine) == ([], f"limit: no more at one time (limits.max_open_actions){said}")


def test_a_higher_rung_may_take_the_place_of_a_lower_one_when_all_places_are_taken() -> None:
    held = an_entry(1, alert_id="a1", plan=a_plan())
    config = settings(max_open_actions=1)
    assert why_not(config, Ledger([held])) == ""
    assert entered([a_plan("gate/k2")], config, held)[0] == []
    assert entered([a_plan()], config, rung=2)[0] == ["gate/k1"]


def test_another_team_and_an_hour_ago_do_not_count() -> None:
    old = [an_entry(n, state, at=T0 - HOUR_S - 1) for n in range(4) for state in ("planned", "restored")]
    mine = [an_entry(9, tags={"team": "search"})]
    config = settings(max_actions_per_hour=1, max_open_per_team=2)
    assert entered([a_plan()], config, *old, *mine)[0] == ["gate/k1"]
    assert entered([a_plan()], settings(max_open_per_team=1), *old, *mine)[0] == []


@pytest.mark.parametrize(("population", "room"), [(1, 1), (3, 1), (8, 2), (16, 4), (None, 5)])
def test_only_a_part_of_the_jobs_that_run(population: int | None, room: int) -> None:
    config = settings(**CANARY_OFF, max_open_actions=9, max_open_per_team=9)
    plans = [a_plan(f"jobs/{number}", "jobs", population=population) for number in range(6)]
    found, why = entered(plans, config)
    assert len(found) == room
    limit = "max_percent_of_jobs" if population is not None else "max_subjects_per_action"
    assert why == f"limit: no more at one time (limits.{limit})"
    if population == 8:
        held = an_entry(1, plan=a_plan("jobs/held", "jobs", population=8))
        assert len(entered(plans, config, held)[0]) == 1


def test_who_is_most_of_the_traffic_is_not_stopped() -> None:
    most, half = an_alert(share=0.55), an_alert(share=0.5)
    why = "limit: it is 55% of the spend of its scope (limits.max_percent_of_traffic)"
    assert entered([a_plan()], alert=most, verb="block") == ([], why)
    assert entered([a_plan(action="jobs")], alert=most) == ([], why)
    assert entered([a_plan()], alert=most, leaves_normal=False) == ([], why)
    assert entered([a_plan()], alert=most) == (["gate/k1"], "")
    assert entered([a_plan()], alert=half, verb="block") == (["gate/k1"], "")
    assert entered([a_plan()], settings(max_percent_of_traffic=60), alert=most, verb="block")[0] == ["gate/k1"]


# --- one first ---


def test_one_goes_first_and_the_others_when_it_reads_back() -> None:
    plans = [a_plan(f"jobs/{number}", "jobs") for number in range(3)]
    assert entered(plans) == (
        ["jobs/0"],
        "canary: one of them goes first, the others when it reads back (limits.canary)",
    )
    first = an_entry(1, plan=plans[0], alert_id="a1")
    found, why = entered(plans[1:], None, first)
    assert found == []
    assert why.startswith("canary: jobs/0 goes first")
    seen = msgspec.structs.replace(first, state="effective", read_back=True)
    assert entered(plans[1:], None, first, seen) == (["jobs/1", "jobs/2"], "")


def test_a_canary_counts_for_its_rung_and_its_alert_only_and_not_in_shadow() -> None:
    plans = [a_plan(f"jobs/{number}", "jobs") for number in range(2)]
    seen = an_entry(1, plan=a_plan("jobs/9", "jobs"), alert_id="a1", read_back=True)
    assert entered(plans, None, seen)[0] == ["jobs/0", "jobs/1"]
    assert entered(plans, None, seen, rung=2)[0] == ["jobs/0"]
    assert entered(plans, None, msgspec.structs.replace(seen, alert_id="b"))[0] == ["jobs/0"]
    assert entered(plans, mode="shadow") == (["jobs/0", "jobs/1"], "")
    assert entered(plans, settings(**CANARY_OFF))[0] == ["jobs/0", "jobs/1"]
    assert entered(plans[:1]) == (["jobs/0"], "")


def test_a_freeze_refuses_at_once_before_it_is_written_down() -> None:
    ledger = Ledger([an_entry(n, "ineffective") for n in range(3)])
    assert why_not(None, ledger).startswith("frozen: ")
    alert = an_alert()
    assert refusal(alert, ledger, settings(), halted=False, now=T0 + 1, resumed_at=T0) == ""
    assert refusal(alert, ledger, settings(), halted=True, now=T0 + 1, resumed_at=T0).startswith("halted: ")


# --- invariants ---


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Plan], list[LedgerEntry], dict[str, Any], Wanted]:
    """Some plans, a ledger, caps and what is wanted."""
    states = ["planned", "applied", "effective", "ineffective", "restored", "shadow", "skipped", "proposed"]
    entries = [
        an_entry(
            number,
            draw(st.sampled_from(states)),
            at=T0 - draw(st.sampled_from([0.0, 100.0, 5000.0])),
            alert_id=draw(st.sampled_from(["a1", "b"])),
            plan=a_plan(f"gate/{draw(st.integers(0, 6))}", draw(st.sampled_from(["gate", "jobs"]))),
            tags={"team": draw(st.sampled_from(["search", "ads"]))},
            read_back=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    name = draw(st.sampled_from(["gate", "jobs"]))
    population = draw(st.sampled_from([None, 1, 4, 10]))
    plans = [a_plan(f"gate/{n}", name, population=population) for n in draw(st.sets(st.integers(0, 9), max_size=8))]
    caps = {
        cap: draw(st.integers(0, 6))
        for cap in ("max_open_actions", "max_actions_per_hour", "max_open_per_team", "max_subjects_per_action")
    }
    verbs: list[Verb] = ["shave", "pause", "block"]
    return plans, entries, caps, Wanted(name, draw(st.sampled_from(["auto", "shadow"])), draw(st.sampled_from(verbs)))


@given(worlds())
def test_whatever_is_entered_keeps_every_cap(
    world: tuple[list[Plan], list[LedgerEntry], dict[str, Any], Wanted],
) -> None:
    plans, entries, caps, act = world
    config, ledger = settings(**caps), Ledger(entries)
    found, why = allowed(plans, an_alert(), act, ledger, config, now=T0)
    held = ledger.open_actions()
    assert [plan for plan in plans if plan in found] == found
    assert bool(why) == (len(found) < len(plans))
    if not found:
        return
    assert len(held) + len(found) <= caps["max_open_actions"]
    assert ledger.begun_since(T0 - HOUR_S) + len(found) <= caps["max_actions_per_hour"]
    assert sum(s.last.tags["team"] == "search" for s in held) + len(found) <= caps["max_open_per_team"]
    mine = [s for s in held if s.last.alert_id == "a1" and s.last.plan.action == act.name]
    assert len(mine) + len(found) <= caps["max_subjects_per_action"]
    assert not {s.last.plan.target for s in held} & {plan.target for plan in found}
    if act.mode == "auto" and len(found) > 1:
        assert any(s.last.read_back for s in mine)
    assert entered(found, settings(**caps, criticality=[]), *entries, verb=act.verb, mode=act.mode)[0] == []


# --- at the limits ---


def test_an_alert_is_stale_after_two_hours() -> None:
    assert why_not(updated_at=T0 - 7200) == ""
    assert (
        why_not(updated_at=T0 - 7201) == "stale: its newest revision is 120 minutes old (limits.max_alert_age_minutes)"
    )


def test_an_alert_without_a_baseline_is_of_something_just_born() -> None:
    assert why_not(baseline=None) == "warm-up: known for 0.0 days, less than 3"


def test_what_is_critical_is_said_alike_of_alerts_and_targets() -> None:
    words = "critical: it is marked critical, Curb never acts on it"
    assert why_not(tags={"criticality": "critical"}) == words
    assert entered([a_plan(criticality="critical")]) == ([], words)


@pytest.mark.parametrize(
    ("budget", "do", "may"),
    [
        ({"hard": True, "threshold": 100.0}, "block", True),
        ({"hard": True, "threshold": 99.0}, "block", False),
        ({"hard": True, "threshold": 50.0}, "shave_to_budget", True),
        ({"hard": False, "threshold": 100.0}, "shave_to_budget", False),
        (None, "shave_to_budget", False),
    ],
)
def test_only_a_hard_budget_caps_when_spent_or_to_make_it_last(budget: Any, do: str, may: bool) -> None:
    status = budget and BudgetStatus(
        name="b", period="day", period_start=T0, period_end=T0 + 9, amount_usd=100.0, spent_usd=100.0, **budget
    )
    assert caps(an_alert(kind="budget", budget=status), do) is may


def test_a_plan_that_changes_nothing_raises_nothing() -> None:
    assert not raises_a_limit(a_plan(before={"rpm": 9}, after={"rpm": 9}))
    assert raises_a_limit(a_plan(before={"rpm": 9, "tpm": 5}, after={"rpm": 8, "tpm": 6}))
    assert not raises_a_limit(a_plan(before={"blocked": False}, after={"blocked": True}))
    assert not raises_a_limit(a_plan(before={}, after={"rpm": 5}))
    assert not raises_a_limit(a_plan(before={"rpm": None}, after={"rpm": 5}))


def test_one_job_alone_waits_for_no_canary() -> None:
    plans = [a_plan("jobs/1", "jobs", population=1)]
    assert entered(plans, settings(canary=True), verb="pause") == (["jobs/1"], "")


@pytest.mark.parametrize(
    ("config", "may"),
    [
        ({"criticality": [], "shave_unmarked": True}, True),
        ({"criticality": []}, False),
        ({"criticality": [{"match": {}, "is": "critical"}]}, False),
        ({"criticality": [{"match": {"team": "x"}, "is": "important"}]}, True),
    ],
)
def test_something_is_marked_when_a_rule_says_less_than_critical(config: dict[str, Any], may: bool) -> None:
    assert anything_marked(limits(**config)) is may
