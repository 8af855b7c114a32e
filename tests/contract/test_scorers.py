"""What every scorer promises: same steps, same answers; quiet on constant spend; bounded; spikes are found."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from curb.detector.scorers.bank import ScorerBank, ScorerFinding
from curb.detector.scorers.kinds import SCORERS
from curb.detector.scorers.river import Config

T0 = 1_750_000_000 // 86400 * 86400
STEP = 300
FOREST: dict[str, Any] = {"n_trees": 5, "height": 5, "window_size": 60}
DETECTORS: dict[str, dict[str, Any]] = {
    "GaussianScorer": {},
    "GaussianScorer, windowed": {"window_size": 288},
    "StandardAbsoluteDeviation": {},
    "HalfSpaceTrees": FOREST,
    "PredictiveAnomalyDetection": {},
    "PredictiveAnomalyDetection, Holt-Winters": {
        "predictive_model": {"class": "time_series.HoltWinters", "parameters": {"alpha": 0.3, "beta": 0.1}}
    },
    "QuantileFilter": {"q": 0.99, "anomaly_detector": {"class": "anomaly.HalfSpaceTrees", "parameters": FOREST}},
    "LocalOutlierFactor": {"n_neighbors": 5},
}
#: What QuantileFilter takes for the top hundredth it does not teach: those scores tie, and rank no higher.
THRESHOLDS = {"QuantileFilter": 0.97}
every_detector = pytest.mark.parametrize("which", list(DETECTORS))


def config(which: str = "StandardAbsoluteDeviation", **more: Any) -> Config:
    given: dict[str, Any] = {"kind": "river", "name": "test", "detector": which.partition(",")[0], "threshold": 0.99}
    return Config.model_validate({**given, "parameters": DETECTORS.get(which, {}), **more})


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


@every_detector
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_spend_is_quiet(which: str, value: float) -> None:
    found, bank = run(config(which), [value] * 700)
    assert found == []
    assert bank.failures == {}


@every_detector
def test_same_steps_same_scores(which: str) -> None:
    values = [*noisy(1.5), 400.0, 400.0]
    assert scores(which, values) == scores(which, values)


@every_detector
def test_scores_are_between_0_and_1(which: str) -> None:
    wild = [*noisy(1), 0.0, 1e9, 0.0, -50.0, 1e-12, 1e300, *noisy(0.2)]
    assert all(0 <= score <= 1 for score in scores(which, wild))


@every_detector
def test_the_planted_spike_is_found(which: str) -> None:
    found, _ = run(config(which, threshold=THRESHOLDS.get(which, 0.995)), [*noisy(4), *[300.0] * 3])
    assert [each for each in found if each.since == T0 + STEP * 4 * 288], which


@every_detector
def test_a_scorer_goes_on_where_it_was_saved(which: str) -> None:
    values = noisy(1)
    _, whole = run(config(which), values)
    _, half = run(config(which), values[:150])
    again = ScorerBank(config(which), STEP)
    assert again.load(half.dump()) == ""
    for at, value in enumerate(values[150:], 150):
        again.close(T0 + STEP * at, sums([value]), ["key"], lambda _: "key: a", gap=False)
    tail = [40.0, 400.0, 12.0]
    assert scores_of(again, tail) == scores_of(whole, tail)


def scores(which: str, values: Sequence[float]) -> list[float]:
    scorer = config(which).build("key: a")
    found = []
    for value in values:
        found.append(scorer.score_one({"cost": value}))
        scorer.learn_one({"cost": value})
    return found


def scores_of(bank: ScorerBank, values: Sequence[float]) -> list[float]:
    scorer = bank._watched[0].scorer
    return [scorer.score_one({"cost": value}) for value in values]


@every_detector
def test_memory_is_bounded(which: str) -> None:
    bank = ScorerBank(config(which, max_series=4), STEP)
    sizes = []
    for at in range(160):
        n = 10 + at // 4
        bank.close(T0 + STEP * at, sums([1.0 + at % 7] * n), ["key"] * n, str, gap=False)
        if at in {120, 159}:
            sizes.append(len(bank.dump()))
    assert len(bank) == 4
    assert bank.refused > 0
    assert sizes[1] < 1.35 * sizes[0]


def test_every_kind_is_covered() -> None:
    assert set(SCORERS) == {"river"}, "parametrise this battery over the new kind too"
