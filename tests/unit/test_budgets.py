"""Budgets: each threshold once per period, per series, by event time; over at the end of the period."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from detector.budgets import Budgets
from detector.periods import period_around
from detector.scopes import Scope
from detector.series import SeriesRegistry
from detector.settings import Budget, DetectorSettings, Period
from stream.records import Alert
from tests.fakes.spend import T0, bucket

TEAM = Scope(name="team", group_by=("team",))
DAY = 86400


def setup(*teams: str, **budget: Any) -> tuple[Budgets, SeriesRegistry]:
    budget = {"name": "b", "scope": "team", "amount_usd": 100, "period": "day", **budget}
    settings = DetectorSettings(scopes=(TEAM,), budgets=(Budget(**budget),))
    registry = SeriesRegistry(settings.scopes, "UTC")
    for team in teams:
        registry.number("team", msgspec.json.encode({"team": team}), T0)
    return Budgets(settings, registry), registry


def spend(budgets: Budgets, start: int, *usd: float) -> list[Alert]:
    """Close a one-hour bucket in which series i cost `usd[i]`."""
    return budgets.close(bucket(start, usd, bucket_s=3600))


def brief(alerts: list[Alert]) -> list[tuple[str, str, str, int]]:
    return [(a.tags["team"], a.channel, a.status, a.revision) for a in alerts]


def test_each_threshold_once_and_resolved_at_the_end_of_the_period() -> None:
    budgets, _ = setup("a")
    assert spend(budgets, T0, 49.0) == []
    (half,) = spend(budgets, T0 + 3600, 2.0)
    assert (half.kind, half.tier, half.channel, half.status) == ("budget", "digest", "budget/50", "firing")
    assert half.budget is not None
    assert (half.budget.spent_usd, half.budget.period_start, half.budget.period_end) == (51.0, T0, T0 + DAY)
    assert spend(budgets, T0 + 7200, 3.0) == []
    both = spend(budgets, T0 + 3 * 3600, 50.0)
    assert [(a.channel, a.tier) for a in both] == [("budget/80", "notice"), ("budget/100", "page")]
    assert both[1].dollars_at_risk == pytest.approx(4.0 + 50.0)
    ended = spend(budgets, T0 + DAY, 1.0)
    assert [(a.channel, a.status, a.resolved_at) for a in ended] == [
        (channel, "resolved", T0 + DAY + 3630) for channel in ("budget/50", "budget/80", "budget/100")
    ]
    (again,) = spend(budgets, T0 + DAY + 3600, 60.0)
    assert again.channel == "budget/50"
    assert again.fingerprint != half.fingerprint
    assert budgets.status()[0][1].spent_usd == 61.0


def test_every_matching_series_has_the_amount_to_itself() -> None:
    budgets, registry = setup("search", "sales", "docs", match={"team": "s*"})
    assert brief(spend(budgets, T0, 60.0, 10.0, 500.0)) == [("search", "budget/50", "firing", 1)]
    registry.number("team", b'{"team":"support"}', T0)
    assert brief(spend(budgets, T0 + 3600, 0.0, 45.0, 0.0, 85.0)) == [
        ("sales", "budget/50", "firing", 1),
        ("support", "budget/50", "firing", 1),
        ("support", "budget/80", "firing", 1),
    ]


def test_a_restatement_does_not_fire_a_threshold_again() -> None:
    budgets, _ = setup("a")
    assert len(spend(budgets, T0, 51.0)) == 1
    assert spend(budgets, T0 + 3600, -20.0) == []
    assert spend(budgets, T0 + 7200, 25.0) == []


def test_late_dollars_count_in_their_own_period_only() -> None:
    budgets, _ = setup("a")
    spend(budgets, T0, 40.0)
    i = np.array([0])
    budgets.late(i, np.array([15.0]), np.array([T0 - 3600]), T0)
    assert budgets.status()[0][1].spent_usd == 40.0
    budgets.late(i, np.array([15.0]), np.array([T0]), T0)
    assert brief(spend(budgets, T0 + 3600, 0.0)) == [("a", "budget/50", "firing", 1)]


def test_a_page_tells_when_its_burn_moves_but_not_at_every_bucket() -> None:
    budgets, _ = setup("a", thresholds=[50, 100])
    assert len(budgets.close(bucket(T0, [100 * 60.0]))) == 2
    assert budgets.close(bucket(T0 + 60, [10.0])) == []
    (news,) = budgets.close(bucket(T0 + 300, [10.0]))
    assert (news.revision, news.usd_per_hour, news.channel) == (2, 10.0, "budget/100")
    assert budgets.close(bucket(T0 + 900, [10.0])) == []


def test_the_explanation_says_it_in_dollars() -> None:
    budgets, _ = setup("a", name="team-day")
    (alert,) = spend(budgets, T0 + 3600 * 11, 51.0)
    assert alert.explanation == (
        "team a has spent $51.00 of the $100.00 of budget team-day for this day (51 %) with 12.0 h to go; "
        "it burns $51.00/h."
    )


def test_a_dump_restores_what_fired() -> None:
    budgets, registry = setup("a")
    spend(budgets, T0, 51.0)
    again = Budgets(budgets._settings, registry)
    again.load(*budgets.dump())
    assert spend(again, T0 + 3600, 5.0) == []
    assert brief(spend(again, T0 + DAY, 0.0)) == [("a", "budget/50", "resolved", 2)]


def test_changed_budgets_begin_anew() -> None:
    budgets, registry = setup("a")
    spend(budgets, T0, 51.0)
    changed = Budgets(setup("a", amount_usd=200)[0]._settings, registry)
    changed.load(*budgets.dump())
    assert spend(changed, T0 + 3600, 5.0) == []
    assert changed.status()[0][1].spent_usd == 5.0


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
