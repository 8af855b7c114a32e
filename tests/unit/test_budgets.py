"""Thresholds of budgets: each once per period, per series, by event time; over at the end of the period."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from curb.stream.records.spend import Alert
from curb.stream.time import Period, period_around
from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, settings_of
from tests.fakes.spend import T0, bucket


def setup(*teams: str, **fields: Any) -> Fed:
    return Fed(settings_of(a_budget(**fields)), *(("team", team) for team in teams))


def brief(alerts: list[Alert]) -> list[tuple[str, str, str, int]]:
    return [(a.tags["team"], a.channel, a.status, a.revision) for a in alerts]


def test_one_alert_at_the_highest_threshold_until_the_end_of_the_period() -> None:
    fed = setup("a")
    assert fed.spend(T0, 49.0) == []
    (half,) = fed.spend(T0 + 3600, 2.0)
    assert (half.kind, half.tier, half.channel, half.status) == ("budget", "digest", "budget/50", "firing")
    assert half.budget is not None
    assert (half.budget.spent_usd, half.budget.period_start, half.budget.period_end) == (51.0, T0, T0 + DAY)
    assert fed.spend(T0 + 7200, 3.0) == []
    (most,) = fed.spend(T0 + 3 * 3600, 50.0)
    assert (most.channel, most.tier, most.alert_id, most.revision) == ("budget/100", "page", half.alert_id, 2)
    assert (half.tier_since, most.tier_since) == (None, most.updated_at)
    assert most.dollars_at_risk == pytest.approx(4.0 + 50.0)
    (ended,) = fed.spend(T0 + DAY, 1.0)
    assert (ended.channel, ended.status, ended.resolved_at) == ("budget/100", "resolved", T0 + DAY + 3630)
    assert (ended.alert_id, ended.actual_usd, ended.excess_usd) == (half.alert_id, 104.0, 4.0)
    assert ended.explanation == (
        "team a spent $104.00 of the $100.00 of budget b for the day that began on 2025-06-16 00:00 UTC (104 %) and is "
        "over."
    )
    (again,) = fed.spend(T0 + DAY + 3600, 60.0)
    assert again.channel == "budget/50"
    assert again.fingerprint != half.fingerprint
    assert fed.status().spent_usd == 61.0


def test_every_matching_series_has_the_amount_to_itself() -> None:
    fed = setup("search", "sales", "docs", match={"team": "s*"})
    assert brief(fed.spend(T0, 60.0, 10.0, 500.0)) == [("search", "budget/50", "firing", 1)]
    fed.series("team", "support")
    assert brief(fed.spend(T0 + 3600, 0.0, 45.0, 0.0, 85.0)) == [
        ("sales", "budget/50", "firing", 1),
        ("support", "budget/80", "firing", 1),
    ]


def test_a_restatement_does_not_fire_a_threshold_again() -> None:
    fed = setup("a")
    assert len(fed.spend(T0, 51.0)) == 1
    assert fed.spend(T0 + 3600, -20.0) == []
    assert fed.spend(T0 + 7200, 25.0) == []


def test_a_negative_restatement_ends_no_alert_and_arms_none() -> None:
    fed = setup("a")
    fed.spend(T0, 85.0)
    fed.budgets.late(np.array([0]), np.array([-60.0]), np.array([T0]), T0)
    assert fed.spend(T0 + HOUR, 0.0) == []
    assert fed.status().spent_usd == 25.0
    assert [a.status for a in fed.budgets.firing] == ["firing"]
    assert brief(fed.spend(T0 + 2 * HOUR, 80.0)) == [("a", "budget/100", "firing", 2)]


def test_late_dollars_count_in_their_own_period_only() -> None:
    fed = setup("a")
    fed.spend(T0, 40.0)
    i = np.array([0])
    fed.budgets.late(i, np.array([15.0]), np.array([T0 - 3600]), T0)
    assert fed.status().spent_usd == 40.0
    fed.budgets.late(i, np.array([15.0]), np.array([T0]), T0)
    assert brief(fed.spend(T0 + 3600, 0.0)) == [("a", "budget/50", "firing", 1)]


def test_a_page_is_revised_when_its_sum_has_grown_by_a_tenth() -> None:
    fed = setup("a", thresholds=[50, 100])
    (page,) = fed.budgets.close(bucket(T0, [100 * 60.0]))
    assert page.tier == "page"
    assert fed.budgets.close(bucket(T0 + 60, [9 * 60.0])) == []
    assert fed.budgets.close(bucket(T0 + 120, [60.0])) == [], "a tenth, and too soon"
    (revision,) = fed.budgets.close(bucket(T0 + 300, [6.0]))
    assert (revision.revision, revision.excess_usd, revision.channel) == (2, pytest.approx(10.1), "budget/100")
    assert fed.budgets.close(bucket(T0 + 900, [600.0])) == [], "ten times the rate, and $10 of $110 more"
    assert len(fed.budgets.close(bucket(T0 + 1200, [66.0]))) == 1


def test_the_rate_revises_hard_caps_alone() -> None:
    fed = setup("a", thresholds=[100], hard=True)
    fed.budgets.close(bucket(T0, [100 * 60.0]))
    (revision,) = fed.budgets.close(bucket(T0 + 300, [10.0]))
    assert (revision.revision, revision.usd_per_hour) == (2, 10.0)
    assert fed.budgets.close(bucket(T0 + 600, [10.0])) == []
    assert [a.usd_per_hour for a in fed.budgets.close(bucket(T0 + 900, [12.0]))] == [12.0], "in its first hour: a tenth"
    assert fed.budgets.close(bucket(T0 + 2 * HOUR, [14.0])) == []
    assert [a.usd_per_hour for a in fed.budgets.close(bucket(T0 + 3 * HOUR, [24.0]))] == [24.0]
    assert [a.usd_per_hour for a in fed.budgets.close(bucket(T0 + 4 * HOUR, [0.0]))] == [0.0]
    assert fed.budgets.close(bucket(T0 + 5 * HOUR, [0.05])) == []


@pytest.mark.parametrize(("hard", "most"), [(False, 25), (True, 160)])
def test_a_month_over_its_amount_has_few_revisions(hard: bool, most: int) -> None:
    """$24 a day of $100, in five-minute buckets whose rate is anything from a tenth to twice the mean."""
    fed = setup("a", period="month", hard=hard)
    noise = np.random.default_rng(1)
    start = int(datetime(2025, 7, 1, tzinfo=ZoneInfo("UTC")).timestamp())
    rates = noise.uniform(0.1, 1.9, 31 * 288)
    slow = np.convolve(rates, np.ones(12) / 12, "same")
    alerts = [a for step, rate in enumerate(slow) for a in fed.spend(start + 300 * step, rate / 12, bucket_s=300)]
    assert {a.alert_id for a in alerts} == {alerts[0].alert_id}
    assert [a.channel for a in alerts if a.tier_since == a.updated_at] == ["budget/80", "budget/100"]
    assert len(alerts) <= most
    assert fed.status().spent_usd == pytest.approx(float(slow.sum()) / 12)
    assert fed.status().spent_usd - alerts[-1].actual_usd <= 0.1 * alerts[-1].actual_usd + 1.0


def test_the_explanation_says_it_in_dollars() -> None:
    fed = setup("a", name="team-day")
    (alert,) = fed.spend(T0 + 3600 * 11, 51.0)
    assert alert.explanation == (
        "team a has spent $51.00 of the $100.00 of budget team-day for this day (51 %) with 12.0 h to go; "
        "it spends $51.00/h."
    )


@pytest.mark.parametrize(
    ("period", "at", "start", "end"),
    [
        ("day", "2025-03-30T12:00", "2025-03-30T00:00", "2025-03-31T00:00"),
        ("week", "2025-03-30T12:00", "2025-03-24T00:00", "2025-03-31T00:00"),
        ("month", "2025-12-31T23:59", "2025-12-01T00:00", "2026-01-01T00:00"),
        ("month", "2024-02-29T00:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("quarter", "2025-05-31T12:00", "2025-04-01T00:00", "2025-07-01T00:00"),
        ("quarter", "2025-12-31T12:00", "2025-10-01T00:00", "2026-01-01T00:00"),
        ("quarter", "2025-01-01T00:00", "2025-01-01T00:00", "2025-04-01T00:00"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_periods_follow_the_calendar(period: Period, at: str, start: str, end: str, zone: str) -> None:
    where = ZoneInfo(zone)
    wanted = tuple(datetime.fromisoformat(each).replace(tzinfo=where).timestamp() for each in (start, end))
    moment = datetime.fromisoformat(at).replace(tzinfo=where).timestamp()
    assert period_around(moment, period, where) == wanted


@pytest.mark.parametrize(
    ("at", "start"),
    [("2025-03-10T00:00", "2025-03-10"), ("2025-03-23T23:59", "2025-03-10"), ("2025-03-24T00:00", "2025-03-24"),
     ("2025-03-09T12:00", "2025-02-24"), ("2025-04-06T23:00", "2025-03-24")],
)  # fmt: skip
def test_a_custom_period_is_so_many_days_from_its_anchor(at: str, start: str) -> None:
    zone = ZoneInfo("Europe/Berlin")
    moment = datetime.fromisoformat(at).replace(tzinfo=zone).timestamp()
    begin, end = period_around(moment, "custom", zone, 14, date(2025, 3, 10))
    assert datetime.fromtimestamp(begin, zone).isoformat()[:16] == f"{start}T00:00"
    # The clock change on 30 March takes an hour from the period around it.
    assert (end - begin) / HOUR == (14 * 24 - 1 if start == "2025-03-24" else 14 * 24)


def test_a_custom_period_without_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length_days"):
        period_around(T0, "custom", ZoneInfo("UTC"))
