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


def test_each_threshold_once_and_resolved_at_the_end_of_the_period() -> None:
    fed = setup("a")
    assert fed.spend(T0, 49.0) == []
    (half,) = fed.spend(T0 + 3600, 2.0)
    assert (half.kind, half.tier, half.channel, half.status) == ("budget", "digest", "budget/50", "firing")
    assert half.budget is not None
    assert (half.budget.spent_usd, half.budget.period_start, half.budget.period_end) == (51.0, T0, T0 + DAY)
    assert fed.spend(T0 + 7200, 3.0) == []
    both = fed.spend(T0 + 3 * 3600, 50.0)
    assert [(a.channel, a.tier) for a in both] == [("budget/80", "notice"), ("budget/100", "page")]
    assert both[1].dollars_at_risk == pytest.approx(4.0 + 50.0)
    ended = fed.spend(T0 + DAY, 1.0)
    assert [(a.channel, a.status, a.resolved_at) for a in ended] == [
        (channel, "resolved", T0 + DAY + 3630) for channel in ("budget/50", "budget/80", "budget/100")
    ]
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
        ("support", "budget/50", "firing", 1),
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
    assert [a.status for a in fed.budgets.firing] == ["firing", "firing"]
    assert brief(fed.spend(T0 + 2 * HOUR, 80.0)) == [("a", "budget/100", "firing", 1)]


def test_late_dollars_count_in_their_own_period_only() -> None:
    fed = setup("a")
    fed.spend(T0, 40.0)
    i = np.array([0])
    fed.budgets.late(i, np.array([15.0]), np.array([T0 - 3600]), T0)
    assert fed.status().spent_usd == 40.0
    fed.budgets.late(i, np.array([15.0]), np.array([T0]), T0)
    assert brief(fed.spend(T0 + 3600, 0.0)) == [("a", "budget/50", "firing", 1)]


def test_a_page_tells_when_its_burn_moves_but_not_at_every_bucket() -> None:
    fed = setup("a", thresholds=[50, 100])
    assert len(fed.budgets.close(bucket(T0, [100 * 60.0]))) == 2
    assert fed.budgets.close(bucket(T0 + 60, [10.0])) == []
    (news,) = fed.budgets.close(bucket(T0 + 300, [10.0]))
    assert (news.revision, news.usd_per_hour, news.channel) == (2, 10.0, "budget/100")
    assert fed.budgets.close(bucket(T0 + 900, [10.0])) == []


def test_the_explanation_says_it_in_dollars() -> None:
    fed = setup("a", name="team-day")
    (alert,) = fed.spend(T0 + 3600 * 11, 51.0)
    assert alert.explanation == (
        "team a has spent $51.00 of the $100.00 of budget team-day for this day (51 %) with 12.0 h to go; "
        "it spends $51.00/h. At this pace it is spent on 2025-06-16 12:57 UTC and the period ends at $663.00, "
        "97 % likely to be over."
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
