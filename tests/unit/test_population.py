"""The population model: a change of kind is abuse, a change of size is growth."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from curb.detector.rules.population import FEATURES, Population, Use
from curb.detector.rules.population import Config as PopulationConfig

SETTINGS = PopulationConfig()
NOBODY = np.zeros(8, np.bool_)


def use(rng: random.Random | None = None, **changed: Any) -> Use:
    """An hour of eight principals; `changed` multiplies an amount of principal 0, or sets a share of it."""
    size = np.array([50.0, 80.0, 120.0, 200.0, 400.0, 900.0, 60.0, 70.0])
    wobble = np.array([rng.lognormvariate(0, 0.3) for _ in size]) if rng else np.ones(8)
    requests = np.round(size * wobble)
    amounts = {
        "cost": requests * 0.01,
        "requests": requests,
        "errors": np.round(requests * 0.02),
        "users": np.ceil(requests * 0.5),
        "input_tokens": requests * np.linspace(500, 3000, 8),
        "output_tokens": requests * np.linspace(100, 200, 8),
        "new_model": np.zeros(8),
        "new_region": np.zeros(8),
        "job": NOBODY.copy(),
    }
    for name, value in changed.items():
        if name in {"new_model", "new_region", "job"}:
            amounts[name][0] = value
        else:
            amounts[name][0] *= value
    return Use(**amounts)


@pytest.fixture
def population() -> Population:
    """Three days old."""
    made, rng = Population(SETTINGS), random.Random(4)
    made.grow(8)
    for _ in range(72):
        made.learn(use(rng), NOBODY)
    return made


LAUNCH = {"cost": 6, "requests": 6, "users": 6, "errors": 6, "input_tokens": 6, "output_tokens": 6}
LOOP = {"cost": 30, "requests": 4, "input_tokens": 120, "output_tokens": 4}
STORM = {"cost": 5, "requests": 8, "errors": 280, "input_tokens": 8}
LEAK = {"cost": 50, "requests": 10, "input_tokens": 25, "output_tokens": 40, "new_region": 0.97, "new_model": 0.97}


@pytest.mark.parametrize("changed", [{}, LAUNCH])
def test_growth_is_use_as_ever(population: Population, changed: dict[str, float]) -> None:
    judged = population.judge(use(**changed))
    assert judged.score[0] < 0.5
    assert population.why(judged, 0, use(**changed)) == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (LOOP, "25.2× its usual tokens per request"),
        (STORM, "of the requests failed, its usual share is "),
        (LEAK, "97% of the spend on a region it did not use"),
        ({"requests": 20, "input_tokens": 20, "output_tokens": 20}, "20.2× its usual requests per user"),
    ],
)
def test_another_kind_of_use_is_abusive(population: Population, changed: dict[str, float], reason: str) -> None:
    judged = population.judge(use(**changed))
    assert judged.score[0] >= SETTINGS.abusive_threshold
    assert (judged.score[1:] < 0.5).all()
    assert reason in population.why(judged, 0, use(**changed))


def test_a_new_model_alone_is_not_abuse(population: Population) -> None:
    assert 0 < population.judge(use(new_model=1.0)).score[0] < SETTINGS.abusive_threshold


def test_fewer_errors_and_more_users_are_not_abuse(population: Population) -> None:
    assert population.judge(use(errors=0, users=2)).score[0] == 0


def test_without_users_or_tokens_the_rest_still_speaks(population: Population) -> None:
    judged = population.judge(use(**{**STORM, "users": 0, "input_tokens": 0, "output_tokens": 0}))
    assert judged.score[0] >= SETTINGS.abusive_threshold
    assert judged.distance[FEATURES.index("requests per user"), 0] == 0


def test_nobody_sits_in_front_of_a_job(population: Population) -> None:
    batch = {"requests": 90, "input_tokens": 90, "output_tokens": 90, "users": 0.1}
    assert population.judge(use(**batch)).score[0] > SETTINGS.abusive_threshold
    assert population.judge(use(**batch, job=True)).score[0] == 0


def test_a_newcomer_is_held_against_everybody(population: Population) -> None:
    population.grow(9)
    nine = {
        name: np.append(getattr(use(), name), value)
        for name, value in {
            "cost": 20.0,
            "requests": 400.0,
            "errors": 0.0,
            "users": 1.0,
            "input_tokens": 4e7,
            "output_tokens": 4e4,
            "new_model": 0.0,
            "new_region": 0.0,
            "job": False,
        }.items()
    }
    odd = Use(**nine)
    judged = population.judge(odd)
    assert not judged.own[8]
    assert judged.score[8] >= SETTINGS.abusive_threshold
    assert "everybody's" in population.why(judged, 8, odd)
    plain = Use(**{**nine, "users": np.append(use().users, 200.0), "input_tokens": np.append(use().input_tokens, 4e5)})
    assert population.judge(plain).score[8] < 0.5


def test_few_requests_say_nothing_and_teach_nothing(population: Population) -> None:
    few = use(requests=0.02, users=0.02, input_tokens=5)
    assert population.judge(few).score[0] == 0
    before = population.dump()["own.usual"][:, 0].copy()
    population.learn(few, NOBODY)
    assert (population.dump()["own.usual"][:, 0] == before).all()


def test_an_open_alert_teaches_nothing(population: Population) -> None:
    frozen = NOBODY.copy()
    frozen[0] = True
    for _ in range(48):
        population.learn(use(**LOOP), frozen)
    assert population.judge(use(**LOOP)).score[0] >= SETTINGS.abusive_threshold


def test_a_new_way_of_use_becomes_usual(population: Population) -> None:
    for _ in range(24 * 12):
        population.learn(use(**LOOP), NOBODY)
    assert population.judge(use(**LOOP)).score[0] < SETTINGS.abusive_threshold


def test_before_anything_is_known_nothing_is_abusive() -> None:
    fresh = Population(SETTINGS)
    fresh.grow(8)
    assert (fresh.judge(use(**LOOP)).score == 0).all()


@pytest.mark.parametrize("amount", [0.0, 1e15, -3.0])
def test_scores_are_finite(population: Population, amount: float) -> None:
    for name in ("cost", "requests", "errors", "users", "input_tokens", "output_tokens"):
        wild = use(**{name: amount})
        judged = population.judge(wild)
        assert np.isfinite(judged.score).all()
        assert isinstance(population.why(judged, 0, wild), str)
        population.learn(wild, NOBODY)
        assert all(np.isfinite(array).all() for array in population.dump().values())


def test_it_goes_on_where_it_was_saved(population: Population) -> None:
    again = Population(SETTINGS)
    again.load({name: array.copy() for name, array in population.dump().items()})
    rng = random.Random(9)
    for each in (use(rng), use(rng), use(rng, **LOOP)):
        assert (population.judge(each).score == again.judge(each).score).all()
        for model in (population, again):
            model.learn(each, NOBODY)
    assert again.n == population.n
    with pytest.raises(ValueError, match="shape"):
        again.load({**population.dump(), "population": np.zeros((1, 3))})


def test_memory_of_a_principal_is_small() -> None:
    assert Population(SETTINGS).bytes_per_principal <= 100
