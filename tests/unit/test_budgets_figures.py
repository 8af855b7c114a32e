"""The figures of budget alerts and amounts, on both sides of each limit."""

from __future__ import annotations

import msgspec
import pytest

from curb.detector.budgets.amounts import PastAlerts, expansion_usd
from curb.detector.budgets.budget import AutoExpand
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, brief, settings_of
from tests.fakes.spend import T0
from tests.unit.test_budgets_amounts import PILOT, days, incident, increase, one


def test_the_dollars_of_an_alert() -> None:
    fed = one()
    (alert,) = fed.spend(T0 + HOUR, 60.0)
    assert (alert.expected_usd, alert.actual_usd, alert.excess_usd, alert.score) == (100.0, 60.0, 0.0, 60.0)
    assert alert.expected_usd_per_hour == 6.0, "what its series usually burn, not the amount by the hour"
    (more,) = fed.spend(T0 + 2 * HOUR, 70.0)
    assert (more.expected_usd, more.actual_usd, more.excess_usd) == (100.0, 130.0, 30.0)
    assert (alert.scope, alert.tags, alert.kind, alert.revision) == ("team", {"team": "a"}, "budget", 1)
    assert (alert.started_at, alert.fired_at, alert.updated_at) == (
        T0 + HOUR, T0 + 2 * HOUR + 30, T0 + 2 * HOUR + 30
    ), "its dollars count from the first bucket on"  # fmt: skip
    assert alert.explanation.startswith(
        "team a has spent $60.00 of the $100.00 of budget b for this day (60 %) with 22.0 h"
    )


@pytest.mark.parametrize(("usd", "channels"), [(49.7, []), (50.0, ["50"]), (79.9, ["50"]), (80.0, ["80"])])
def test_a_threshold_fires_when_it_is_reached(usd: float, channels: list[str]) -> None:
    assert [channel for _, channel, _ in brief(one().spend(T0, usd))] == channels


@pytest.mark.parametrize(("more", "status"), [(50.0, "firing"), (50.5, "resolved")])
def test_an_increase_ends_an_alert_whose_threshold_is_out_of_reach(more: float, status: str) -> None:
    fed = one(thresholds=[50])
    fed.spend(T0, 75.0)
    fed.budgets.add(increase(more, T0 + DAY))
    (news,) = fed.spend(T0 + HOUR, 0.0) or fed.budgets.firing
    assert news.status == status


def test_an_increase_of_cents_counts_and_one_of_nothing_lifts_it() -> None:
    fed = one()
    fed.spend(T0, 1.0)
    fed.budgets.add(increase(0.5, T0 + DAY))
    assert fed.status().amount_usd == 100.5
    fed.budgets.add(increase(0.0, T0 + DAY, id="another"))
    fed.budgets.add(increase(0.0, T0 + DAY))
    assert fed.status().amount_usd == 100.0


@pytest.mark.parametrize(("usd", "grown"), [(79.9, 0.0), (80.0, 50.0)])
def test_a_pilot_grows_when_it_used_its_share(usd: float, grown: float) -> None:
    fed = one(auto_expand=PILOT)
    days(fed, usd, usd, usd)
    assert fed.status().expanded_usd == grown


@pytest.mark.parametrize(("tags", "grown"), [({"team": "a", "api_key": "k"}, 0.0), ({"api_key": "k"}, 50.0), ({}, 0.0)])
def test_an_incident_counts_for_a_part_or_a_whole_of_the_budget(tags: dict[str, str], grown: float) -> None:
    fed = one(auto_expand=PILOT)
    days(fed, 90.0)
    fed.budgets.incident(incident("runaway", "page", T0 + DAY, **tags))
    days(fed, 90.0, 90.0, first=1)
    assert fed.status().expanded_usd == grown


@pytest.mark.parametrize(("day", "grown"), [(0.0, 0.0), (-0.01, 50.0)])
def test_an_incident_counts_for_as_many_days_as_must_be_clean(day: float, grown: float) -> None:
    fed = one(auto_expand=PILOT)
    days(fed, 90.0)
    fed.budgets.incident(incident("runaway", "page", T0 + day * DAY, team="a"))
    days(fed, 90.0, 90.0, first=1)
    assert fed.status().expanded_usd == grown


