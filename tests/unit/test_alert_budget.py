"""The alert budget: storms raise thresholds until alerts are back at the budget, calm lowers them to what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.detector.heads.past import ScoreSettings
from curb.detector.heads.past_findings import PastRule
from curb.detector.incidents.alert_budget import AlertBudget, BudgetController
from curb.detector.rules.table import families
from curb.detector.state.rule import RuleContext
from curb.detector.state.view import Raised
from curb.stream.records.spend import Alert, Tier
from tests.fakes.alerts import an_alert
from tests.fakes.views import DAY, T0, Fleet, usage

NOTICES, PAGES = 10.0, 5.0


def controller(zone: str = "UTC") -> BudgetController:
    return BudgetController(AlertBudget(notices_per_day=NOTICES, pages_per_day=PAGES), zone, families())


def alerts(count: int, tier: Tier = "notice", channel: str = "dollars/5min", **more: Any) -> list[Alert]:
    return [an_alert(tier=tier, channel=channel, alert_id=f"a-{i}", **{"revision": 1, **more}) for i in range(count)]


def live(of: BudgetController, days: int, per_day: float, *, begin: int = 0, series: int = 150) -> list[int]:
    """Notices of each day when there would be `per_day` without a rise, each point making them ten times rarer."""
    told = []
    for day in range(begin, begin + days):
        of.start(T0 + day * DAY, series)
        count = int(per_day * 10**-of.raised.notice + 0.5)
        of.count(alerts(count), {})
        told.append(count)
    return told


@settings(deadline=None, max_examples=40)
@given(storm=st.floats(20, 3000), days=st.integers(1, 30), calm=st.integers(0, 8))
def test_a_storm_comes_back_to_the_budget_and_calm_lowers_what_it_raised(storm: float, days: int, calm: int) -> None:
    of = controller()
    live(of, days, storm)
    of.start(T0 + days * DAY, 150)
    assert of.raised.notice >= 0
    told = live(of, 150 - days, storm, begin=days)
    assert of.raised.notice > 0
    assert np.mean(told[-49:]) == pytest.approx(NOTICES, rel=0.35)
    after = live(of, 60, calm, begin=150)
    assert after[-1] == calm
    assert of.raised == Raised(0.0, 0.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=60))
def test_a_rise_is_never_below_zero_nor_above_twenty(days: list[tuple[int, int]]) -> None:
    of = BudgetController(AlertBudget(notices_per_day=0.01, pages_per_day=0.01), "UTC", families())
    for day, (notices, pages) in enumerate(days):
        of.start(T0 + day * DAY, 1)
        of.count([*alerts(notices), *alerts(pages, "page")], {})
        assert min(of.raised) >= 0
        assert max(of.raised) <= 20


def test_an_ordinary_fleet_is_never_touched() -> None:
    of = controller()
    for day in range(100):
        of.start(T0 + day * DAY, 150)
        of.count([*alerts(3), *alerts(3, "page")], {})
        assert of.raised == Raised(0.0, 0.0)


def test_the_budget_grows_with_the_series() -> None:
    few, many = controller(), controller()
    live(few, 30, 40)
    live(many, 30, 40, series=5000)
    assert few.raised.notice > 0
    assert many.raised.notice == 0


def test_only_new_alerts_of_statistics_count() -> None:
    of = controller()
    of.start(T0, 1)
    of.count(alerts(1000, channel="errors") + alerts(1000, revision=2) + alerts(1000, "digest"), {"a-1": "notice"})
    assert not of.dump()["today"].any()
    of.count(alerts(7, "page", "unexplained/5min", revision=4), {f"a-{i}": "notice" for i in range(3)})
    assert of.dump()["today"].tolist() == [0, 3]


def test_each_tier_for_itself_by_local_days() -> None:
    of = controller("America/New_York")
    of.start(T0, 1)  # 20:00 there
    of.count(alerts(2000, "page"), {})
    of.start(T0 + 4 * 3600 - 60, 1)
    assert of.raised == Raised(0.0, 0.0)
    of.start(T0 + 4 * 3600, 1)
    assert of.raised.notice == 0
    assert of.raised.page == pytest.approx(0.5 * np.log10(2001 / 36))


def test_it_goes_on_where_it_was_saved_and_through_weeks_without_data() -> None:
    one, other = controller(), controller()
    live(one, 10, 500)
    other.load({name: np.array(array) for name, array in one.dump().items()})
    assert live(one, 20, 500, begin=10) == live(other, 20, 500, begin=10)
    assert one.raised == other.raised != Raised(0.0, 0.0)
    one.start(T0 + 1000 * DAY, 1)
    assert one.raised == Raised(0.0, 0.0)


def test_a_raised_threshold_makes_notices_of_pages_and_lines_of_notices() -> None:
    view = Fleet().view([usage(cost=10.0)])
    view.bucket.scores.notice[0], view.bucket.scores.page[0] = 9.0, 7.0
    tiers = []
    for raised in (Raised(0, 0), Raised(0, 2), Raised(4, 2), Raised(4, 0)):
        view.raised = raised
        tiers.append(PastRule(ScoreSettings(), RuleContext(300)).close(view)[0].tier)
    assert tiers == ["page", "notice", "digest", "page"]
