"""Burn rates: two windows must agree, only while it matters, once, and at the root."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curb.stream.records.spend import Alert
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, brief, settings_of
from tests.fakes.spend import T0

#: June has 30 days: the even pace of $720 is $1 an hour. T0 is the 16th.
MONTH = {"amount_usd": 720, "period": "month", "thresholds": [100], "burn_rate": {"min_usd": 10}}


def one(days: float = 0.0, rate: float = 0.0, **fields: Any) -> Fed:
    """A team that has been known for `days` before T0, at `rate` $/h."""
    fed = Fed(settings_of(a_budget(**{**MONTH, **fields}), bucket_s=300), ("team", "a"))
    burn(fed, rate, -days * DAY, days * DAY)
    return fed


def burn(fed: Fed, rate: float, after: float, length: float) -> list[Alert]:
    """Buckets of 5 minutes at `rate` $/h from T0 + `after` on."""
    starts = range(int(T0 + after), int(T0 + after + length), 300)
    return [alert for start in starts for alert in fed.spend(start, rate / 12, bucket_s=300)]


def test_a_fast_burn_pages_within_the_hour_and_ends_when_it_is_calm() -> None:
    fed = one(days=1)
    (opened, *news) = burn(fed, 30.0, 0, HOUR)
    assert (opened.channel, opened.tier, opened.kind) == ("budget/burn-14.4x-1h", "page", "budget")
    # $14.40 within the hour: after half an hour at $30.
    assert opened.fired_at - T0 == 1800 + 30
    assert opened.explanation.startswith(
        "team a has spent $15.00 within 1h, 15.0 times the even pace of budget b; $15.00 of the $720.00 for this month "
        "have been spent."
    )
    assert all(alert.alert_id == opened.alert_id and alert.status == "firing" for alert in news)
    (*_, ended) = burn(fed, 0.0, HOUR, HOUR)
    assert (ended.status, ended.alert_id) == ("resolved", opened.alert_id)


def test_what_comes_back_within_the_period_is_the_same_alert() -> None:
    fed = one(days=1)
    first = burn(fed, 30.0, 0, HOUR)[0]
    burn(fed, 0.0, HOUR, 2 * HOUR)
    again = burn(fed, 60.0, 3 * HOUR, HOUR)[0]
    assert (again.alert_id, again.status) == (first.alert_id, "firing")
    assert again.revision > first.revision + 1


@pytest.mark.parametrize(
    ("rate", "hours", "channels"),
    [
        (1.0, 8, set()),
        (7.0, 8, {"budget/burn-6x-6h"}),
        (30.0, 8, {"budget/burn-14.4x-1h"}),
    ],
)
def test_the_faster_the_sooner(rate: float, hours: int, channels: set[str]) -> None:
    fed = one(days=1)
    assert {alert.channel for alert in burn(fed, rate, 0, hours * HOUR)} == channels


def test_a_slow_burn_is_one_notice_once_its_history_is_long_enough() -> None:
    fed = one(days=2.5, rate=3.0)
    assert fed.budgets.firing == []
    (notice,) = burn(fed, 3.0, 0, DAY)
    assert (notice.channel, notice.tier, notice.revision) == ("budget/burn-1x-3d", "notice", 1)
    assert notice.fired_at - T0 == 12 * HOUR + 30
    burn(fed, 0.0, DAY, DAY)
    assert [alert.status for alert in burn(fed, 3.0, 2 * DAY, 4 * DAY)] == []


def test_a_burst_that_is_over_does_not_page() -> None:
    fed = one(days=1)
    # The hour holds enough, but the last five minutes are calm again: the short window says no.
    assert fed.spend(T0, 13.0, bucket_s=300) == []
    assert burn(fed, 0.0, 300, 3300) == []


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"burn_rate": {"enabled": False}}, 30.0),
        ({"burn_rate": {"min_usd": 500}}, 30.0),
        # A budget of a day: an hour at 14.4 times its pace is more than half of it.
        ({"period": "day", "amount_usd": 720}, 100.0),
    ],
)
def test_when_there_is_nothing_to_say(fields: dict[str, Any], rate: float) -> None:
    assert burn(one(days=1, **fields), rate, 2 * HOUR, HOUR) == []


def test_what_is_not_known_for_an_hour_has_no_rate() -> None:
    assert burn(one(), 30.0, 0, HOUR - 300) == []
    assert burn(one(), 30.0, 0, HOUR)[0].channel == "budget/burn-14.4x-1h"


def test_none_in_the_first_hour_of_a_period() -> None:
    fed = one(period="week", amount_usd=168, days=1)  # T0 is a Monday
    opened = burn(fed, 30.0, 0, 2 * HOUR)[0]
    assert opened.fired_at - T0 == HOUR + 300 + 30


def test_none_when_the_rest_lasts_and_none_when_it_is_spent() -> None:
    fed = one(days=1, amount_usd=72000, period="week")
    assert burn(fed, 7000.0, 7 * DAY - 2 * HOUR, 2 * HOUR - 300) == []
    over = one(days=1)
    assert brief(over.spend(T0, 800.0, bucket_s=300)) == [("a", "100", "firing")]
    assert {alert.channel for alert in burn(over, 60.0, 300, 2 * HOUR)} == {"budget/100"}


def test_the_page_on_a_spent_budget_stands_for_its_burn() -> None:
    fed = one(days=1)
    (burning, *_) = burn(fed, 30.0, 0, HOUR)
    ended, page = sorted(fed.spend(T0 + HOUR, 700.0, bucket_s=300), key=lambda alert: alert.channel, reverse=True)
    assert (ended.alert_id, ended.status) == (burning.alert_id, "resolved")
    assert (page.channel, page.status) == ("budget/100", "firing")
    assert fed.budgets.firing == [page]


def test_a_nightly_batch_pages_the_first_night_only() -> None:
    fed = one(days=1, amount_usd=7200)
    burn(fed, 0.0, 0, 2 * HOUR)
    assert burn(fed, 300.0, 2 * HOUR, HOUR)[0].channel == "budget/burn-14.4x-1h"
    for night in range(1, 4):
        burn(fed, 0.0, (night - 1) * DAY + 3 * HOUR, 23 * HOUR)
        assert burn(fed, 300.0, night * DAY + 2 * HOUR, HOUR) == []
    # More than the batch is news.
    burn(fed, 0.0, 3 * DAY + 3 * HOUR, 23 * HOUR)
    assert burn(fed, 500.0, 4 * DAY + 2 * HOUR, HOUR) != []


def test_late_dollars_count_in_their_window_and_a_negative_restatement_opens_nothing() -> None:
    fed = one(days=1)
    burn(fed, 12.0, 0, HOUR)
    assert fed.budgets.firing == []
    fed.budgets.late(np.array([0]), np.array([-3.0]), np.array([T0 + 600]), T0 + 3300)
    assert fed.spend(T0 + HOUR, 1.5, bucket_s=300) == []
    fed.budgets.late(np.array([0]), np.array([9.0]), np.array([T0 + 1800]), T0 + HOUR)
    assert brief(fed.spend(T0 + HOUR + 300, 1.5, bucket_s=300)) == [("a", "burn-14.4x-1h", "firing")]


def test_the_root_of_a_burn_tells_for_those_below() -> None:
    org = a_budget(name="org", shared=True, **{**MONTH, "amount_usd": 720})
    team = a_budget(name="each-team", parent="org", **{**MONTH, "amount_usd": 720})
    fed = Fed(settings_of(org, team, bucket_s=300), ("team", "a"))
    burn(fed, 0.0, -DAY, DAY)
    (alert,) = burn(fed, 30.0, 0, 2 * HOUR)
    assert (alert.tags, alert.budget and alert.budget.name) == ({}, "org")
    assert "Crossed with it: team a." in alert.explanation


def test_a_gap_empties_the_windows() -> None:
    fed = one(days=1)
    opened = burn(fed, 30.0, 0, HOUR)[0]
    # Nothing closed for four days; the next bucket finds calm windows, and the alert ends after a while.
    (*_, ended) = burn(fed, 0.0, 4 * DAY, HOUR)
    assert (ended.alert_id, ended.status) == (opened.alert_id, "resolved")
    assert burn(fed, 1.0, 5 * DAY, HOUR) == []
