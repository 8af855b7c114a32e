"""Unit economics: which scope, which quotient, the last day as a metric, and what has no tag."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from curb.config.file import ConfigErrors, load_text
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode_lines
from curb.stream.records.spend import UNTAGGED, SpendPartial, SpendTick
from curb.views.unit_costs import RecentUnits, UnitSums, WantedUnitCost, resolve, runs, untagged_percent
from curb.views.unit_view import UnitView

CUSTOMERS = Scope(name="customer", group_by=("team", "customer"))
DETECTOR = DetectorSettings(scopes=(*DetectorSettings().scopes, CUSTOMERS))


def part(scope: str, usd: float, start: int = 0, requests: int = 0, tokens: int = 0, **tags: str) -> SpendPartial:
    return SpendPartial(
        scope=scope,
        tags=tags,
        bucket_start=start,
        effective_cost=usd,
        events=1,
        requests=requests,
        input_tokens=tokens,
    )


def per_unit(unit: str, *parts: SpendPartial, by: str = "team") -> dict[str, Any]:
    sums = UnitSums(resolve(WantedUnitCost(by=(by,), unit=unit), DETECTOR), run_gap_s=5400)
    for each in parts:
        sums.add(each)
    return {row["tags"][by]: (row["units"], row["usd_per_unit"]) for row in sums.rows()}


@pytest.mark.parametrize(
    ("by", "unit", "scope", "found"),
    [
        (("team",), "requests", None, "team"),
        (("model",), "tokens", None, "model"),
        (("job",), "runs", None, "key"),
        (("team",), "customer", None, "customer"),
        (("team",), "requests", "key", "key"),
    ],
)
def test_the_smallest_scope_with_the_tags_is_taken(
    by: tuple[str, ...], unit: str, scope: str | None, found: str
) -> None:
    assert resolve(WantedUnitCost(by=by, unit=unit, scope=scope), DETECTOR).scope.name == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"by": ["planet"], "unit": "requests"}, "no scope has the tags planet; there are key: "),
        ({"by": ["team"], "unit": "requests", "scope": "model"}, "the scope model does not have the tags team"),
    ],
)
def test_tags_that_no_scope_has_are_named(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(WantedUnitCost.model_validate(wanted), DETECTOR)
    with pytest.raises(ConfigErrors, match=r"no scope|does not have"):
        load_text(f"unit_costs: [{wanted}]")


def test_per_request_and_per_thousand_tokens() -> None:
    parts = [
        part("team", 2.0, requests=10, tokens=3000, team="a"),
        part("team", 1.0, requests=5, tokens=1000, team="a"),
        part("team", 9.0, team="b"),
        part("key", 50.0, requests=1, team="a"),
    ]
    assert per_unit("requests", *parts) == {"b": (0, None), "a": (15, pytest.approx(0.2))}
    assert per_unit("tokens", *parts)["a"] == (4.0, pytest.approx(0.75))


def test_per_customer_leaves_out_what_belongs_to_none() -> None:
    parts = [
        part("customer", 2.0, team="a", customer="x"),
        part("customer", 4.0, team="a", customer="y"),
        part("customer", 3.0, 60, team="a", customer="y"),
        part("customer", 70.0, team="a", customer=UNTAGGED),
    ]
    assert per_unit("customer", *parts) == {"a": (2, pytest.approx(4.5))}


def test_per_run_of_a_training_job() -> None:
    hour = 3600
    parts = [
        part("key", 10.0, start, team="a", project="p", api_key="k", job="train")
        for start in (0, hour, 2 * hour, 24 * hour, 25 * hour)
    ]
    assert per_unit("runs", *parts, by="job") == {"train": (2, pytest.approx(25.0))}
    assert runs([], 60) == 0


def test_what_has_no_tag_is_a_percentage() -> None:
    rows = [
        {"tags": {"team": "a", "project": UNTAGGED}, "total_usd": 3.0},
        {"tags": {"team": UNTAGGED, "project": UNTAGGED}, "total_usd": 1.0},
    ]
    assert untagged_percent(rows) == {"team": 25.0, "project": 100.0}
    assert untagged_percent([{"tags": {"team": UNTAGGED}, "total_usd": 0.0}]) == {}


def test_the_last_day_is_a_metric() -> None:
    recent = RecentUnits([resolve(WantedUnitCost(by=("team",), unit="requests"), DETECTOR)], run_gap_s=5400)
    view = UnitView(recent)
    day = 24 * 3600
    old, new = part("team", 100.0, requests=1, team="a"), part("team", 2.0, day, requests=4, team="a")
    other = part("model", 7.0, day, requests=1, model="a")
    view.take(encode_lines([old, other]) + b'broken "scope":"team"\n' + encode_lines([SpendTick(at=1.0)]))
    assert recent.rows()[0][1][0]["usd_per_unit"] == 100.0
    view.take(encode_lines([new, new, old]))
    view.publish()
    labels = {"by": "team", "value": "a", "unit": "requests"}
    assert REGISTRY.get_sample_value("curb_unit_cost_usd", labels) == 0.5
    assert recent.rows()[0][1][0]["total_usd"] == 4.0
