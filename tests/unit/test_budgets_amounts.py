"""What a budget's amount is: currencies, carry-over, increases that expire, and what pilots earn."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pytest

from curb.stream.records.spend import Alert, AlertKind, BudgetIncrease, Feedback, Tier
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, brief, settings_of
from tests.fakes.spend import T0

EUR = [{"currency": "EUR", "usd": 1.0}, {"currency": "EUR", "usd": 1.1, "since": date(2025, 6, 17)}]


def increase(usd: float, until: float, *, id: str = "i", team: str = "*", at: float = T0) -> BudgetIncrease:
    match = {"team": team}
    return BudgetIncrease(id=id, at=at, budget="b", match=match, amount_usd=usd, expires_at=until, by="ana")


def one(**fields: Any) -> Fed:
    return Fed(settings_of(a_budget(**fields)), ("team", "a"))


# --- currencies -----------------------------------------------------------------------------------------------------


def test_an_amount_in_another_currency_is_told_in_both() -> None:
    fed = Fed(settings_of(a_budget(amount_usd=None, amount=100, currency="EUR"), exchange_rates=EUR), ("team", "a"))
    (alert,) = fed.spend(T0, 55.0)
    assert "$55.00 of the $100.00 (100.00 EUR) of budget b" in alert.explanation
    assert alert.budget is not None
    assert (alert.budget.amount, alert.budget.currency, alert.budget.amount_usd) == (100.0, "EUR", 100.0)


def test_a_period_has_the_rate_of_its_first_day() -> None:
    fed = Fed(settings_of(a_budget(amount_usd=None, amount=100, currency="EUR"), exchange_rates=EUR), ("team", "a"))
    fed.spend(T0, 1.0)
    assert fed.status().amount_usd == 100.0
    fed.spend(T0 + DAY, 1.0)  # 17 June 2025
    assert fed.status().amount_usd == pytest.approx(110.0)


# --- carry-over -----------------------------------------------------------------------------------------------------


def test_what_is_unspent_is_carried_up_to_the_cap() -> None:
    fed = one(carry_over={"max_percent": 30})
    fed.spend(T0, 80.0)
    fed.spend(T0 + DAY, 0.0)
    assert (fed.status().carried_usd, fed.status().amount_usd) == (20.0, 120.0)
    fed.spend(T0 + 2 * DAY, 0.0)
    assert (fed.status().carried_usd, fed.status().amount_usd) == (30.0, 130.0)
    fed.spend(T0 + 2 * DAY + HOUR, 200.0)
    fed.spend(T0 + 3 * DAY, 0.0)
    assert fed.status().amount_usd == 100.0


def test_a_period_that_was_not_seen_whole_carries_nothing() -> None:
    fed = one(carry_over={})
    fed.spend(T0 + 12 * HOUR, 10.0)
    fed.spend(T0 + DAY, 0.0)
    assert fed.status().carried_usd == 0.0
    fed.spend(T0 + 2 * DAY, 0.0)
    assert fed.status().carried_usd == 100.0


def test_the_alert_says_what_the_amount_is_made_of() -> None:
    fed = one(carry_over={"max_percent": 20})
    fed.spend(T0, 0.0)
    fed.budgets.add(increase(40.0, T0 + 3 * DAY))
    (alert,) = [a for a in fed.spend(T0 + DAY, 81.0) if a.status == "firing"]
    assert "The amount includes $20.00 carried over and $40.00 added for a time." in alert.explanation


# --- increases ------------------------------------------------------------------------------------------------------


def test_an_increase_ends_alerts_and_arms_them_until_it_expires() -> None:
    fed = one(thresholds=[100])
    assert brief(fed.spend(T0, 110.0)) == [("a", "100", "firing")]
    fed.budgets.add(increase(50.0, T0 + 6 * HOUR))
    (over,) = fed.spend(T0 + HOUR, 0.0)
    assert (over.status, over.revision) == ("resolved", 2)
    assert over.explanation == "The amount of budget b is now $150.00; $110.00 have been spent."
    assert brief(fed.spend(T0 + 2 * HOUR, 41.0)) == [("a", "100", "firing")]
    # It fired for the raised amount; when that falls back nothing new is crossed, there is only news.
    assert [a.revision for a in fed.spend(T0 + 6 * HOUR, 0.0)] == [2]
    assert fed.status().amount_usd == 100.0


def test_an_increase_that_expires_leaves_the_budget_over() -> None:
    fed = one(thresholds=[100])
    fed.budgets.add(increase(50.0, T0 + 3 * HOUR))
    assert fed.spend(T0, 110.0) == []
    assert fed.spend(T0 + HOUR, 0.0) == []
    assert brief(fed.spend(T0 + 2 * HOUR, 0.0)) == [("a", "100", "firing")]


def test_increases_match_tags_add_up_and_are_replaced_by_their_id() -> None:
    fed = Fed(settings_of(a_budget()), ("team", "a"), ("team", "b"))
    fed.spend(T0, 0.0)
    fed.budgets.add(increase(10.0, T0 + DAY, id="x", team="a"))
    fed.budgets.add(increase(20.0, T0 + DAY, id="y"))
    assert [fed.status(row).amount_usd for row in (0, 1)] == [130.0, 120.0]
    fed.budgets.add(increase(5.0, T0 + DAY, id="x", team="a"))
    assert [fed.status(row).amount_usd for row in (0, 1)] == [125.0, 120.0]
    fed.budgets.add(increase(0.0, T0 + DAY, id="y"))
    assert [fed.status(row).amount_usd for row in (0, 1)] == [105.0, 100.0]
    fed.series("team", "a2")
    fed.budgets.add(increase(7.0, T0 + DAY, id="z", team="a*"))
    fed.spend(T0 + HOUR, 0.0)
    assert fed.status(2).amount_usd == 107.0


def test_an_increase_is_not_carried_over() -> None:
    fed = one(carry_over={})
    fed.spend(T0, 0.0)
    fed.budgets.add(increase(50.0, T0 + DAY))
    fed.spend(T0 + HOUR, 40.0)
    fed.spend(T0 + DAY, 0.0)
    assert (fed.status().carried_usd, fed.status().amount_usd) == (60.0, 160.0)


# --- expansion ------------------------------------------------------------------------------------------------------

PILOT = {"step_percent": 50, "max_usd": 200, "utilisation_percent": 80, "clean_days": 2}


def incident(kind: AlertKind, tier: Tier, at: float, **tags: str) -> Alert:
    return Alert(
        fingerprint="f", alert_id="f-1", revision=1, status="firing", kind=kind, tier=tier, scope="key", tags=tags,
        fired_at=at, updated_at=at, started_at=at, expected_usd=0, actual_usd=0, excess_usd=0, usd_per_hour=0,
        expected_usd_per_hour=0, dollars_at_risk=0, score=0, channel="x",
    )  # fmt: skip


def days(fed: Fed, *usd: float, first: int = 0) -> list[Alert]:
    return [alert for day, each in enumerate(usd) for alert in fed.spend(T0 + (first + day) * DAY, each)]


def test_a_pilot_that_uses_its_budget_well_earns_more_up_to_the_limit() -> None:
    fed = one(auto_expand=PILOT, thresholds=[100])
    days(fed, 90.0, 90.0)
    assert fed.status().amount_usd == 100.0
    (told,) = days(fed, 90.0, first=2)
    assert (told.channel, told.tier, told.status) == ("budget/expanded", "digest", "firing")
    assert told.explanation.startswith(
        "budget b of team a grows by $50.00 to $150.00: 90% of it was used in the last period, without an incident for "
        "2 days."
    )
    assert [(a.channel, a.status) for a in days(fed, 140.0, first=3)] == [("budget/expanded", "resolved")]
    told_again = days(fed, 0.0, first=4)
    assert [(a.channel, a.status) for a in told_again] == [("budget/expanded", "firing")]
    assert fed.status().amount_usd == 200.0
    days(fed, 199.0, 0.0, first=5)
    assert fed.status().amount_usd == 200.0


def test_idle_pilots_earn_nothing() -> None:
    fed = one(auto_expand=PILOT)
    days(fed, 10.0, 10.0, 10.0, 10.0)
    assert fed.status().expanded_usd == 0.0


@pytest.mark.parametrize(
    ("kind", "tier", "tags", "grown"),
    [
        ("abusive", "page", {"team": "a", "api_key": "k"}, 0.0),
        ("runaway", "notice", {"team": "a"}, 0.0),
        ("runaway", "digest", {"team": "a"}, 50.0),
        ("runaway", "page", {"team": "b"}, 50.0),
        ("budget", "page", {"team": "a"}, 50.0),
    ],
)
def test_incidents_speak_against_it(kind: AlertKind, tier: Tier, tags: dict[str, str], grown: float) -> None:
    fed = one(auto_expand=PILOT)
    days(fed, 90.0)
    fed.budgets.incident(incident(kind, tier, T0 + DAY, **tags))
    days(fed, 90.0, 90.0, first=1)
    assert fed.status().expanded_usd == grown


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_false_alarm_does_not(when: Literal["before", "after"]) -> None:
    fed = one(auto_expand=PILOT)
    days(fed, 90.0)
    alert = incident("runaway", "page", T0 + DAY, team="a")
    fed.budgets.incident(alert)
    fed.budgets.add(Feedback(id="v", at=alert.updated_at, alert_id=alert.alert_id, verdict="not_an_anomaly"))
    if when == "after":
        fed.budgets.incident(alert)  # a later revision of the same alert
    days(fed, 90.0, 90.0, first=1)
    assert fed.status().expanded_usd == 50.0
