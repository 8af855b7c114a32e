"""New models and regions of a key: dearer models and rare regions page, once, and not what is in steady use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from curb.detector.rules.new_origin import Config as NewOriginConfig
from curb.detector.rules.new_origin import NewOrigins
from curb.detector.state.rule import Finding, RuleContext
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

pytestmark = pytest.mark.long

STEP_S = 300
LATER = T0 + 2 * DAY + 9 * HOUR
Rows = Callable[[int], Iterable[Row]]


def spend(
    usd: float = 0.5, *, key: str = "k1", model: str = "small", region: str = "eu", usd_per_mtok: float = 1.0
) -> Row:
    """Dollars of a key on a model from a region; input tokens as many as its price gives."""
    tags = {"team": "a", "project": "p", "api_key": key, "model": model, "region": region}
    return {**usage(cost=usd, requests=10, input_tokens=1e6 * usd / usd_per_mtok), "tags": tags}


def others(region: str = "eu", count: int = 20) -> list[Row]:
    return [spend(0.1, key=f"other-{i}", region=region) for i in range(count)]


def run(rows: Rows, until: int = LATER + DAY + 2 * HOUR) -> list[tuple[int, Finding]]:
    fleet = Fleet(STEP_S)
    rule = NewOrigins(NewOriginConfig(), RuleContext(STEP_S))
    found = [(at, each) for at, findings in fleet.run(rule, until, rows) for each in findings]
    for _, finding in found:
        assert fleet.registry.scopes[finding.series] == "key"
        assert fleet.registry.tags[finding.series]["api_key"] == "k1"
    return found


def then(*new: Row, at: int = LATER) -> Rows:
    return lambda start: [*others(), spend(), *(new if start >= at else ())]


def test_a_dearer_model_pages_from_two_dollars_on_for_a_day() -> None:
    found = run(then(spend(0.5, model="large", usd_per_mtok=10.0)))
    first, finding = found[0]
    assert first == LATER + 5 * STEP_S
    assert (finding.kind, finding.tier, finding.channel) == ("unit_cost", "page", "new_model")
    assert finding.words == "$2.48 on large, which it has not used before, at 9.9 times its usual price"
    assert finding.excess_usd == pytest.approx(2.48, abs=0.01)
    assert found[-1][0] <= LATER + DAY + 2 * STEP_S


@pytest.mark.parametrize("usd_per_mtok", [0.3, 1.0, 1.9], ids=["cheaper", "as dear", "a little dearer"])
def test_a_model_that_is_not_twice_as_dear_is_silent(usd_per_mtok: float) -> None:
    assert run(then(spend(1.0, model="other", usd_per_mtok=usd_per_mtok))) == []


def test_a_trial_of_two_dollars_a_day_is_silent() -> None:
    assert run(then(spend(1.9 / 288, model="large", usd_per_mtok=10.0))) == []


@pytest.mark.parametrize(("hours", "finds"), [(23, False), (25, True)])
def test_a_key_known_for_less_than_a_day_has_nothing_new(hours: int, finds: bool) -> None:
    assert bool(run(then(spend(1.0, model="large", usd_per_mtok=10.0), at=T0 + hours * HOUR))) == finds


def test_a_model_that_comes_back_after_a_day_is_new_again() -> None:
    def rows(away_from: int) -> Rows:
        used = spend(1.0, model="large", usd_per_mtok=10.0)
        return lambda start: [*others(), spend(5.0), *(() if away_from <= start < LATER else [used])]

    first, finding = run(rows(LATER - DAY - HOUR))[0]
    assert LATER < first <= LATER + 2 * STEP_S
    assert finding.channel == "new_model"
    assert run(rows(LATER - DAY + HOUR)) == []


def test_a_region_few_keys_use_pages() -> None:
    first, finding = run(then(spend(0.5, region="elsewhere")))[0]
    assert first == LATER + 5 * STEP_S
    assert (finding.kind, finding.tier, finding.channel) == ("abusive", "page", "new_region")
    assert finding.words == "$2.48 from region elsewhere, which 5 % of the keys use"


def test_a_region_that_is_common_in_the_fleet_is_silent() -> None:
    def rows(start: int) -> list[Row]:
        here = [spend(1.0, region="us")] if start >= LATER else []
        return [
            *others("eu", 10),
            spend(0.1, key="other-us-1", region="us"),
            spend(0.1, key="other-us-2", region="us"),
            spend(),
            *here,
        ]

    assert run(rows) == []


def test_several_models_and_regions_in_steady_use_are_silent() -> None:
    def rows(start: int) -> list[Row]:
        hour = (start - T0) // HOUR
        mixed = [
            spend(0.5 * price, model=model, region=region, usd_per_mtok=price)
            for model, price in (("small", 1.0), ("middle", 4.0), ("large", 15.0))
            for region in ("eu", "us", "ap")
        ]
        return [*others(), mixed[hour % 9], mixed[(2 * hour + 1) % 9]]

    assert run(rows) == []


def test_what_carries_no_model_and_no_region_is_never_new() -> None:
    tags = {"team": "a", "project": "p", "api_key": "k1"}
    assert run(then({**usage(cost=9.0, requests=1, input_tokens=10), "tags": tags})) == []


@pytest.mark.parametrize("cut", [T0 + DAY, LATER + 2 * STEP_S, LATER + 6 * HOUR])
def test_state_goes_on_where_it_was_saved(cut: int) -> None:
    fleet = Fleet(STEP_S)
    one, again = (NewOrigins(NewOriginConfig(), RuleContext(STEP_S)) for _ in range(2))
    rows, found = then(spend(0.5, model="large", region="elsewhere", usd_per_mtok=10.0)), set()
    for _ in fleet.run(one, cut, rows):
        pass
    again.load(saved(one))
    while fleet.now < LATER + 8 * HOUR:
        view = fleet.view(rows(fleet.now))
        findings = one.close(view)
        found |= {each.channel for each in findings}
        assert again.close(view) == findings
    assert found == {"new_model", "new_region"}
