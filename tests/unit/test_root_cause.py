"""Which parts of a series explain an excess, and which series speaks for those around it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.incidents.causes import RootCause, rescaled
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.incidents.roots import found_at, roots
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import NOT_MEASURED, Family, Finding
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.detector.state.view import View
from curb.stream.records.spend import Cause
from curb.stream.time import DAY_S
from tests.fakes.spend import T0, bucket

KEY = {"team": "a", "project": "p", "api_key": "k"}
STEP_S = 300


class Fleet:
    """Series of the shipped scopes by their tags; buckets of five minutes in which each burns so many $/h."""

    def __init__(self, *series: Mapping[str, str], scopes: Sequence[Scope] = DEFAULT_SCOPES, age_days: float = 10):
        self.scopes, self.now = scopes, T0
        self.registry = SeriesRegistry(scopes, "UTC")
        self.cause = RootCause(scopes, self.registry)
        self.since = int(T0 - age_days * DAY_S)
        self.usual: float | None = None
        for tags in series:
            self.add(tags, self.since)

    def add(self, tags: Mapping[str, str], first_seen: int) -> int:
        """The number of the series with these tags; a job is a key's."""
        names = tuple(name for name in tags if name != "job")
        scope = next(each for each in self.scopes if each.group_by == names)
        return self.registry.number(scope.name, msgspec.json.encode(dict(tags)), first_seen)

    def view(
        self, rates: Sequence[float], expected: float = 0.0, frozen: Sequence[int] = (), gap: bool = False
    ) -> View:
        closed = bucket(self.now, rates, expected=expected, bucket_s=STEP_S)
        closed = type(closed)(closed.start, closed.end, closed.at, closed.amounts, closed.scores, gap)
        mask = np.zeros(len(rates), np.bool_)
        mask[list(frozen)] = True
        return View(closed, self.registry, Knowledge(self.scopes, "UTC"), float(self.since), mask, mask)

    def burn(self, rates: Sequence[float], steps: int = 1, *, expected: float | None = None, **more: Any) -> None:
        """What is expected of the first series, unless told, is what it burned at first."""
        self.usual = rates[0] if self.usual is None else self.usual
        for _ in range(steps):
            self.cause.close(self.view(rates, self.usual if expected is None else expected, **more))
            self.now += STEP_S

    def incident(self, rates: Sequence[float], steps: int = 12, **more: Any) -> None:
        self.burn(rates, steps, frozen=[0], **more)

    def causes(self, number: int, excess_usd: float = 100.0) -> list[tuple[dict[str, str], float]]:
        """Tags beyond the series' own, and share."""
        own = self.registry.tags[number]
        found = self.cause.causes(number, excess_usd)
        assert all(each.excess_usd == pytest.approx(each.share * excess_usd) for each in found)
        return [({k: v for k, v in each.tags.items() if k not in own}, round(each.share, 6)) for each in found]


def origin(model: str, region: str) -> dict[str, str]:
    return {**KEY, "model": model, "region": region}


def node(name: str) -> dict[str, str]:
    return {"team": "a", "group": "g", "node": name}


DAYS = 3 * DAY_S // STEP_S


# --- causes -----------------------------------------------------------------------------------------------------------


def test_a_key_with_one_model_and_region_has_no_finer_cause() -> None:
    fleet = Fleet(KEY, origin("m", "eu"))
    fleet.burn([2.0, 2.0], DAYS)
    fleet.incident([40.0, 40.0], 12)
    assert fleet.causes(0) == [({}, 1.0)]


def test_a_new_model_is_named_without_the_region_that_tells_nothing() -> None:
    fleet = Fleet(KEY, origin("small", "eu"), origin("large", "eu"))
    fleet.burn([2.0, 2.0, 0.0], DAYS)
    fleet.incident([40.0, 2.0, 38.0], 12)
    assert fleet.causes(0) == [({"model": "large"}, 1.0)]


def test_a_region_is_named_where_every_model_rose_in_it() -> None:
    fleet = Fleet(KEY, *(origin(model, region) for model in "xyz" for region in ("eu", "us")))
    fleet.burn([6.0] + [1.0] * 6, DAYS)
    fleet.incident([33.0] + [1.0, 10.0] * 3, 12)
    assert fleet.causes(0) == [({"region": "us"}, 1.0)]


