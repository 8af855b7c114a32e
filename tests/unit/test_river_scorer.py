"""River behind the Scorer seam: its traps are guarded, what it does not take is refused; the bank of scorers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from curb.detector.scorers.bank import ScorerBank, ScorerFinding
from curb.detector.scorers.river import MEMORY, Config, Ranks
from curb.detector.state import pickles as model_state
from tests.fakes.scorers import BUILT, ToldSettings

T0 = 1_750_000_000 // 86400 * 86400
STEP = 300
FOREST: dict[str, Any] = {"n_trees": 5, "height": 5, "window_size": 60}


def config(which: str = "StandardAbsoluteDeviation", **more: Any) -> Config:
    given: dict[str, Any] = {"kind": "river", "name": "test", "detector": which.partition(",")[0], "threshold": 0.99}
    return Config.model_validate({**given, "parameters": FOREST if which == "HalfSpaceTrees" else {}, **more})


def run(settings: Any, values: Sequence[float], series: str = "key: a") -> tuple[list[ScorerFinding], ScorerBank]:
    """One series through a fresh bank; its values are dollars an hour."""
    bank = ScorerBank(settings, STEP)
    found = []
    for at, value in enumerate(values):
        found += bank.close(T0 + STEP * at, sums([value]), ["key"], lambda _: series, gap=False)
    return found, bank


def sums(per_hour: Sequence[float]) -> Mapping[str, np.ndarray]:
    cost = np.array(per_hour) * STEP / 3600
    return {"cost": cost, "requests": 10 * cost}


def noisy(days: float, seed: int = 3) -> list[float]:
    rng = random.Random(seed)
    return [12 * rng.lognormvariate(0, 0.2) for _ in range(int(days * 86400 / STEP))]


def scores(values: Sequence[float], series: str) -> list[float]:
    scorer = config("HalfSpaceTrees").build(series)
    found = []
    for value in values:
        found.append(scorer.score_one({"cost": value}))
        scorer.learn_one({"cost": value})
    return found


@pytest.mark.parametrize("calibrate", ["rank", "none"])
def test_a_deviation_of_zero_is_no_finding_for_ever(calibrate: str) -> None:
    settings = config("GaussianScorer", calibrate=calibrate)
    found, _ = run(settings, [5.0] * 500 + [6.0] * 400)
    assert {each.since for each in found} == {T0 + STEP * 500}, "the step itself is news"
    assert len(found) < 86400 // STEP, "after a day it is how things are"


def test_seeds_follow_from_the_names() -> None:
    values = noisy(1)
    assert scores(values, "key: a") == scores(values, "key: a")
    assert scores(values, "key: a") != scores(values, "key: b")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"detector": "HalfSpaceTree"}, "there are: GaussianScorer, HalfSpaceTrees"),
        ({"detector": "__builtins__"}, "there are: GaussianScorer"),
        ({"detector": "HalfSpaceTrees", "parameters": {"trees": 5}}, "it knows: n_trees, height"),
        ({"detector": "HalfSpaceTrees", "scale": "standard"}, "between 0 and 1"),
        ({"detector": "ThresholdFilter", "parameters": {"threshold": 0.9}}, "needs anomaly_detector"),
        (
            {
                "detector": "ThresholdFilter",
                "parameters": {
                    "anomaly_detector": {"class": "anomaly.HalfSpaceTrees"},
                    "threshold": 0.9,
                    "protect_anomaly_detector": False,
                },
            },
            "never learns",
        ),
        ({"parameters": {"sub_stat": {"class": "os.system"}}}, "write one of anomaly"),
        ({"parameters": {"sub_stat": {"class": "stats.Nothing"}}}, "no class 'Nothing'"),
        ({"parameters": {"sub_stat": {"class": "stats.Mean", "x": 1}}}, "and nothing else"),
        (
            {
                "detector": "GaussianScorer",
                "parameters": {"window_size": {"class": "stats.EWMean", "parameters": {"a": 1}}},
            },
            "EWMean has no parameter a",
        ),
        ({"tier": "page"}, "digest"),
        ({"features": []}, "features"),
    ],
)
def test_what_river_does_not_take_is_refused_with_a_hint(given: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**{"which": given.pop("detector", "StandardAbsoluteDeviation"), **given})
    assert hint in str(caught.value)


# --- the bank -------------------------------------------------------------------------------------------------------


def test_a_finding_needs_every_bucket_of_the_hold() -> None:
    found, _ = run(ToldSettings(hold_minutes=15), [1, 1, 20, 20, 1, 20, 20, 20, 20, 1])
    assert [(each.since, round(each.value)) for each in found] == [(T0 + 5 * STEP, 20), (T0 + 5 * STEP, 20)]
    assert found[0].usual == pytest.approx(1)


def test_what_is_suspicious_is_learned_after_a_day() -> None:
    steps = 86400 // STEP
    found, _ = run(ToldSettings(name="day", hold_minutes=0), [1, *[20] * (steps + 5)])
    assert len(found) == steps
    assert len(BUILT["day"]["key: a"].learned) == 1 + 5


def test_less_than_usual_counts_only_when_asked_for() -> None:
    class Low(ToldSettings):
        def score(self, x: dict[str, float]) -> float:
            return float(x["cost"] < 5)

    values = [10.0] * 20 + [1.0]
    assert run(Low(hold_minutes=0), values)[0] == []
    assert len(run(Low(hold_minutes=0, direction="both"), values)[0]) == 1


@pytest.mark.parametrize(("value", "reason"), [(666, "ZeroDivisionError: division by zero"), (667, "score was nan")])
def test_a_scorer_that_fails_ends_alone(value: float, reason: str) -> None:
    bank = ScorerBank(ToldSettings(hold_minutes=0), STEP)
    names = ["key: a", "key: b"]
    found = []
    for at, (a, b) in enumerate([(1, 1), (value, 1), (1, 20), (20, 1)]):
        found += bank.close(T0 + STEP * at, sums([a, b]), ["key", "key"], names.__getitem__, gap=False)
    assert [each.series for each in found] == [1]
    assert bank.failed == 1
    assert list(bank.failures) == [0]
    assert reason in bank.failures[0]


def test_numbers_that_are_none_end_the_scorer_with_a_reason() -> None:
    _, bank = run(config(), [1.0, 2.0, math.nan, 3.0])
    assert bank.failures == {0: "ValueError: cost was nan"}


def test_memory_is_bounded_and_the_longest_silent_goes() -> None:
    bank = ScorerBank(ToldSettings(name="many", max_series=3), STEP)
    n, day = 6, 86400 // STEP
    for at in range(day + 3):
        cost = [1.0, 1.0, 0.0 if at else 1.0, 1.0 if at > 5 else 0.0, 0.0, 0.0]
        bank.close(T0 + STEP * at, sums(cost), ["key"] * n, str, gap=False)
        assert len(bank) <= 3
    assert set(BUILT["many"]) == {"0", "1", "2", "3"}
    assert bank.refused == day - 6
    assert set(bank._watched) == {0, 1, 3}


def test_only_the_scopes_asked_for_are_watched() -> None:
    bank = ScorerBank(ToldSettings(name="scoped", scopes=("team",)), STEP)
    bank.close(T0, sums([1, 1]), ["key", "team"], str, gap=False)
    bank.close(T0 + STEP, sums([1, 1, 1]), ["key", "team", "team"], str, gap=False)
    assert set(BUILT["scoped"]) == {"1", "2"}


def test_a_gap_says_and_teaches_nothing() -> None:
    bank = ScorerBank(ToldSettings(name="gap", hold_minutes=0), STEP)
    assert bank.close(T0, sums([20]), ["key"], str, gap=True) == []
    assert len(bank) == 0


# --- state ----------------------------------------------------------------------------------------------------------


def test_a_state_of_other_settings_is_learned_anew() -> None:
    _, bank = run(config(), noisy(0.2))
    other = ScorerBank(config("GaussianScorer"), STEP)
    assert "learns again from nothing: made with 'river" in other.load(bank.dump())
    assert len(other) == 0


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("read",))


@pytest.mark.parametrize("state", [Evil(), {"a": [Evil()]}])
def test_a_state_that_would_run_something_is_refused(state: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bank = ScorerBank(config(), STEP)
    assert "may not hold builtins.print" in bank.load(model_state.dump(config().stamp(), state))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("module", [b"river.anomaly.hst\nrandom.seed", b"river.anomaly.hst\nmath", b"os\nsystem"])
def test_a_state_cannot_reach_through_rivers_modules(module: bytes) -> None:
    data = b"x\nc" + module + b"\n."
    with pytest.raises(model_state.NotAModelError, match="may not hold"):
        model_state.load("x", data)


@pytest.mark.parametrize("data", [b"", b"x\n", b"x\n\x80\x05junk", b"x\n(", b"y\nN."])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(model_state.NotAModelError):
        model_state.load("x", data)


# --- ranks ----------------------------------------------------------------------------------------------------------


def test_ranks_are_shares_of_the_newest_scores() -> None:
    rng = random.Random(1)
    past = [rng.gauss(0, 1) for _ in range(2 * MEMORY + 7)]
    ranks = Ranks()
    for score in past:
        ranks.add(score)
    kept = past[-MEMORY:]
    for score in (-3.0, 0.0, 0.7, 9.0):
        assert ranks.of(score) == sum(each < score for each in kept) / (MEMORY + 1)


def test_ties_are_not_lower() -> None:
    ranks = Ranks()
    for _ in range(100):
        ranks.add(1.0)
    assert ranks.of(1.0) == 0
