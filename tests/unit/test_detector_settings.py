"""Configuration of the detector: wrong values are named, the defaults are those of the documentation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope, partition_of
from curb.stream.records.spend import UNTAGGED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bucket_s": 7}, "bucket_s must divide 3600; 7 does not"),
        ({"time_zone": "Mars/Base"}, "unknown time zone 'Mars/Base'"),
        ({"time_zone": "../etc"}, "unknown time zone"),
        ({"scopes": []}, "at least 1 item"),
        ({"scopes": [{"name": "a", "group_by": ["x"]}] * 2}, "scope a is defined twice"),
        ({"scopes": [{"name": "a", "group_by": ["x", "x"]}]}, "scope a names x twice"),
        ({"scopes": [{"name": "a", "group_by": ["x"], "also_by": ["x"]}]}, "scope a names x twice"),
        ({"budgets": [{"name": "b", "scope": "nope", "amount_usd": 1}]}, "budget b: no scope 'nope'; there are key, "),
        (
            {"budgets": [{"name": "b", "scope": "team", "amount_usd": 1, "match": {"env": "*"}}]},
            "budget b: scope team has no tag env",
        ),
        ({"budgets": [{"name": "b", "scope": "team", "amount_usd": 0}]}, "greater than 0"),
        ({"budgets": [{"name": "b", "scope": "team", "amount_usd": 1, "thresholds": [0]}]}, "greater than 0"),
        ({"budgets": [{"name": "b", "scope": "team", "amount_usd": 1, "time_zone": "X"}]}, "unknown time zone 'X'"),
        ({"budgets": [{"name": "b", "scope": "team", "amount_usd": 1}] * 2}, "budget b is defined twice"),
        ({"graze_s": 1}, "graze_s"),
    ],
)
def test_wrong_values_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DetectorSettings(**given)
    assert message in str(caught.value)


def test_thresholds_are_sorted_and_distinct() -> None:
    (budget,) = DetectorSettings(
        budgets=[{"name": "b", "scope": "team", "amount_usd": 1, "thresholds": [100, 50, 50]}]  # type: ignore[arg-type]
    ).budgets
    assert budget.thresholds == (50, 100)


def test_series_of_a_scope() -> None:
    key = DEFAULT_SCOPES[0]
    tags = {"api_key": "k", "team": "t", "model": "m", "job": "j"}
    assert key.series(tags) == (("team", "t"), ("project", UNTAGGED), ("api_key", "k"), ("job", "j"))
    assert DEFAULT_SCOPES[1].series(tags) == (("team", "t"),)


def test_partitions_are_the_same_everywhere_and_even() -> None:
    scope = Scope(name="key", group_by=("api_key",))
    assert partition_of(scope.series({"api_key": "k1"}), 8) == 4
    counts = [0] * 8
    for at in range(8000):
        counts[partition_of(scope.series({"api_key": f"k{at}"}), 8)] += 1
    assert min(counts) > 900


@pytest.mark.parametrize("team", ["a", "b", UNTAGGED])
def test_what_the_rules_compare_is_in_one_partition(team: str) -> None:
    tags = {"team": team, "api_key": "k", "model": "m", "region": "r", "job": "j", "group": "g", "node": "n"}
    of_one_team = [scope for scope in DEFAULT_SCOPES if scope.group_by[0] == "team"]
    assert {scope.name for scope in of_one_team} == {"key", "team", "origin", "node", "group"}
    assert len({partition_of(scope.series(tags), 64) for scope in of_one_team}) == 1
