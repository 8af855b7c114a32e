"""State of budgets over restarts: nothing is forgotten, and a changed configuration forgets no more than it must."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from curb.detector.budgets.tracker import Budgets
from curb.stream.records.spend import BudgetIncrease
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, brief, settings_of
from tests.fakes.spend import T0

ORG = a_budget(name="org", shared=True, amount_usd=150)
TEAMS = a_budget(name="teams", parent="org", carry_over={}, burn_rate={"min_usd": 1})


def fed_for_a_day(*budgets: dict[str, Any]) -> Fed:
    fed = Fed(settings_of(*budgets), ("team", "a"), ("team", "b"))
    fed.spend(T0, 51.0, 5.0)
    fed.spend(T0 + HOUR, 10.0, 1.0)
    return fed


def test_a_restart_changes_nothing() -> None:
    fed = fed_for_a_day(ORG, TEAMS)
    increase = BudgetIncrease(
        id="i", at=T0, budget="teams", match={"team": "b"}, amount_usd=9, expires_at=T0 + DAY, by="x"
    )
    fed.budgets.add(increase)
    again = fed.restarted()
    assert again.budgets.status() == fed.budgets.status()
    assert again.budgets.firing == fed.budgets.firing
    for hours in (2, 3, 20, 24, 25, 49):
        for each in (fed, again):
            each.budgets.late(np.array([0]), np.array([0.5]), np.array([T0 + HOUR]), T0 + (hours - 1) * HOUR)
        assert fed.spend(T0 + hours * HOUR, 12.0, 3.0) == again.spend(T0 + hours * HOUR, 12.0, 3.0)
        assert again.budgets.status() == fed.budgets.status()
        again = again.restarted()


def test_a_series_that_waits_to_be_matched_is_new_after_the_restart_too() -> None:
    fed = fed_for_a_day(TEAMS | {"parent": None})
    fed.series("team", "c")
    again = fed.restarted()
    assert len(again.budgets.status()) == 2
    for each in (fed, again):
        each.spend(T0 + 5 * HOUR, 0.0, 0.0, 7.0)
    assert again.budgets.status() == fed.budgets.status()
    assert again.status(2).counted_from == T0 + 5 * HOUR


def test_an_unchanged_budget_keeps_its_counts_when_others_come_and_go() -> None:
    fed = fed_for_a_day(a_budget(name="old"), a_budget(name="b"))
    again = fed.restarted(settings_of(a_budget(name="new"), a_budget(name="b")))
    assert {(status.name, status.spent_usd) for _, status in again.budgets.status()} == {
        ("b", 61.0), ("b", 6.0), ("new", 0.0)
    }  # fmt: skip
    # What the dropped budget had told is over.
    assert brief(again.spend(T0 + 2 * HOUR, 1.0)) == [("a", "50", "resolved")]
    # And "b" goes on: its 50 % were told.
    assert brief(again.spend(T0 + 3 * HOUR, 20.0)) == [("a", "80", "firing")]


def test_a_new_budget_says_since_when_it_counts() -> None:
    again = fed_for_a_day().restarted(settings_of(a_budget(), bucket_s=HOUR))
    again.spend(T0 + 2 * HOUR, 1.0)
    assert (again.status().spent_usd, again.status().counted_from) == (1.0, T0 + 2 * HOUR)


def test_a_raised_amount_keeps_the_sum_and_ends_what_it_moved_out_of_reach() -> None:
    fed = fed_for_a_day(a_budget())
    again = fed.restarted(settings_of(a_budget(amount_usd=200, thresholds=[50, 90])))
    assert brief(again.spend(T0 + 2 * HOUR, 1.0)) == [("a", "50", "resolved")]
    assert again.status().spent_usd == 62.0
    assert brief(again.spend(T0 + 3 * HOUR, 40.0)) == [("a", "50", "firing")]


def test_a_lowered_amount_fires_what_is_crossed_now() -> None:
    fed = fed_for_a_day(a_budget())
    again = fed.restarted(settings_of(a_budget(amount_usd=62)))
    assert brief(again.spend(T0 + 2 * HOUR, 1.0)) == [("a", "100", "firing")]


def test_a_threshold_that_is_gone_takes_its_alert_along() -> None:
    fed = fed_for_a_day(a_budget())
    again = fed.restarted(settings_of(a_budget(thresholds=[100])))
    assert brief(again.spend(T0 + 2 * HOUR, 0.0)) == [("a", "50", "resolved")]


def test_what_counts_otherwise_begins_anew() -> None:
    fed = fed_for_a_day(a_budget())
    again = fed.restarted(settings_of(a_budget(period="week")))
    assert [status.spent_usd for _, status in again.budgets.status()] == [0.0, 0.0]


def test_a_new_parent_counts_from_now_on_and_knows_its_children() -> None:
    fed = fed_for_a_day(a_budget(name="teams"))
    again = fed.restarted(settings_of(ORG, a_budget(name="teams", parent="org")))
    again.spend(T0 + 2 * HOUR, 4.0, 2.0)
    by_name = {(status.name, *tags.values()): status for tags, status in again.budgets.status()}
    assert by_name[("org",)].spent_usd == 6.0
    assert by_name[("teams", "a")].spent_usd == 65.0
    assert by_name[("teams", "a")].spent_in_parent_usd == 4.0
    assert by_name[("teams", "a")].parent_id == by_name[("org",)].id


def test_alerts_of_an_earlier_version_go_on_as_one() -> None:
    """Each threshold was an alert of its own, kept under its number."""
    fed = Fed(settings_of(a_budget()), ("team", "a"))
    (half,) = fed.spend(T0, 55.0)
    (notice,) = fed.spend(T0 + HOUR, 30.0)
    dump, arrays = fed.budgets.dump()
    old = msgspec.structs.replace(notice, fingerprint="old80", alert_id="old80-1", revision=1)
    dump.firing = {"0": {"50": msgspec.structs.replace(half, alert_id="old50-1"), "80": old}}
    again = Fed(fed.settings)
    again.registry, again.budgets = fed.registry, Budgets(fed.settings, fed.registry)
    again.budgets.load(dump, arrays)
    assert [(a.alert_id, a.channel) for a in again.budgets.firing] == [("old80-1", "budget/80")]
    lower, page = again.spend(T0 + 2 * HOUR, 20.0)
    assert (lower.alert_id, lower.status) == ("old50-1", "resolved")
    assert (page.alert_id, page.channel, page.tier, page.revision) == ("old80-1", "budget/100", "page", 2)
    assert [a.alert_id for a in again.spend(T0 + DAY, 1.0) if a.status == "resolved"] == ["old80-1"]