def test_a_model_in_a_region_is_named_when_both_tell() -> None:
    fleet = Fleet(KEY, *(origin(model, region) for model in "xy" for region in ("eu", "us")))
    fleet.burn([8.0] + [2.0] * 4, DAYS)
    fleet.incident([48.0, 2.0, 2.0, 2.0, 42.0], 12)
    assert fleet.causes(0) == [({"model": "y", "region": "us"}, 1.0)]


def test_a_new_model_from_a_new_region_is_named_with_both() -> None:
    fleet = Fleet(KEY, origin("small", "eu"), origin("large", "ap"))
    fleet.burn([2.0, 2.0, 0.0], DAYS)
    fleet.incident([40.0, 2.0, 38.0])
    assert fleet.causes(0) == [({"model": "large", "region": "ap"}, 1.0)]


def test_shares_are_kept_of_another_excess() -> None:
    causes = [Cause(tags=KEY, excess_usd=6.0, share=0.6), Cause(tags=KEY, excess_usd=3.0, share=0.3)]
    assert [each.excess_usd for each in rescaled(causes, 100.0)] == [60.0, 30.0]
    assert [each.share for each in rescaled(causes, 100.0)] == [0.6, 0.3]


def test_where_all_rose_alike_the_key_itself_is_the_cause() -> None:
    fleet = Fleet(KEY, origin("x", "eu"), origin("y", "us"))
    fleet.burn([4.0, 1.0, 3.0], DAYS)
    fleet.incident([40.0, 10.0, 30.0], 12)
    assert fleet.causes(0) == [({}, 1.0)]


def test_the_largest_share_comes_first_and_enough_is_enough() -> None:
    fleet = Fleet(KEY, *(origin(model, "eu") for model in "abc"))
    fleet.burn([30.0, 10.0, 10.0, 10.0], DAYS)
    fleet.incident([60.0, 15.0, 30.0, 15.0], 24)
    assert [tags["model"] for tags, _ in fleet.causes(0)] == ["b", "a"]
    shares = [share for _, share in fleet.causes(0)]
    assert shares == pytest.approx([2 / 3, 1 / 6], abs=0.01)


def test_what_fell_explains_no_rise() -> None:
    fleet = Fleet(KEY, origin("old", "eu"), origin("new", "eu"))
    fleet.burn([10.0, 10.0, 0.0], DAYS)
    fleet.incident([30.0, 0.0, 30.0], 12)
    assert fleet.causes(0) == [({"model": "new"}, 1.0)]


def test_the_time_of_day_is_no_cause() -> None:
    """At noon everything costs twice its mean; one part costs more than that."""
    fleet = Fleet(KEY, origin("x", "eu"), origin("y", "eu"))
    fleet.burn([20.0, 16.0, 4.0], DAYS)
    fleet.incident([100.0, 32.0, 68.0], 24, expected=40.0)
    (cause,) = fleet.causes(0)
    assert cause[0] == {"model": "y"}
    assert cause[1] > 0.95


def test_a_frozen_key_learns_no_new_usual() -> None:
    fleet = Fleet(KEY, origin("x", "eu"), origin("y", "eu"))
    fleet.burn([2.0, 2.0, 0.0], DAYS)
    fleet.burn([40.0, 2.0, 38.0], 2 * DAYS, frozen=[0])
    assert fleet.causes(0) == [({"model": "y"}, 1.0)]
    fleet.burn([40.0, 2.0, 38.0], 5 * DAYS)
    assert fleet.causes(0) == [({}, 1.0)]


def test_a_gap_teaches_nothing() -> None:
    fleet = Fleet(KEY, origin("x", "eu"), origin("y", "eu"))
    fleet.burn([4.0, 2.0, 2.0], DAYS)
    before = {name: each.copy() for name, each in fleet.cause.dump().items()}
    fleet.burn([0.0, 0.0, 0.0], 20, gap=True)
    assert all(np.array_equal(each, before[name]) for name, each in fleet.cause.dump().items())


def test_of_a_key_of_today_all_spend_is_change() -> None:
    fleet = Fleet(KEY, origin("x", "eu"), origin("y", "us"), age_days=0.5)
    fleet.burn([10.0, 9.0, 1.0], 24)
    assert fleet.causes(0) == [({"model": "x", "region": "eu"}, 0.9)]


