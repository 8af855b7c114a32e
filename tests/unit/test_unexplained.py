"""Unexplained dollars: growth that users explain is silent, the same dollars without users are not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest

from curb.detector.heads.demand import Config as UnexplainedConfig
from curb.detector.heads.demand import P as DEMAND
from curb.detector.heads.demand import UnexplainedHead
from curb.detector.state.rule import Finding, RuleContext
from curb.detector.state.view import Raised
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

pytestmark = pytest.mark.long

STEP_S = 300
BEGIN = T0 + 4 * DAY + 10 * HOUR
Rows = Callable[[int], Iterable[Row] | None]


def head() -> UnexplainedHead:
    return UnexplainedHead(UnexplainedConfig(), RuleContext(STEP_S))


def day(start: int, *, users: bool = True, more: float = 1.0, more_users: float = 1.0, price: float = 1.0) -> list[Row]:
    """A key with a noisy working day; from BEGIN on it grows by the factors given, for three hours."""
    rng = random.Random(start)
    requests = (20 + 15 * math.sin(2 * math.pi * (start - T0) / DAY)) * rng.lognormvariate(0, 0.2)
    people = requests**0.75 * rng.lognormvariate(0, 0.1)
    unit_usd = 0.02 * rng.lognormvariate(0, 0.1)
    if BEGIN <= start < BEGIN + 3 * HOUR:
        requests, people, unit_usd = requests * more, people * more_users, unit_usd * price
    return [usage(cost=requests * unit_usd, requests=round(requests), users=round(people) if users else 0)]


def run(rows: Rows, subject: UnexplainedHead | None = None, until: int = BEGIN + 3 * HOUR) -> list[tuple[int, Finding]]:
    found = Fleet(STEP_S).run(subject or head(), until, rows)
    return [(at, each) for at, findings in found for each in findings]


@pytest.mark.parametrize("grown", [1.0, 3.0, 8.0])
def test_growth_that_users_explain_is_silent(grown: float) -> None:
    assert run(partial(day, more=grown, more_users=grown**0.75)) == []


@pytest.mark.parametrize(("grown", "minutes"), [(4.0, 60), (8.0, 30), (30.0, 15)])
def test_the_same_growth_without_users_is_found(grown: float, minutes: int) -> None:
    found = run(partial(day, more=grown))
    first, finding = found[0]
    assert BEGIN < first <= BEGIN + 60 * minutes
    assert (finding.kind, finding.family.name) == ("runaway", "unexplained")
    assert "times what its users explain" in finding.words
    assert {each.tier for _, each in found} >= {"page"}


@pytest.mark.parametrize(("limit_usd", "tiers"), [(5.0, {"notice", "page"}), (50.0, {"notice"})])
def test_what_is_not_surprising_enough_for_a_page_may_be_dear_enough(limit_usd: float, tiers: set[str]) -> None:
    settings = UnexplainedConfig(page_threshold=1e3, at_once_threshold=1e3, page_usd_per_hour=limit_usd)
    found = run(partial(day, more=4.0), UnexplainedHead(settings, RuleContext(STEP_S)))
    assert {each.tier for _, each in found} == tiers


@pytest.mark.parametrize(
    ("points", "tiers"),
    [(DEMAND.expensive_points - 0.1, {"notice"}), (DEMAND.expensive_points + 0.1, {"notice", "page"})],
)
def test_what_is_dear_and_hardly_more_than_a_notice_pages_nobody(points: float, tiers: set[str]) -> None:
    best = max(finding.score for _, finding in run(partial(day, more=4.0)))
    settings = UnexplainedConfig(
        notice_threshold=best - points, page_threshold=1e3, at_once_threshold=best - points, page_usd_per_hour=1.0
    )
    assert {
        each.tier for _, each in run(partial(day, more=4.0), UnexplainedHead(settings, RuleContext(STEP_S)))
    } == tiers


@pytest.mark.parametrize(("limit_usd", "tiers"), [(0.0, {"notice", "page"}), (1e3, {"notice"})])
def test_nobody_is_paged_for_what_costs_next_to_nothing(limit_usd: float, tiers: set[str]) -> None:
    found = run(partial(day, more=4.0), UnexplainedHead(UnexplainedConfig(page_usd=limit_usd), RuleContext(STEP_S)))
    assert {each.tier for _, each in found} == tiers


@pytest.mark.parametrize(
    ("raised", "tiers"),
    [(Raised(), {"notice", "page"}), (Raised(20, 0), {"page"}), (Raised(0, 20), {"notice"}), (Raised(20, 20), set())],
)
def test_too_many_alerts_raise_each_threshold_for_itself(raised: Raised, tiers: set[str]) -> None:
    fleet, subject, heard = Fleet(STEP_S), head(), set()
    while fleet.now < BEGIN + 3 * HOUR:
        view = fleet.view(day(fleet.now, more=4.0))
        view.raised = raised
        heard |= {each.tier for each in subject.close(view)}
    assert heard == tiers


def test_what_comes_every_night_is_found_on_the_first_two() -> None:
    def rows(start: int) -> list[Row]:
        night = (start - T0) % DAY // HOUR == 1
        batch = [usage(cost=20.0 * STEP_S / HOUR, requests=40, users=1)] if night and start >= T0 + 4 * DAY else []
        return day(start) + batch

    found = run(rows, until=T0 + 8 * DAY)
    assert {(at - T0) // DAY: each.recurring for at, each in found} == {4: False, 5: False, 6: True, 7: True}


def test_dearer_requests_are_found_although_users_are_the_same() -> None:
    first, finding = run(partial(day, price=5.0))[0]
    assert BEGIN < first <= BEGIN + HOUR
    assert finding.kind == "runaway"


def test_without_users_requests_are_believed_and_their_price_is_judged() -> None:
    assert run(partial(day, users=False, more=8.0)) == []
    first, finding = run(partial(day, users=False, price=8.0))[0]
    assert BEGIN < first <= BEGIN + HOUR
    assert "times what its requests explain" in finding.words


def test_without_users_it_takes_more() -> None:
    dearer = 3.0
    assert run(partial(day, price=dearer)) != []
    assert run(partial(day, users=False, price=dearer)) == []


def test_dollars_without_requests_are_not_judged() -> None:
    def rows(start: int) -> list[Row]:
        return [usage(cost=50.0, requests=0)] if start >= BEGIN and start % 600 else day(start)

    assert run(rows) == []


def test_nothing_is_said_of_a_key_known_for_two_days() -> None:
    def rows(start: int) -> list[Row]:
        return day(start, more=8.0) if start >= BEGIN - 2 * DAY else [usage("k2", requests=5)]

    assert run(rows) == []


def test_a_gap_teaches_nothing() -> None:
    fleet, subject = Fleet(STEP_S), head()
    for _ in fleet.run(subject, T0 + DAY + 2 * STEP_S, day):
        pass
    before = saved(subject)
    for _ in range(6):
        assert subject.close(fleet.view((), gap=True)) == []
    after = saved(subject)
    taught = [name for name in before if name.split(".")[0] in {"demand", "tail", "series"}]
    assert {name.split(".")[0] for name in taught} == {"demand", "tail", "series"}
    assert [name for name in taught if not np.array_equal(before[name], after[name])] == []


def test_a_gap_of_a_night_makes_no_finding() -> None:
    def rows(start: int) -> list[Row] | None:
        return None if BEGIN - 8 * HOUR <= start < BEGIN else day(start)

    assert run(rows) == []


def test_what_a_bucket_holds_does_not_change_what_it_is_judged_by() -> None:
    fleet, calm, wild = Fleet(STEP_S), head(), head()
    for _ in range(3 * 288):
        view = fleet.view(day(fleet.now))
        calm.close(view)
        wild.close(view)
    now = fleet.now
    judged: list[Any] = []
    for subject, price in ((calm, 1.0), (wild, 100.0)):
        fleet.now = now
        view = fleet.view([{**row, "cost": price * row["cost"]} for row in day(now)])
        subject.close(view)
        judged.append(view.demand)
    assert judged[0].unit_usd == judged[1].unit_usd > 0
    assert judged[0].organic == judged[1].organic
    assert saved(calm)["demand.fast_usd"] < saved(wild)["demand.fast_usd"]


@pytest.mark.parametrize("cut", [T0 + DAY, BEGIN + 600])
def test_state_goes_on_where_it_was_saved(cut: int) -> None:
    fleet, one, again = Fleet(STEP_S), head(), head()
    rows = partial(day, more=8.0)
    found = 0
    for _ in fleet.run(one, cut, rows):
        pass
    again.load(saved(one))
    while fleet.now < BEGIN + 2 * HOUR:
        view = fleet.view(rows(fleet.now))
        findings = one.close(view)
        found += len(findings)
        assert again.close(view) == findings
    assert found
    assert all(np.array_equal(array, saved(again)[name]) for name, array in saved(one).items())


def test_what_an_incident_burnt_is_no_reason_for_another_one() -> None:
    subject, fleet = head(), Fleet(STEP_S)
    rows = partial(day, more=30.0)
    for _ in fleet.run(subject, BEGIN + 3 * HOUR, rows):
        pass
    view = fleet.view(rows(fleet.now), firing=[0])
    assert subject.close(view)
    subject.forget(view, np.isin(np.arange(len(view.registry)), view.principals.index))
    assert [each for _, each in fleet.run(subject, BEGIN + 12 * HOUR, rows) if each] == []
