"""Drift detection: says so when a series has moved for good, and the level it has moved to."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from curb.detector.heads.drift import Drift, DriftSettings
from curb.detector.heads.past import DollarsHead, ScoreSettings, Step
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from tests.fakes.views import HOUR, T0

every_detector = pytest.mark.parametrize("detector", ["adwin", "page_hinkley"])


def drift(detector: Any, **more: Any) -> Drift:
    return Drift(DriftSettings(detector=detector, **more))


def feed(of: Drift, values: list[float]) -> list[tuple[int, float]]:
    """Hours at which one series drifted, with the level."""
    found = []
    for hour, value in enumerate(values):
        level = of.hour(np.array([value]), np.array([True]))[0]
        if math.isfinite(level):
            found.append((hour, float(level)))
    return found


def steady(hours: int, level: float = 0.0, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(level, 0.2) for _ in range(hours)]


@every_detector
def test_a_lasting_move_is_seen_with_its_level(detector: str) -> None:
    found = feed(drift(detector), steady(200) + steady(100, math.log(3), seed=2))
    assert 200 <= found[0][0] <= 230
    assert sum(level for _, level in found) / len(found) == pytest.approx(math.log(3), abs=0.35)


@every_detector
def test_a_fall_is_seen_too(detector: str) -> None:
    found = feed(drift(detector), steady(200) + steady(100, -math.log(4), seed=2))
    assert found
    assert found[-1][1] < -0.5


@every_detector
@pytest.mark.parametrize("values", [steady(600), [0.0] * 600, [5.0] * 600])
def test_what_does_not_move_is_quiet(detector: str, values: list[float]) -> None:
    assert feed(drift(detector), values) == []


@every_detector
def test_one_wild_hour_is_no_drift(detector: str) -> None:
    assert feed(drift(detector), [*steady(300), 40.0, *steady(100, seed=2)]) == []


@every_detector
def test_unknown_hours_teach_nothing(detector: str) -> None:
    of = drift(detector)
    for value, known in ((math.nan, True), (math.inf, True), (9.0, False)):
        assert np.isnan(of.hour(np.array([value]), np.array([known]))).all()
    assert len(of) == 0


@every_detector
def test_each_series_for_itself(detector: str) -> None:
    of = drift(detector)
    moved = set()
    for a, b in zip(steady(200) + steady(100, 2.0), steady(300, seed=3), strict=True):
        moved |= set(np.flatnonzero(np.isfinite(of.hour(np.array([a, b]), np.array([True, True])))).tolist())
    assert moved == {0}


@every_detector
def test_it_goes_on_where_it_was_saved(detector: str) -> None:
    values = steady(190) + steady(60, 1.5, seed=2)
    whole = feed(drift(detector), values)
    half, again = drift(detector), drift(detector)
    first = feed(half, values[:100])
    assert len(half) == 1
    assert again.load(half.dump()) == ""
    rest = [(hour + 100, level) for hour, level in feed(again, values[100:])]
    assert first + rest == whole
    assert whole


def test_a_state_of_other_settings_is_learned_anew() -> None:
    of = drift("adwin")
    feed(of, steady(5))
    other = drift("page_hinkley")
    assert "starts from nothing" in other.load(of.dump())
    assert len(other) == 0


def test_off_is_no_detector() -> None:
    with pytest.raises(ValueError, match="off"):
        Drift(DriftSettings())


def _expected(settings: DriftSettings, *, frozen: bool, saved_at: int | None = None) -> float:
    """Dollars an hour that the head expects 18 hours after a series went from $6 an hour to $24."""
    head = _head(settings)
    for hour in range(300):
        usd = 6.0 if hour < 282 else 24.0
        if hour == saved_at:
            arrays = {name: array.copy() for name, array in head.dump().items()}
            head = _head(settings)
            head.load(arrays)
        head.step(Step(T0 + hour * HOUR, np.array([usd]), np.array([1.0]), False, np.array([frozen and hour > 282])))
    return float(head.expected_usd[0])


def _head(settings: DriftSettings) -> DollarsHead:
    head = DollarsHead(ScoreSettings(), HOUR, "UTC", drift=Drift(settings) if settings.detector != "none" else None)
    head.grow(1, T0)
    return head


@every_detector
def test_switched_on_a_series_that_moved_is_normal_on_its_new_level_within_the_day(detector: Any) -> None:
    off, on = DriftSettings(), DriftSettings(detector=detector)
    for frozen in (False, True):
        assert _expected(off, frozen=frozen) < 16
        assert 16 < _expected(on, frozen=frozen) < 36
    assert _expected(on, frozen=True, saved_at=288) == _expected(on, frozen=True)


def test_the_detector_has_it_switched_off() -> None:
    assert Shard(DetectorSettings())._scoring.head._drift is None
    assert Shard(DetectorSettings(drift=DriftSettings(detector="adwin")))._scoring.head._drift is not None
