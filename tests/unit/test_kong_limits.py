"""Periods of Kong's plugin: never above what was found, and in an order that Kong takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.levers.kong import PERIODS, gives_way, is_ordered, lowered, replacing
from tests.fakes.kong import plugin


@pytest.mark.parametrize(
    ("found", "after"),
    [
        ({"minute": 600}, {"minute": 20}),
        ({"minute": 20}, {}),
        ({"minute": 5}, {}),
        ({"hour": 5000}, {"minute": 20}),
        ({"hour": 20}, {}),
        ({"hour": 21}, {"minute": 20}),
        ({"year": 10}, {}),
        ({"second": 100}, {"minute": 20, "second": 20}),
        ({"second": 5}, {"minute": 20}),
        ({"second": 100, "minute": 600, "day": 9000}, {"minute": 20, "second": 20}),
        ({"second": 20, "minute": 600}, {"minute": 20}),
    ],
)
def test_an_existing_plugin(found: dict[str, int], after: dict[str, int]) -> None:
    assert lowered(found, 20) == after


@pytest.mark.parametrize(
    ("general", "limits"),
    [
        ([], {"minute": 20}),
        ([{"minute": 600}], {"minute": 20}),
        ([{"minute": 8}], {"minute": 8}),
        ([{"hour": 100}], {"minute": 20, "hour": 100}),
        ([{"hour": 10}], {"minute": 10, "hour": 10}),
        ([{"second": 50, "minute": 90}, {"day": 15}], {"second": 15, "minute": 15, "day": 15}),
        ([{"hour": 500, "day": 400}, {"day": 9000}], {"minute": 20, "hour": 400, "day": 400}),
    ],
)
def test_a_plugin_that_takes_the_place_of_others(general: list[dict[str, int]], limits: dict[str, int]) -> None:
    everything = [dict.fromkeys(PERIODS) | each for each in general]
    assert replacing(everything, 20) == limits


periods = st.dictionaries(st.sampled_from(PERIODS), st.integers(1, 10_000), min_size=1)


@given(periods.filter(is_ordered), st.integers(1, 1000))
def test_a_lowered_plugin_is_one_that_kong_takes(found: dict[str, int], per_minute: int) -> None:
    after = lowered(found, per_minute)
    assert all(found.get(period) is None or value < found[period] for period, value in after.items())
    assert is_ordered(found | after)


@given(st.lists(periods, max_size=4), st.integers(1, 1000))
def test_a_new_plugin_is_one_that_kong_takes_and_allows_nothing_that_others_did_not(
    general: list[dict[str, int]], per_minute: int
) -> None:
    limits = replacing([dict.fromkeys(PERIODS) | each for each in general], per_minute)
    assert is_ordered(limits)
    assert limits["minute"] <= per_minute
    for each in general:
        assert all(limits[period] <= value for period, value in each.items())


@pytest.mark.parametrize(
    ("limits", "ordered"),
    [({}, False), ({"hour": 5}, True), ({"minute": 5, "hour": 5}, True), ({"second": 6, "hour": 5}, False)],
)
def test_the_order_kong_asks_for(limits: dict[str, int], ordered: bool) -> None:
    assert is_ordered(dict.fromkeys(PERIODS) | limits) is ordered


@pytest.mark.parametrize(
    ("scope", "to", "within", "yields"),
    [
        ({}, {"consumer": "c1"}, {}, True),
        ({"service": "s1"}, {"consumer": "c1"}, {}, True),
        ({"route": "r1"}, {"consumer": "c1"}, {}, True),
        ({"consumer": "c2"}, {"consumer": "c1"}, {}, False),
        ({}, {"route": "r1"}, {"service": "s1"}, True),
        ({"service": "s1"}, {"route": "r1"}, {"service": "s1"}, True),
        ({"service": "s2"}, {"route": "r1"}, {"service": "s1"}, False),
        ({"service": "s1"}, {"route": "r1"}, {}, False),
        ({"route": "r2"}, {"service": "s1"}, {}, False),
        ({}, {"service": "s1"}, {}, True),
    ],
)
def test_which_plugins_a_new_one_replaces(scope: Any, to: Any, within: Any, yields: bool) -> None:
    assert gives_way(plugin("p", scope=scope, minute=1), to, within) is yields