def test_only_the_newest_incidents_are_kept() -> None:
    settings = settings_of(a_budget(auto_expand=PILOT), a_budget(name="c", auto_expand={**PILOT, "clean_days": 5}))
    past = PastAlerts(settings.budgets)
    for number in range(1100):
        alert = incident("runaway", "page", T0 + number * 600.0, team=f"t{number}")
        past.note(msgspec.structs.replace(alert, alert_id=f"{number}"))
    assert len(past.seen) <= 1000
    assert not past.clean({"team": "t1099"}, T0)
    assert not past.clean({"team": f"t{1099 - 5 * 144}"}, T0)
    assert past.clean({"team": "t0"}, T0)


@pytest.mark.parametrize(("earned", "usd"), [(0.0, 50.0), (50.0, 50.0), (80.0, 20.0), (100.0, 0.0), (150.0, 0.0)])
def test_a_step_is_a_share_of_the_amount_up_to_the_most(earned: float, usd: float) -> None:
    assert expansion_usd(AutoExpand(step_percent=50, max_usd=200), 100.0, earned) == usd


def test_what_was_earned_and_carried_is_kept_while_the_amount_is_the_same() -> None:
    fields = {"auto_expand": PILOT, "carry_over": {"max_percent": 30}}
    fed = Fed(settings_of(a_budget(**fields)), ("team", "a"), ("team", "b"))
    for day, usd in enumerate((90.0, 90.0, 0.0)):
        fed.spend(T0 + day * DAY, usd, usd)
    assert (fed.status().expanded_usd, fed.status().carried_usd) == (50.0, 20.0)
    kept = fed.restarted().status(1)
    assert (kept.expanded_usd, kept.carried_usd, kept.amount_usd) == (50.0, 20.0, 170.0)
    larger = fed.restarted(settings_of(a_budget(**{**fields, "amount_usd": 110}))).status(1)
    assert (larger.expanded_usd, larger.carried_usd, larger.amount_usd) == (0.0, 20.0, 130.0)
    smaller = fed.restarted(settings_of(a_budget(**{**fields, "amount_usd": 20}))).status()
    assert (smaller.expanded_usd, smaller.carried_usd, smaller.amount_usd) == (0.0, 6.0, 26.0)
    without = fed.restarted(settings_of(a_budget())).status()
    assert (without.expanded_usd, without.carried_usd, without.amount_usd) == (0.0, 0.0, 100.0)


def test_alerts_of_different_budgets_and_series_are_different() -> None:
    fed = Fed(
        settings_of(a_budget(), a_budget(name="c"), a_budget(name="d", scope="key")), ("team", "a"), ("team", "b"),
        ("key", "a", "k"),
    )  # fmt: skip
    alerts = fed.spend(T0, 85.0, 85.0, 85.0)
    assert len(alerts) == 5
    assert len({alert.fingerprint for alert in alerts}) == len({alert.alert_id for alert in alerts}) == 5
    # The same again has the same fingerprint, whatever the process.
    other = Fed(settings_of(a_budget()), ("team", "a")).spend(T0, 85.0)
    assert {alert.fingerprint for alert in other} <= {alert.fingerprint for alert in alerts}


def test_a_hard_cap_says_so_once_it_is_reached() -> None:
    soft, hard = one().spend(T0, 100.0), one(hard=True).spend(T0, 100.0)
    assert [each.explanation.endswith("This is a hard cap: actions may throttle.") for each in soft] == [False]
    assert [each.explanation.endswith("This is a hard cap: actions may throttle.") for each in hard] == [True]
    assert not one(hard=True).spend(T0, 99.0)[0].explanation.endswith("actions may throttle.")


def test_parts_of_cents_are_named() -> None:
    fed = one()
    fed.spend(T0, 0.0)
    fed.budgets.add(increase(0.4, T0 + DAY))
    (alert,) = fed.spend(T0 + HOUR, 60.0)
    assert "The amount includes $0.40 added for a time." in alert.explanation


def test_the_first_threshold_of_the_next_period_is_of_its_own_amount() -> None:
    fed = one(thresholds=[50], carry_over={"max_percent": 100})
    fed.spend(T0, 0.0)
    fed.spend(T0 + DAY, 99.0)
    assert fed.budgets.firing == []
    (alert,) = fed.spend(T0 + DAY + HOUR, 1.0)
    assert (alert.channel, alert.score) == ("budget/50", 50.0)