def test_the_nodes_that_were_added_explain_their_group() -> None:
    group = {"team": "a", "group": "g"}
    fleet = Fleet(group, *(node(f"n{i}") for i in range(5)))
    fleet.burn([3.0, 1.0, 1.0, 1.0, 0.0, 0.0], DAYS)
    fleet.incident([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 24)
    assert fleet.causes(0) == [({"node": "n3"}, 0.5), ({"node": "n4"}, 0.5)]


def test_thirty_new_nodes_are_the_group_itself() -> None:
    fleet = Fleet({"team": "a", "group": "g"}, *(node(f"n{i:02}") for i in range(30)))
    fleet.burn([0.0] * 31, DAYS)
    fleet.incident([30.0] + [1.0] * 30, 24)
    assert fleet.causes(0) == [({}, 1.0)]


def test_a_team_is_made_of_its_keys_jobs_and_machines() -> None:
    job = {**KEY, "job": "nightly"}
    fleet = Fleet({"team": "a"}, KEY, job, origin("m", "eu"), {"team": "a", "group": "g"}, node("n"))
    assert fleet.cause.parts(0) == []
    fleet.burn([7.0, 2.0, 0.0, 2.0, 5.0, 5.0], DAYS)
    assert fleet.cause.parts(0) == [1, 2, 5]
    fleet.incident([97.0, 2.0, 90.0, 92.0, 5.0, 5.0], 12)
    assert fleet.causes(0) == [({"project": "p", "api_key": "k", "job": "nightly"}, 1.0)]
    assert fleet.cause.parts(2) == []
    assert fleet.causes(2) == [({}, 1.0)]


def test_a_model_is_made_of_what_keys_spend_on_it() -> None:
    fleet = Fleet({"model": "m"}, KEY, origin("m", "eu"), {**KEY, "api_key": "k2", "model": "m", "region": "eu"})
    fleet.burn([4.0, 2.0, 2.0, 2.0], DAYS)
    fleet.incident([54.0, 2.0, 2.0, 52.0], 12)
    ((tags, share),) = fleet.causes(0)
    assert (tags["api_key"], share) == ("k2", 1.0)


def test_it_goes_on_where_it_was_saved() -> None:
    def make() -> Fleet:
        return Fleet(KEY, origin("x", "eu"), origin("y", "eu"))

    fleet, other = make(), make()
    fleet.burn([4.0, 3.0, 1.0], DAYS)
    other.cause.load({name: each.copy() for name, each in fleet.cause.dump().items()})
    other.now, other.usual = fleet.now, fleet.usual
    for each in (fleet, other):
        each.burn([40.0, 3.0, 37.0], 3)
    assert fleet.cause.causes(0, 9.0) == other.cause.causes(0, 9.0)


RATES = st.floats(0, 1000, allow_nan=False)
CELLS = list(itertools.product("abcd", ("eu", "us", "ap")))


@given(st.lists(st.tuples(RATES, RATES), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_shares_are_shares_and_the_order_does_not_matter(rates: list[tuple[float, float]], random: Any) -> None:
    parts = list(zip(CELLS, rates, strict=False))

    def found(shuffled: list[tuple[tuple[str, str], tuple[float, float]]]) -> list[Cause]:
        fleet = Fleet(KEY, *(origin(*cell) for cell, _ in shuffled))
        for which, steps in ((0, 30), (1, 12)):
            each = [rate[which] for _, rate in shuffled]
            fleet.burn([sum(rate[which] for _, rate in parts), *each], steps)
        return fleet.cause.causes(0, 10.0)

    causes = found(parts)
    assert 1 <= len(causes) <= 5
    assert all(0 < each.share <= 1 for each in causes)
    assert sum(each.share for each in causes) <= 1 + 1e-9
    assert [each.share for each in causes] == sorted((each.share for each in causes), reverse=True)
    assert all(each.tags.items() >= KEY.items() for each in causes)
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert found(shuffled) == causes


# --- roots ------------------------------------------------------------------------------------------------------------


def key(name: str, team: str = "a") -> dict[str, str]:
    return {"team": team, "project": "p", "api_key": name}


def speaks(fleet: Fleet, excess: Sequence[float], since: Mapping[int, float]) -> dict[int, int]:
    return roots(since, fleet.view([6.0 + each for each in excess], expected=6.0), fleet.scopes)


def at(*numbers: int, minutes: float = 0) -> dict[int, float]:
    return dict.fromkeys(numbers, T0 + 60.0 * minutes)


def test_a_single_child_is_its_own_root() -> None:
    fleet = Fleet({"team": "a"}, key("k"))
    assert speaks(fleet, [10.0, 10.0], at(1)) == {}


def test_a_child_that_explains_its_parent_speaks_for_it() -> None:
    fleet = Fleet({"team": "a"}, key("k"), key("l"))
    assert speaks(fleet, [10.0, 9.0, 1.0], at(0, 1)) == {0: 1}
    assert speaks(fleet, [10.0, 9.0, 1.0], at(0, 1, 2)) == {0: 1}


def test_children_at_once_are_one_alert_of_their_parent() -> None:
    fleet = Fleet({"team": "a"}, *(key(name) for name in "klm"))
    assert speaks(fleet, [30.0, 10.0, 10.0, 10.0], at(1, 2, 3)) == {1: 0, 2: 0, 3: 0}
    assert speaks(fleet, [30.0, 15.0, 15.0, 0.0], at(1, 2)) == {}
    assert speaks(fleet, [30.0, 15.0, 15.0, 0.0], at(0, 1, 2)) == {1: 0, 2: 0}


def test_children_that_came_at_other_times_speak_for_themselves() -> None:
    fleet = Fleet({"team": "a"}, *(key(name) for name in "klm"))
    since = at(1) | at(2, minutes=31) | at(3, minutes=62)
    assert speaks(fleet, [30.0, 10.0, 10.0, 10.0], since) == {}


def test_children_that_explain_too_little_speak_for_themselves() -> None:
    fleet = Fleet({"team": "a"}, *(key(name) for name in "klm"))
    assert speaks(fleet, [60.0, 10.0, 10.0, 10.0], at(1, 2, 3)) == {}


def test_nodes_speak_through_their_group_and_the_group_for_its_team() -> None:
    fleet = Fleet({"team": "a"}, {"team": "a", "group": "g"}, *(node(f"n{i}") for i in range(4)))
    excess = [40.0, 40.0, 10.0, 10.0, 10.0, 10.0]
    assert speaks(fleet, excess, at(0, 2, 3, 4, 5)) == {0: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    assert speaks(fleet, [44.0, *excess[1:]], at(1, 2, 3)) == {}


def test_a_job_is_no_part_of_its_key() -> None:
    fleet = Fleet(KEY, {**KEY, "job": "nightly"})
    assert speaks(fleet, [10.0, 10.0], at(0, 1)) == {}


def test_bills_are_no_part_of_usage() -> None:
    scopes = (
        Scope(name="account", group_by=("team",), sources=("costs",)),
        Scope(name="key", group_by=("team", "project", "api_key")),
    )
    fleet = Fleet({"team": "a"}, key("k"), scopes=scopes)
    assert speaks(fleet, [10.0, 10.0], at(0, 1)) == {}


def test_only_burns_are_found() -> None:
    def finding(kind: Any, tier: Any) -> list[Finding]:
        return [Finding(0, Family("x", NOT_MEASURED), kind, tier, 1.0, "")]

    findings = {
        1: finding("runaway", "page"),
        2: finding("feed", "notice"),
        3: finding("growth", "digest"),
        4: [*finding("growth", "digest"), *finding("abusive", "notice")],
        5: finding("runaway", "page"),
    }
    assert found_at(findings, {5: T0 - 60.0, 6: T0 - 90.0}, T0) == {1: T0, 4: T0, 5: T0 - 60.0, 6: T0 - 90.0}


@given(
    st.lists(st.floats(-50, 50), min_size=8, max_size=8),
    st.lists(st.floats(0, 90), min_size=8, max_size=8),
    st.sets(st.integers(0, 7)),
    st.randoms(use_true_random=False),
)
def test_every_root_speaks_for_itself_whatever_the_order(
    excess: list[float], minutes: list[float], found: set[int], random: Any
) -> None:
    series = [{"team": "a"}, {"team": "a", "group": "g"}, *(node(n) for n in "xyz"), *(key(k) for k in "klm")]
    order = list(range(len(series)))

    def told(order: list[int]) -> dict[int, int]:
        fleet = Fleet(*(series[i] for i in order))
        since = {order.index(i): T0 + 60 * minutes[i] for i in found}
        answer = speaks(fleet, [excess[i] for i in order], since)
        return {order[child]: order[root] for child, root in answer.items()}

    answer = told(order)
    assert answer.keys() <= found
    assert not answer.keys() & set(answer.values())
    random.shuffle(order)
    assert told(order) == answer
