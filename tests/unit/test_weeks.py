"""Weeks: where users are not known, a day is held against the same one a week ago, or against the days before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from curb.detector.rules.week_on_week import Config as WeekConfig
from curb.detector.rules.week_on_week import Weeks
from curb.detector.state.rule import Finding, RuleContext
from curb.detector.state.view import Demand, View
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, usage

STEP_S = 900
#: The growth begins here, after ten days as they always are.
BEGIN = T0 + 10 * DAY
Growth = Callable[[float], float]


class Judged:
    """The rule behind a demand that says what the test says."""

    def __init__(self, *, unit_usd: float = 0.01, users_known: bool = False) -> None:
        self.rule, self._unit_usd, self._users_known = Weeks(WeekConfig(), RuleContext(STEP_S)), unit_usd, users_known

    def close(self, view: View) -> list[Finding]:
        n = len(view.principals.index)
        known = np.full(n, self._users_known)
        view.demand = Demand(
            view.principals.amounts.requests, np.full(n, self._unit_usd), known, known, np.full(n, True)
        )
        return self.rule.close(view)

    def dump(self) -> dict[str, Any]:
        return self.rule.dump()

    def load(self, arrays: Mapping[str, Any]) -> None:
        self.rule.load(arrays)


def rows(start: int, growth: Growth) -> list[Row]:
    """Nights and weekends are quiet: 2,000 to 6,000 requests a day."""
    day = (start - T0) / DAY
    weekday = 1.0 if day % 7 < 5 else 0.4
    return [usage(requests=60 * weekday * math.exp(0.8 * math.sin(2 * math.pi * day)) * growth((start - BEGIN) / DAY))]


def run(growth: Growth, begin: int = T0, **judged: Any) -> list[tuple[float, Finding]]:
    """Findings by days from BEGIN on."""
    fleet = Fleet(STEP_S, start=begin)
    given = fleet.run(Judged(**judged), BEGIN + 7 * DAY, lambda start: rows(start, growth))
    return [((at - BEGIN) / DAY, each) for at, findings in given for each in findings]


def slowly(days: float) -> float:
    return float(1.13 ** max(0.0, days))


def test_a_growth_of_a_few_percent_a_day_is_found_within_the_week() -> None:
    first, finding = run(slowly)[0]
    assert 2 < first < 5
    assert (finding.kind, finding.tier, finding.channel, finding.lasting) == ("growth", "notice", "weeks", True)
    assert "% more requests in a day than a week ago, growing for days, which costs $" in finding.words


@pytest.mark.parametrize(
    "growth",
    [
        pytest.param(lambda days: 1.0, id="weekends are as quiet as ever"),
        pytest.param(lambda days: 2.0 if days > 0 else 1.0, id="a jump"),
        pytest.param(lambda days: 2.0 if 2 < days < 2.5 else 1.0, id="an odd afternoon"),
        pytest.param(lambda days: 1.02 ** max(0.0, days), id="a drift"),
        pytest.param(lambda days: 0.9 ** max(0.0, days), id="a decline"),
    ],
)
def test_what_is_no_slow_growth_is_silent(growth: Growth) -> None:
    assert run(growth) == []


def test_where_users_are_known_they_decide() -> None:
    assert run(slowly, users_known=True) == []


def test_growth_for_cents_is_silent() -> None:
    assert run(slowly, unit_usd=0.0001) == []


def test_before_there_is_a_week_every_day_must_be_more_than_the_one_before() -> None:
    first, finding = run(lambda days: 1.13 ** (days + 10))[0]
    assert first == -5
    assert "% more requests in a day than 4 days ago, growing from day to day, which costs $" in finding.words


def test_the_rise_from_a_weekend_to_the_middle_of_the_week_is_known_after_a_week() -> None:
    weekly = [1.0, 1.12, 1.25, 1.4, 1.55, 1.4, 1.2]
    rhythm = [days for days, _ in run(lambda days: weekly[int(days + 10) % 7])]
    assert rhythm
    assert max(rhythm) < -3


def test_weeks_and_days_must_be_known() -> None:
    assert [days for days, _ in run(slowly, begin=BEGIN - 2 * DAY) if days < 3] == []
    late = run(slowly, begin=BEGIN - 5 * DAY)
    assert late
    assert [days for days, each in late if "than a week ago" in each.words and days < 5] == []


def test_it_goes_on_where_it_was_saved() -> None:
    fleet, one, other = Fleet(STEP_S), Judged(), Judged()
    heard: list[list[Finding]] = []
    while fleet.now < BEGIN + 6 * DAY:
        if fleet.now == BEGIN + 3 * DAY + HOUR:
            other.load({name: array.copy() for name, array in one.dump().items()})
        view = fleet.view(rows(fleet.now, slowly))
        said = one.close(view)
        if view.start >= BEGIN + 3 * DAY + HOUR:
            assert other.close(view) == said
        heard.append(said)
    assert any(heard)
