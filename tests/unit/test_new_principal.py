"""Newcomers: a machine pages soon, people do not, and where users are unknown a sum has to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from curb.detector.rules.new_principal import Config as NewPrincipalConfig
from curb.detector.rules.new_principal import NewPrincipal
from curb.detector.state.rule import Finding, Rule, RuleContext
from curb.detector.state.view import Demand, View
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

STEP_S = 300
BORN = T0 + 4 * DAY


def rule() -> NewPrincipal:
    return NewPrincipal(NewPrincipalConfig(), RuleContext(STEP_S))


def old_keys() -> list[Row]:
    return [usage(f"old-{i}", 0.05, requests=20, users=10, input_tokens=20 * (500 + 100 * i)) for i in range(5)]


def born(key: Row, at: int = BORN) -> Callable[[int], Iterable[Row]]:
    return lambda start: [*old_keys(), key] if start >= at else old_keys()


def run(
    rows: Callable[[int], Iterable[Row]], until: int = BORN + DAY, subject: Rule | None = None
) -> list[tuple[int, Finding]]:
    found = Fleet(STEP_S).run(subject or rule(), until, rows)
    return [(at, each) for at, findings in found for each in findings]


def new(cost: float = 1.0, **amounts: float) -> Row:
    return {**usage("new", cost, requests=400, users=1, input_tokens=400 * 500), **amounts}


def test_a_newcomer_that_spends_like_a_machine_pages_at_its_limit() -> None:
    first, finding = run(born(new()))[0]
    assert BORN + 5 * STEP_S <= first <= BORN + 6 * STEP_S
    assert (finding.kind, finding.tier, finding.channel) == ("abusive", "page", "new_principal")
    assert finding.words == "new, and its users explain 0 % of its requests"
    assert finding.excess_usd == pytest.approx(5.0, rel=0.2)


def test_a_newcomer_with_its_people_is_silent() -> None:
    assert run(born(new(5.0, requests=400, users=400**0.75))) == []


@pytest.mark.parametrize(("share", "from_usd"), [(0.09, 5), (0.15, 20)])
def test_a_doubtful_newcomer_is_a_notice_until_much_is_at_stake(share: float, from_usd: int) -> None:
    found = run(born(new(1.0, users=(share * 400) ** 0.75)))
    (first, notice), (later, page) = found[0], next((at, each) for at, each in found if each.tier == "page")
    assert notice.tier == "notice"
    assert from_usd <= (first - BORN) / STEP_S <= 1.1 * from_usd + 1
    assert notice.words == f"new, and its users explain {100 * share:.0f} % of its requests"
    assert 100 <= page.excess_usd <= 102
    assert 100 <= (later - BORN) / STEP_S <= 130  # a day's sum leaks away meanwhile


def test_what_an_incident_spent_is_no_reason_for_another_one() -> None:
    found = []
    for ends in (False, True):
        fleet, subject = Fleet(STEP_S), rule()
        list(fleet.run(subject, BORN + 10 * STEP_S, born(new())))
        view = fleet.view([*old_keys(), new(0.1, requests=20, users=10)])
        if ends:
            subject.forget(view, np.ones(len(view.registry), np.bool_))
        found.append(bool(subject.close(view)))
    assert found == [True, False]


def test_prompts_unlike_anybody_elses_page() -> None:
    _, finding = run(born(new(users=200, input_tokens=400 * 20_000)))[0]
    assert finding.tier == "page"
    assert finding.words.startswith("20,000 input tokens per request, ")
    assert run(born(new(users=200, input_tokens=400 * 1_500))) == []


@pytest.mark.parametrize(("requests", "users"), [(400, 0), (0.01, 1)], ids=["no users told", "few large requests"])
def test_where_users_say_nothing_a_first_day_over_the_sum_pages(requests: float, users: float) -> None:
    key = new(1.0, requests=requests, users=users, input_tokens=500 * requests)
    first, finding = run(born(key))[0]
    assert BORN + 50 * STEP_S <= first <= BORN + 56 * STEP_S
    assert finding.words.endswith(" in its first day")
    assert run(born({**key, "cost": 0.15})) == []


def test_a_sum_that_is_usual_in_the_fleet_is_no_news() -> None:
    rich = [{**row, "cost": 2.0} for row in old_keys()]
    key = new(1.0, users=0)
    assert run(lambda start: [*rich, key] if start >= BORN else rich) == []


def test_while_the_stream_is_young_everybody_is_new() -> None:
    assert run(born(new(), at=T0 + 2 * DAY), until=T0 + 6 * DAY) == []
    assert run(born(new(), at=T0 + 3 * DAY), until=T0 + 4 * DAY) != []


def test_an_old_key_that_demand_does_not_know_is_judged_after_the_warm_up() -> None:
    first, _ = run(born(new(), at=T0), until=T0 + 4 * DAY, subject=Known(rule(), lambda view: [False] * 6))[0]
    assert first == T0 + 3 * DAY


def test_a_few_dollars_are_not_looked_at() -> None:
    assert run(born(new(4.9 / 288))) == []


class Known:
    """The rule after demand was judged: which principals are mature."""

    def __init__(self, subject: NewPrincipal, mature: Callable[[View], list[bool]]) -> None:
        self._subject, self._mature = subject, mature

    def close(self, view: View) -> list[Finding]:
        mature = view.bucket.cost[view.principals.index] > -1
        mature[:] = self._mature(view)
        zero = 0.0 * view.principals.amounts.cost
        view.demand = Demand(zero, zero, mature, mature, mature)
        return self._subject.close(view)

    def dump(self) -> dict[str, Any]:
        return self._subject.dump()

    def load(self, arrays: Mapping[str, Any]) -> None:
        self._subject.load(arrays)


def test_a_newcomer_is_one_until_demand_knows_it() -> None:
    def mature(view: View) -> list[bool]:
        return [age > 0.25 for age in view.principals.age_days]

    found = run(born(new()), subject=Known(rule(), mature))
    assert {at > BORN + 7 * HOUR for at, _ in found} == {False}
    assert run(born(new()), subject=Known(rule(), lambda view: [True] * len(view.principals.index))) == []


def test_a_key_that_was_silent_for_long_is_as_unknown_as_a_new_one() -> None:
    def rows(start: int) -> list[Row]:
        return [*old_keys(), new(1.0 if start >= BORN else 0.0)]

    def mature(view: View) -> list[bool]:
        return [view.registry.tags[i]["api_key"] != "new" for i in view.principals.index]

    assert run(rows, subject=Known(rule(), mature)) != []
    assert run(rows) == []


def test_state_goes_on_where_it_was_saved() -> None:
    fleet, one, again = Fleet(STEP_S), rule(), rule()
    rows, found = born(new()), 0
    for _ in fleet.run(one, BORN + 600, rows):
        pass
    again.load(saved(one))
    while fleet.now < BORN + 6 * HOUR:
        view = fleet.view(rows(fleet.now))
        findings = one.close(view)
        found += len(findings)
        assert again.close(view) == findings
    assert found
