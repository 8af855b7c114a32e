"""Newcomers: a machine pages soon, people do not, and where users are unknown a sum has to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from curb.detector.rules.new_principal import Config as NewPrincipalConfig
from curb.detector.rules.new_principal import NewPrincipal
from curb.detector.state.rule import Finding, Rule, RuleContext
from curb.detector.state.view import Demand, View
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

pytestmark = pytest.mark.long

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


def test_an_old_key_of_whose_users_too_little_was_seen_pages_only_where_no_users_explain_its_requests() -> None:
    subject = Known(rule(), lambda view: [True] * 6, users=False)
    first, found = run(born(new(), at=T0), until=T0 + 4 * DAY, subject=subject)[0]
    assert (first, found.tier) == (T0 + 3 * DAY, "page")
    assert "hardly used before" in found.words
    assert run(born(new(), at=T0), until=T0 + 4 * DAY, subject=Known(rule(), lambda view: [True] * 6)) == []


def test_a_few_dollars_are_not_looked_at() -> None:
    assert run(born(new(4.9 / 288))) == []


class Known:
    """The rule after demand was judged: which principals are mature, and whether it knows what users explain."""

    def __init__(self, subject: NewPrincipal, mature: Callable[[View], list[bool]], users: bool = True) -> None:
        self._subject, self._mature, self._users = subject, mature, users

    def close(self, view: View) -> list[Finding]:
        mature = view.bucket.cost[view.principals.index] > -1
        mature[:] = self._mature(view)
        zero = 0.0 * view.principals.amounts.cost
        view.demand = Demand(zero, zero, mature & self._users, mature, mature)
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


class Newcomer(NamedTuple):
    """A key that comes at `BIRTH`: dollars and requests an hour, the share of them that its users explain, prompts."""

    usd: float = 12.0
    requests: float = 1200.0
    share: float = 1.0
    tokens: float = 1000.0
    job: str | None = None

    def row(self, name: str, step_s: int) -> Row:
        requests = self.requests * step_s / HOUR
        return usage(
            name,
            self.usd * step_s / HOUR,
            requests=requests,
            users=(self.share * requests) ** 0.75,
            input_tokens=requests * self.tokens,
            job=self.job,
        )


#: Five keys with prompts of 1,000 tokens are known for 30 hours then, and the stream is ten days old.
BIRTH = T0 + 30 * HOUR


def firsts(keys: Mapping[str, Newcomer], step_s: int, hours: float = 12) -> dict[str, list[tuple[int, str, str]]]:
    """Of each newcomer, the minutes after BIRTH, the tier and the words of its first finding of each tier."""
    fleet = Fleet(step_s, stream_since=T0 - 10 * DAY)
    subject = NewPrincipal(NewPrincipalConfig(), RuleContext(step_s))
    old = {f"old-{i}": Newcomer(usd=0.6, requests=240.0) for i in range(5)}

    def rows(start: int) -> list[Row]:
        here = {**old, **(keys if start >= BIRTH else {})}
        return [key.row(name, step_s) for name, key in here.items()]

    found: dict[str, list[tuple[int, str, str]]] = {}
    for at, findings in fleet.run(subject, BIRTH + int(hours * HOUR), rows):
        for each in findings:
            seen = found.setdefault(fleet.registry.tags[each.series]["api_key"], [])
            if each.tier not in {tier for _, tier, _ in seen}:
                seen.append(((at - BIRTH) // 60, each.tier, each.words))
    return {name: seen for name, seen in found.items() if not name.startswith("old")}


@pytest.mark.parametrize("step_s", [300, 900])
def test_users_explain_requests_to_the_power_of_four_thirds(step_s: int) -> None:
    found = firsts(
        {f"{percent} %": Newcomer(share=percent / 100) for percent in (6, 8, 11, 13, 19, 21)},
        step_s,
    )
    # $5 are spent after 25 minutes, $20 after 100 and $100 after 500, a little later since a day's sum leaks.
    expected = {"6 %": [("page", 25)], "8 %": [("notice", 25), ("page", 500)], "11 %": [("notice", 25), ("page", 500)]}
    expected |= {"13 %": [("notice", 100), ("page", 500)], "19 %": [("notice", 100), ("page", 500)]}
    assert {name: [tier for _, tier, _ in seen] for name, seen in found.items()} == {
        name: [tier for tier, _ in tiers] for name, tiers in expected.items()
    }
    for name, tiers in expected.items():
        for (minutes, _, words), (_, least) in zip(found[name], tiers, strict=True):
            assert least < minutes <= 1.25 * least + step_s // 60
            assert words == f"new, and its users explain {name} of its requests"


@pytest.mark.parametrize("step_s", [300, 900])
def test_prompts_are_compared_with_the_largest_of_the_fleet(step_s: int) -> None:
    # 1,000 tokens are in the bin up to 1,097; three times that are 3,290.
    found = firsts({"large": Newcomer(tokens=3300), "a little less": Newcomer(tokens=3280)}, step_s, hours=2)
    assert set(found) == {"large"}
    assert found["large"][0][1:] == (
        "page",
        "3,300 input tokens per request, 3.0 times what the largest prompts of the fleet have",
    )


@pytest.mark.parametrize("step_s", [300, 900])
def test_a_new_job_is_only_asked_for_its_prompts(step_s: int) -> None:
    found = firsts(
        {
            "large": Newcomer(tokens=3300, job="j"),
            "ordinary": Newcomer(tokens=3280, share=0.0, job="k"),
            "few": Newcomer(tokens=3300, requests=9.0, job="l"),
            "cheap": Newcomer(tokens=3300, usd=2.0, job="m"),
        },
        step_s,
        hours=2,
    )
    assert found["large"][0][1:] == (
        "page",
        "a new job with 3,300 input tokens per request, 3.0 times what the largest prompts of the fleet have",
    )
    said = {name: [words for _, _, words in seen] for name, seen in found.items() if name != "large"}
    assert [words for each in said.values() for words in each if words.startswith("a new job")] == []
    assert 25 < found["large"][0][0] <= 45


@pytest.mark.parametrize("step_s", [300, 900])
def test_where_nothing_is_known_of_users_a_first_day_over_fifty_dollars_pages(step_s: int) -> None:
    found = firsts(
        {
            "unknown": Newcomer(share=0.0),
            "few requests": Newcomer(requests=0.7),
            "cheap": Newcomer(share=0.0, usd=2.0),
            "slow": Newcomer(share=0.0, usd=3.4),
            "too slow": Newcomer(share=0.0, usd=3.2),
        },
        step_s,
        hours=30,
    )
    # Of $3.40 an hour the sum that leaks away over a day comes to $51.60 in it, of $3.20 to $48.50.
    assert {name: tier for name, ((_, tier, _), *_) in found.items()} == dict.fromkeys(
        ("unknown", "few requests", "slow"), "page"
    )
    # $50 at $12 an hour, with what leaks away.
    for name in ("unknown", "few requests"):
        assert 250 < found[name][0][0] <= 290
