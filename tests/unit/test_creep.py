"""Slow growth: more requests from day to day are found when no more users come with them, and it costs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from curb.detector.rules.more_requests_per_user import Config as CreepConfig
from curb.detector.rules.more_requests_per_user import Creep
from curb.detector.state.rule import Finding, RuleContext
from curb.detector.state.view import Demand, View
from tests.fakes.views import DAY, T0, Fleet, Row, saved, usage

pytestmark = pytest.mark.long

STEP_S = 900
BEGIN = T0 + 8 * DAY
#: Requests of a step, and those of them that users explain, by days since BEGIN.
Growth = Callable[[float], float]


class Judged:
    """The rule behind a demand that is told by the rows: `output_tokens` are the requests that users explain."""

    def __init__(self, *, unit_usd: float = 0.01, users_known: bool = True) -> None:
        self.rule, self._unit_usd, self._users_known = Creep(CreepConfig(), RuleContext(STEP_S)), unit_usd, users_known

    def close(self, view: View) -> list[Finding]:
        n = len(view.principals.index)
        known = np.full(n, self._users_known)
        view.demand = Demand(
            view.principals.amounts.output_tokens, np.full(n, self._unit_usd), known, known, np.full(n, True)
        )
        return self.rule.close(view)

    def dump(self) -> dict[str, Any]:
        return self.rule.dump()

    def load(self, arrays: Mapping[str, Any]) -> None:
        self.rule.load(arrays)


def flat(_: float) -> float:
    return 1.0


def slowly(percent_a_day: float) -> Growth:
    return lambda days: (1 + percent_a_day / 100) ** max(0.0, days)


def rows(start: int, requests: Growth, organic: Growth) -> list[Row]:
    """About $86 a day at one cent for a request."""
    days = (start - BEGIN) / DAY
    usual = 90 * math.exp(0.4 * math.sin(2 * math.pi * days) + random.Random(start).gauss(0, 0.1))
    explained = usual * math.exp(random.Random(start + 1).gauss(0, 0.1))
    return [usage(requests=usual * requests(days), output_tokens=explained * organic(days))]


def run(requests: Growth = flat, organic: Growth = flat, **judged: Any) -> list[tuple[float, Finding]]:
    """Findings by days from BEGIN on."""
    given = Fleet(STEP_S).run(Judged(**judged), BEGIN + 9 * DAY, lambda start: rows(start, requests, organic))
    return [((at - BEGIN) / DAY, each) for at, findings in given for each in findings]


@pytest.mark.parametrize(("percent_a_day", "within_days"), [(5, 7), (8, 4), (12, 3)])
def test_a_few_percent_a_day_are_found_within_days(percent_a_day: float, within_days: float) -> None:
    first, finding = run(slowly(percent_a_day))[0]
    assert 1 < first < within_days
    assert (finding.kind, finding.tier, finding.channel, finding.lasting) == ("growth", "notice", "creep", True)
    assert "% more requests per user than in the days before, which costs $" in finding.words


def test_growth_of_users_is_no_creep() -> None:
    assert run(slowly(5), slowly(5)) == []


def test_steady_use_is_silent() -> None:
    assert run() == []


def test_without_users_nothing_is_said() -> None:
    assert run(slowly(5), users_known=False) == []


def test_growth_for_cents_is_silent() -> None:
    assert run(slowly(5), unit_usd=0.0001) == []


def test_an_odd_afternoon_is_silent() -> None:
    assert run(lambda days: 1.3 if 2.5 <= days < 2.7 else 1.0) == []


def counted_badly(days: float) -> float:
    """Users whose count wanders by a third for hours."""
    return math.exp(sum(0.25 * math.sin(2 * math.pi * (days * per_day + per_day)) for per_day in (1.7, 2.3, 3.1)))


def test_users_that_are_counted_badly_are_no_creep_and_hide_only_a_small_one() -> None:
    def judged(requests: Growth) -> list[float]:
        given = Fleet(STEP_S).run(
            Judged(), BEGIN + 7 * DAY, lambda start: rows(start, requests, lambda _: counted_badly((start - T0) / DAY))
        )
        return [(at - BEGIN) / DAY for at, findings in given if findings]

    assert judged(flat) == []
    assert 1 < judged(slowly(15))[0] < 6


def test_a_day_that_is_over_is_not_said_on() -> None:
    found = [days for days, _ in run(lambda days: 2.0 if 2.5 <= days < 2.9 else 1.0)]
    assert 2.5 < min(found) < 2.9
    assert max(found) < 3.5


class Key(NamedTuple):
    """A key that asks evenly: requests a minute, those of them that users explain, and what each costs."""

    per_min: float = 6.0
    grown: float = 1.2
    unit_usd: float = 0.01
    #: Requests over those that users explain, always.
    over: float = 1.0
    #: Hours of the day in which it asks, and days before JUMP at which it began.
    hours: float = 24.0
    since_days: float = 6.0

    def rows(self, name: str, start: int, step_s: int) -> list[Row]:
        if start < JUMP - self.since_days * DAY or (start - T0) % DAY >= self.hours * 3600:
            return []
        asked = self.per_min * step_s / 60
        requests = self.over * asked * (self.grown if start >= JUMP else 1.0)
        return [usage(name, requests=requests, output_tokens=asked)]


JUMP = T0 + 6 * DAY


def first_found(keys: Mapping[str, Key], step_s: int, hours: float = 30) -> dict[str, tuple[int, str]]:
    """Minutes after JUMP at which each key is first found, and in which words."""
    fleet, rule = Fleet(step_s), Creep(CreepConfig(), RuleContext(step_s))
    first: dict[str, tuple[int, str]] = {}
    while fleet.now < JUMP + hours * 3600:
        view = fleet.view([row for name, key in keys.items() for row in key.rows(name, fleet.now, step_s)])
        names = [view.registry.tags[number]["api_key"] for number in view.principals.index]
        known = np.full(len(names), True)
        unit_usd = np.array([keys[name].unit_usd for name in names])
        view.demand = Demand(view.principals.amounts.output_tokens, unit_usd, known, known, known)
        for finding in rule.close(view):
            name = view.registry.tags[finding.series]["api_key"]
            first.setdefault(name, ((fleet.now - JUMP) // 60, finding.words))
    return first


@pytest.mark.parametrize("step_s", [300, 900])
def test_a_fifth_more_requests_is_found_when_the_day_shows_eight_percent(step_s: int) -> None:
    # The day's mean has grown by 0.2 * (1 - exp(-t / 1440)), which is exp(0.08) - 1 after 776 minutes.
    minutes, words = first_found({"k": Key()}, step_s)["k"]
    assert 775 <= minutes <= 780
    # 8,640 requests a day at a cent, and seven or eight percent more than the reference, which followed a little.
    dollars = float(words.rsplit("$", 1)[1].split()[0])
    assert words.startswith("8 % more requests per user than in the days before, which costs $")
    assert dollars == pytest.approx(6.85, abs=0.05)


@pytest.mark.parametrize("step_s", [300, 900])
def test_each_limit_alone_keeps_it_silent(step_s: int) -> None:
    found = first_found(
        {
            "grown": Key(),
            "a little": Key(grown=1.07),
            "always half as many again": Key(grown=1.0, over=1.5),
            "more of half as many again": Key(over=1.5),
            # Of a fifth more the day shows 14 % after 30 hours: $1.51 and $1.37 a day over the usual $10.37 and $9.50.
            "for two dollars": Key(unit_usd=0.0016),
            "for one dollar": Key(unit_usd=0.0009),
            "for seven hours a day": Key(hours=7.0),
            "for five hours a day": Key(hours=5.0),
            "four in five minutes": Key(per_min=0.8, unit_usd=0.1, grown=1.3),
            "two in five minutes": Key(per_min=0.4, unit_usd=0.1, grown=1.3),
            "young": Key(since_days=3.0),
        },
        step_s,
    )
    assert set(found) == {
        "grown",
        "more of half as many again",
        "for two dollars",
        "for seven hours a day",
        "four in five minutes",
        "young",
    }
    assert 1440 < found["young"][0] <= 1440 + step_s // 60
    assert found["grown"][0] < 800


def test_a_burst_of_a_machine_counts_as_twice_what_users_explain() -> None:
    found = first_found({"twice": Key(grown=2.0), "forty times": Key(grown=40.0)}, 900, hours=4)
    assert found["twice"] == found["forty times"]


def test_after_an_incident_it_is_as_usual_until_it_has_grown_again() -> None:
    fleet, rule = Fleet(900), Creep(CreepConfig(), RuleContext(900))
    found: dict[str, list[int]] = {"k": [], "other": []}
    while fleet.now < JUMP + 2 * DAY:
        view = fleet.view([row for name in found for row in Key().rows(name, fleet.now, 900)])
        known = np.full(2, True)
        view.demand = Demand(view.principals.amounts.output_tokens, np.full(2, 0.01), known, known, known)
        for finding in rule.close(view):
            found[view.registry.tags[finding.series]["api_key"]].append((fleet.now - JUMP) // 60)
        if fleet.now == JUMP + 780 * 60:
            over = np.zeros(len(view.registry), np.bool_)
            over[[view.registry.tags[number].get("api_key") == "k" for number in range(len(over))]] = True
            rule.forget(view, over)
    assert found["other"][:3] == [780, 795, 810]
    assert found["k"][:2] == [780, 1530]


@pytest.mark.parametrize("gap", [True, False])
def test_a_gap_and_a_bucket_that_was_not_judged_teach_nothing(gap: bool) -> None:
    fleet, subject = Fleet(STEP_S), Judged()
    for _ in fleet.run(subject, T0 + 5 * DAY, lambda start: rows(start, flat, flat)):
        pass
    before = saved(subject.rule)
    view = fleet.view(rows(fleet.now, flat, flat), gap=gap)
    assert (subject.close(view) if gap else subject.rule.close(view)) == []
    after = saved(subject.rule)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == []


def test_state_goes_on_where_it_was_saved() -> None:
    fleet, one, again, found = Fleet(STEP_S), Judged(), Judged(), 0
    for _ in fleet.run(one, BEGIN + 2 * DAY, lambda start: rows(start, slowly(8), flat)):
        pass
    again.load(saved(one.rule))
    while fleet.now < BEGIN + 5 * DAY:
        view = fleet.view(rows(fleet.now, slowly(8), flat))
        findings = one.close(view)
        found += len(findings)
        assert again.close(view) == findings
    assert found
