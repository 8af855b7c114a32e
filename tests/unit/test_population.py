"""The population model: a change of kind is abuse, a change of size is growth."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from curb.detector.rules.abuse import FEATURES, Population, Use, features
from curb.detector.rules.abuse import Config as PopulationConfig

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
    assert Population(SETTINGS).bytes_per_series <= 100


def alike(count: int, **amounts: float) -> Use:
    """An hour in which `count` principals do the same: 100 requests of 1,000 tokens in and 200 out by 50 users."""
    usual = {"cost": 1.0, "requests": 100.0, "errors": 4.0, "users": 50.0, "input_tokens": 1e5, "output_tokens": 2e4}
    shares = {"new_model": 0.0, "new_region": 0.0}
    return Use(
        **{name: np.full(count, value) for name, value in ({**usual, **shares, **amounts}).items()},
        job=np.zeros(count, np.bool_),
    )


def test_the_features_are_logarithms_and_a_root() -> None:
    value, known = features(alike(1), 5)
    assert value[:, 0] == pytest.approx([math.log(1200), math.log(20001 / 100001), 0.2, math.log(2)])
    assert known.all()
    # More errors than requests are all of them; users that are fewer than one are one.
    odd, _ = features(alike(1, errors=150.0, users=0.5), 5)
    assert odd[2:, 0] == pytest.approx([1.0, math.log(100)])


@pytest.mark.parametrize(
    ("amounts", "known"),
    [
        ({"requests": 5.0}, [True, True, True, True]),
        ({"requests": 4.0}, [False, False, False, False]),
        ({"input_tokens": 0.0}, [True, False, True, True]),
        ({"output_tokens": 0.0}, [True, False, True, True]),
        ({"input_tokens": 0.0, "output_tokens": 0.0}, [False, False, True, True]),
        ({"input_tokens": -5.0, "output_tokens": 4.0}, [True, False, True, True]),
        ({"users": 0.0}, [True, True, True, False]),
    ],
)
def test_a_feature_is_known_where_its_amounts_are(amounts: dict[str, float], known: list[bool]) -> None:
    assert features(alike(1, **amounts), 5)[1][:, 0].tolist() == known


def steady(count: int = 1, hours: int = 12) -> Population:
    made = Population(SETTINGS)
    made.grow(count)
    for _ in range(hours):
        made.learn(alike(count), np.zeros(count, np.bool_))
    return made


def test_distance_is_counted_in_deviations_and_the_first_two_are_free() -> None:
    twice = alike(1, input_tokens=2e5, output_tokens=4e4)
    judged = steady().judge(twice)
    # Nobody is steadier than 0.15; a hundred requests are known to a tenth.
    z = math.log(2) / math.hypot(0.15, 0.1)
    assert judged.distance[:, 0] == pytest.approx([z, 0, 0, 0], abs=1e-4)
    assert judged.score[0] == pytest.approx(z - 2, abs=1e-4)
    # Two changes are one length: failed requests as well, from a root of 0.2 to one of 0.5.
    both = steady().judge(alike(1, input_tokens=2e5, output_tokens=4e4, errors=25.0))
    failed = 0.3 / math.hypot(0.06, 0.05)
    assert both.score[0] == pytest.approx(math.hypot(z - 2, failed - 2), abs=1e-4)
    assert both.own[0]
    # Half the tokens are as odd as twice as many; half the errors are nothing.
    fewer = steady().judge(alike(1, input_tokens=5e4, output_tokens=1e4, errors=0.0))
    assert fewer.score[0] == pytest.approx(z - 2, abs=1e-4)


def test_a_change_beyond_all_measure_counts_as_twelve_deviations() -> None:
    assert steady().judge(alike(1, users=1e-3, input_tokens=1e9, output_tokens=2e8)).score[0] == pytest.approx(
        math.hypot(10, 10)
    )


@pytest.mark.parametrize(
    ("share", "score"), [({"new_model": 1.0}, 2.0), ({"new_region": 1.0}, 5.0), ({"new_region": 0.5}, 2.5)]
)
def test_what_is_new_counts_by_its_share_of_the_dollars(share: dict[str, float], score: float) -> None:
    assert steady().judge(alike(1, **share)).score[0] == pytest.approx(score)


def test_a_past_of_its_own_takes_twelve_hours() -> None:
    twice = alike(1, input_tokens=2e5, output_tokens=4e4)
    young = steady(hours=11).judge(twice)
    # Alone in its fleet it is compared with nobody.
    assert (young.own[0], young.score[0]) == (False, 0.0)
    assert steady(hours=12).judge(twice).own[0]


def test_a_stranger_is_compared_with_the_middle_of_the_others() -> None:
    fleet = steady(5)
    fleet.grow(6)
    six = alike(6)
    six.input_tokens[5], six.output_tokens[5] = 1e7, 2e6
    judged = fleet.judge(six)
    # The five are as steady as can be: 0.15, after twelve hours in which a deviation of 1 was taken for granted.
    z = math.log(100) / math.hypot(0.15, 0.1)
    assert judged.distance[0, 5] == pytest.approx(min(12.0, z))
    assert judged.score[:5].tolist() == [0.0] * 5
    assert fleet.why(judged, 5, six) == "100.0× everybody's usual tokens per request"
    four = steady(4)
    four.grow(5)
    assert four.judge(alike(5, input_tokens=1e7)).score[4] == 0


def test_the_population_is_the_middle_of_its_principals_and_their_spread() -> None:
    fleet = Population(SETTINGS)
    fleet.grow(5)
    hour = alike(5)
    hour.users[:] = [100.0, 50.0, 25.0, 12.5, 10.0]
    fleet.learn(hour, np.zeros(5, np.bool_))
    middle, spread, hours = fleet.dump()["population"][3]
    assert middle == pytest.approx(math.log(4))
    assert spread == pytest.approx(1.4826 * math.log(2))
    assert hours == 1
    # The second hour counts as much as the first.
    hour.users[:] = 25.0 / math.e**0.3
    fleet.learn(hour, np.zeros(5, np.bool_))
    middle, spread, hours = fleet.dump()["population"][3]
    assert middle == pytest.approx(math.log(4) + 0.15)
    assert spread == pytest.approx((1.4826 * math.log(2) + 0.15) / 2)
    assert hours == 2


def test_the_own_mean_and_variance_are_those_of_all_hours_at_first() -> None:
    made = steady(hours=1)
    made.learn(alike(1, users=25.0), np.zeros(1, np.bool_))
    dump = made.dump()
    assert dump["own.usual"][3, 0] == pytest.approx(math.log(2) + math.log(2) / 2)
    assert dump["own.variance"][3, 0] == pytest.approx(math.log(2) ** 2 / 2)
    assert dump["own.hours"][:, 0].tolist() == [2, 2, 2, 2]


def test_a_settled_principal_learns_at_most_three_deviations_and_remembers_five_days() -> None:
    made = steady(hours=12)
    made.learn(alike(1, users=1.0), np.zeros(1, np.bool_))
    assert made.dump()["own.usual"][3, 0] == pytest.approx(math.log(2) + 3 * 0.15 / 13)
    old = steady(hours=150)
    old.learn(alike(1, users=50.0 / math.e**0.2), np.zeros(1, np.bool_))
    assert old.dump()["own.usual"][3, 0] == pytest.approx(math.log(2) + 0.2 / 120, abs=1e-5)


def test_reasons_come_by_weight() -> None:
    made = steady()
    odd = alike(1, users=1.0, errors=36.0, new_model=0.04, new_region=0.05)
    assert made.why(made.judge(odd), 0, odd) == (
        "50.0× its usual requests per user; 36% of the requests failed, its usual share is 4.0%; "
        "5% of the spend on a region it did not use"
    )
    less = alike(1, input_tokens=1e3, output_tokens=2e2, new_model=1.0)
    assert made.why(made.judge(less), 0, less) == (
        "0.01× its usual tokens per request; 100% of the spend on a model it did not use"
    )
