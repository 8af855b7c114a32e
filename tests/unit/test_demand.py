"""DemandModel: requests that users explain, and the usual dollars per request, whatever one odd day does to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from curb.detector.heads.demand_model import DemandModel

AGE = np.array([5.0])


def one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([value])


def taught(
    users: Callable[[float], float], steps: int = 400, usd: float = 0.02, low: float = 10, high: float = 200
) -> DemandModel:
    """One series whose requests swing between `low` and `high`."""
    demand = DemandModel(5.0, 4)
    demand.columns.grow(1)
    for step in range(steps):
        requests = low + (high - low) * (0.5 + 0.5 * np.sin(step / 10))
        demand.learn(one(usd * requests), one(requests), one(users(requests)), AGE, np.array([False]))
    return demand


def test_the_own_law_of_users_and_requests_is_learned() -> None:
    demand = taught(lambda requests: 2 * requests**0.6)
    assert demand.knows_users[0]
    assert demand.organic(one(100.0), one(2 * 50**0.6))[0] == pytest.approx(50, rel=1e-6)
    assert demand.organic(one(100.0), one(2 * 100**0.6))[0] == pytest.approx(100, rel=1e-6)


def test_without_spread_of_requests_the_usual_law_holds() -> None:
    demand = taught(lambda _: 40.0, low=100, high=101)
    assert demand.organic(one(1000.0), one(80.0))[0] == pytest.approx(100.5 * 2 ** (1 / 0.75), rel=0.01)


def test_users_explain_little_more_than_the_requests_there_are() -> None:
    demand = taught(lambda requests: requests**0.75)
    assert demand.organic(one(10.0), one(1000.0))[0] == 15.0


def test_nobody_explains_next_to_nothing() -> None:
    demand = taught(lambda requests: requests**0.75)
    assert demand.organic(one(100.0), one(0.0))[0] < 1


@pytest.mark.parametrize(("missing_every", "known"), [(100, True), (20, False)])
def test_users_that_are_often_missing_are_unknown_and_not_nobody(missing_every: int, known: bool) -> None:
    count = iter(range(10**6))
    demand = taught(lambda requests: 0.0 if next(count) % missing_every == 0 else requests**0.75)
    assert bool(demand.knows_users[0]) is known
    assert bool(demand.reports_users[0]) is known
    organic = demand.organic(one(100.0), one(0.0))[0]
    assert organic < 1 if known else organic == 100


def test_who_never_told_users_is_explained_by_its_requests() -> None:
    demand = taught(lambda _: 0.0)
    assert not demand.knows_users[0]
    assert demand.organic(one(700.0), one(0.0))[0] == 700


def test_the_price_of_a_request_rises_slowly_and_falls_quickly() -> None:
    dearer, cheaper = taught(lambda _: 0.0, steps=600), taught(lambda _: 0.0, steps=600)
    for _ in range(100):
        dearer.learn(one(0.04 * 100), one(100.0), one(0.0), AGE, np.array([False]))
        cheaper.learn(one(0.01 * 100), one(100.0), one(0.0), AGE, np.array([False]))
    assert 0.02 < dearer.unit_usd[0] < 0.03
    assert 0.01 < cheaper.unit_usd[0] < 0.02
    assert 0.02 / cheaper.unit_usd[0] > dearer.unit_usd[0] / 0.02


def test_one_absurd_request_counts_as_two_and_a_half() -> None:
    demand = taught(lambda _: 0.0)
    before = float(demand.unit_usd[0])
    demand.learn(one(1e6), one(10.0), one(0.0), AGE, np.array([False]))
    assert before < demand.unit_usd[0] < 1.01 * before


def test_a_frozen_series_keeps_its_price() -> None:
    demand = taught(lambda requests: requests**0.75)
    before = demand.unit_usd.copy()
    demand.learn(one(90.0), one(100.0), one(1.0), AGE, np.array([True]))
    assert demand.unit_usd == before


@pytest.mark.parametrize(("steps", "age_days", "mature"), [(400, 5.0, True), (400, 2.4, False), (11, 5.0, False)])
def test_maturity_takes_days_and_requests(steps: int, age_days: float, mature: bool) -> None:
    assert bool(taught(lambda _: 0.0, steps=steps).mature(one(age_days))[0]) is mature


def test_the_fit_fades_and_the_price_stays() -> None:
    demand = taught(lambda requests: requests**0.75)
    before = demand.unit_usd.copy()
    demand.fade(24 * 21)
    assert not demand.knows_users[0]
    assert demand.unit_usd == before


def fleet(steps: int = 500, hardly: int = 40, reports: bool = True) -> DemandModel:
    """Ten keys in use all the time, at $0.01 to $0.10 a request; one, the last, for `hardly` steps at $0.001."""
    demand, prices = DemandModel(5.0, 11), np.append(np.arange(1, 11) * 0.01, 0.001)
    demand.columns.grow(11)
    for step in range(steps):
        requests = np.full(11, 50.0 + 40 * np.sin(step / 10))
        requests[-1] *= step < hardly
        users = requests**0.75 * (1.0 if reports else 0.0)
        demand.learn(prices * requests, requests, users, np.full(11, 5.0), np.zeros(11, np.bool_))
    return demand


def explained(demand: DemandModel, price: float, users: float, row: int = -1) -> float:
    """The share of the dollars of 100 requests at `price` that is explained."""
    requests, people = np.full(11, 100.0), np.full(11, users)
    usd = price * requests
    organic = demand.organic(requests, people)
    return float((demand.explained_usd(usd, requests, people, organic) / usd)[row])


def test_a_hardly_used_key_may_cost_what_is_ordinary_in_the_fleet() -> None:
    assert explained(fleet(), 0.05, 100**0.75) == pytest.approx(1.0)
    assert explained(fleet(), 1.0, 100**0.75) == pytest.approx(0.0955, rel=0.01)


def test_what_nobody_asks_for_may_cost_no_more_than_ever() -> None:
    for hardly in (40, 80):  # users are known well enough for a law of its own from 50 steps on
        assert explained(fleet(hardly=hardly), 0.05, 1.0) < 0.03


@pytest.mark.parametrize(("steps", "share"), [(431, 1.0), (432, 0.02)])
def test_the_price_of_a_key_is_known_after_36_hours_of_use(steps: int, share: float) -> None:
    assert explained(fleet(steps=900, hardly=steps), 0.05, 100**0.75) == pytest.approx(share, rel=0.01)


def test_without_users_or_a_fleet_the_own_price_counts() -> None:
    assert explained(fleet(reports=False), 0.05, 0.0) == pytest.approx(0.02)
    assert explained(fleet(steps=431), 0.05, 100**0.75) == pytest.approx(0.02)


def test_a_hardly_used_key_that_becomes_cheaper_is_explained_as_before() -> None:
    assert explained(fleet(), 0.0005, 100**0.75) == pytest.approx(2.0)
