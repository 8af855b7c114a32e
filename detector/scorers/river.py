"""River's anomaly detectors as scorers, by name and parameters, with guards against their faults."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import platform
import zlib
from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from curb.detector.scorers.protocol import ScorerSettings

#: Where a parameter that is itself a model may come from, as {class: "time_series.HoltWinters", parameters: {…}}.
_ROOMS = ("anomaly", "linear_model", "optim", "preprocessing", "stats", "time_series")
_FILTERS = ("QuantileFilter", "ThresholdFilter")
#: Limit of a scaled value, by scale; a value further out adds nothing, and HalfSpaceTrees expects 0 to 1.
_FURTHEST = {"none": math.inf, "minmax": 1.5, "standard": 50.0}
#: Steps without change after which a value is constant and scores 0. Chosen by hand.
_CONSTANT_STEPS = 12
#: Steps in which a forecaster may fail because it has not seen a season: a week of 5-minute steps.
_FIRST_STEPS = 2016
#: The largest number passed on: squares and products of it are still finite.
_LARGEST = 1e12


#: Scores remembered per series; ranks have a resolution of one over this. Chosen by hand: 33 h of minutes.
MEMORY = 2000


class Config(ScorerSettings):
    """A detector of `river.anomaly` per series. Values are scaled first, and scores compared with its own past ones."""

    kind: Literal["river"]
    detector: str = Field(default="HalfSpaceTrees", description="Name of a class in `river.anomaly`.")
    parameters: dict[str, JsonValue] = Field(
        default={},
        description="Its arguments. An argument that is a model is written as `{class: time_series.HoltWinters, "
        "parameters: {…}}`. A seed not given follows from the names.",
    )
    scale: Literal["none", "minmax", "standard"] = Field(
        default="minmax", description="`minmax` to 0…1 over all the past, `standard` to mean 0 and deviation 1."
    )
    calibrate: Literal["rank", "none"] = Field(
        default="rank",
        description="`rank`: the share of the series' last 2,000 scores that were lower. `none`: River's own score cut "
        "to 0…1, whose range differs from detector to detector.",
    )

    @model_validator(mode="after")
    def _river_takes_it(self) -> Config:
        if self.detector == "HalfSpaceTrees" and self.scale != "minmax" and "limits" not in self.parameters:
            raise ValueError("HalfSpaceTrees expects values between 0 and 1: use scale: minmax, or give it `limits`")
        if self.detector == "ThresholdFilter" and self.parameters.get("protect_anomaly_detector") is False:
            raise ValueError("ThresholdFilter with protect_anomaly_detector: false never learns")
        _detector(self.detector, self.parameters, seed=0)
        return self

    def build(self, series: str) -> RiverScorer:
        """A fresh detector; its seed follows from the names of scorer and series unless one is configured."""
        seed = zlib.crc32(f"{self.name}|{series}".encode())
        model = _detector(self.detector, self.parameters, seed)
        ranks = Ranks() if self.calibrate == "rank" else None
        return RiverScorer(model, _scaler(self.scale), _FURTHEST[self.scale], self.features[0], ranks)

    def stamp(self) -> str:
        """Versions of River and Python and the configuration: pickled models fit no other."""
        from importlib.metadata import version

        shape = self.model_dump_json(exclude={"threshold", "hold_minutes", "tier", "max_series", "scopes"})
        digest = hashlib.sha256(shape.encode()).hexdigest()[:16]
        return f"river {version('river')}, python {'.'.join(platform.python_version_tuple()[:2])}, {digest}"


class Ranks:
    """The last 2,000 scores of one series: a score's rank is the share of them that are lower.

    A tie is not lower, so a detector with a constant score has rank 0.
    """

    def __init__(self) -> None:
        self._sorted = array("d")
        self._newest = array("d")
        self._next = 0

    def of(self, score: float) -> float:
        """Rank of a score, 0 to 1 - 1/2001. No threshold is reached before 1 / (1 - threshold) scores are known."""
        return bisect_left(self._sorted, score) / (len(self._sorted) + 1)

    def add(self, score: float) -> None:
        """Remember a finite score and drop the oldest."""
        if len(self._newest) < MEMORY:
            self._newest.append(score)
        else:
            oldest = self._newest[self._next]
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._newest[self._next] = score
            self._next = (self._next + 1) % MEMORY
        insort(self._sorted, score)


class RiverScorer:
    """One River detector behind the Scorer seam. Its first feature is what a supervised detector predicts."""

    def __init__(self, model: Any, scaler: Any, furthest: float, target: str, ranks: Ranks | None) -> None:
        self._model, self._scaler, self._furthest, self._target = model, scaler, furthest, target
        self._ranks = ranks
        self._supervised = _is_supervised(model)
        self._last: dict[str, float] = {}
        self._still = 0
        self._learned = 0
        #: The newest scored measurements and River's score: some of its detectors learn while they score.
        self._newest_score: tuple[dict[str, float], float] = ({}, 0.0)

    def score_one(self, x: dict[str, float]) -> float:
        """0 to 1. Raises what River raises, and ValueError when its score is not a number."""
        raw = self._raw(_bounded(x))
        return self._ranks.of(raw) if self._ranks is not None else min(1.0, max(0.0, raw))

    def learn_one(self, x: dict[str, float]) -> None:
        """Add River's score to those that others are ranked among, then let River learn."""
        x = _bounded(x)
        if self._ranks is not None:
            self._ranks.add(self._raw(x))
        self._still = self._still + 1 if x == self._last else 0
        self._last = x
        self._learned += 1
        if self._scaler is not None:
            self._scaler.learn_one(x)
        scaled = self._scaled(x)
        if self._supervised:
            y = scaled.pop(self._target)
            self._model.learn_one(scaled, y)
        else:
            self._model.learn_one(scaled)
        self._newest_score = ({}, 0.0)

    def _is_constant(self, x: dict[str, float]) -> bool:
        # A deviation of 0 makes GaussianScorer answer 1 for ever.
        return not self._last or (x == self._last and self._still >= _CONSTANT_STEPS)

    def _raw(self, x: dict[str, float]) -> float:
        if self._is_constant(x):
            return 0.0
        if self._newest_score[0] == x:
            return self._newest_score[1]
        raw = self._river_score(self._scaled(x))
        if not math.isfinite(raw):
            raise ValueError(f"River's score was {raw}")
        self._newest_score = (x, raw)
        return raw

    def _river_score(self, scaled: dict[str, float]) -> float:
        try:
            if self._supervised:
                y = scaled.pop(self._target)
                return float(self._model.score_one(scaled, y))
            return float(self._model.score_one(scaled))
        except IndexError:
            # River's forecasters raise this before they have seen a season.
            if self._learned < _FIRST_STEPS:
                return 0.0
            raise

    def _scaled(self, x: dict[str, float]) -> dict[str, float]:
        if self._scaler is None:
            return dict(x)
        scaled = self._scaler.transform_one(x)
        return {name: max(-self._furthest, min(self._furthest, value)) for name, value in scaled.items()}


def _bounded(x: Mapping[str, float]) -> dict[str, float]:
    for name, value in x.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} was {value}")
    return {name: max(-_LARGEST, min(_LARGEST, value)) for name, value in x.items()}


def _is_supervised(model: Any) -> bool:
    return bool(getattr(getattr(model, "anomaly_detector", model), "_supervised", False))


def _scaler(scale: str) -> Any:
    if scale == "none":
        return None
    from river import preprocessing

    return preprocessing.MinMaxScaler() if scale == "minmax" else preprocessing.StandardScaler()


def _detector(name: str, parameters: Mapping[str, JsonValue], seed: int) -> Any:
    """A new detector. Raises ValueError that lists the known names for an unknown name or parameter."""
    try:
        room = importlib.import_module("river.anomaly")
    except ImportError:
        raise ValueError("scorers of kind `river` need the library River: install curbd[river]") from None
    names = [each for each in vars(room) if inspect.isclass(vars(room)[each])]
    if name not in names:
        raise ValueError(f"river.anomaly has no detector {name!r}; there are: {', '.join(sorted(names))}")
    if name in _FILTERS and "anomaly_detector" not in parameters:
        raise ValueError(f"{name} needs anomaly_detector: {{class: anomaly.HalfSpaceTrees}}, or another class")
    return _make(vars(room)[name], parameters, seed)


def _make(of: type[Any], parameters: Mapping[str, JsonValue], seed: int) -> Any:
    known = inspect.signature(of).parameters
    unknown = sorted(parameters.keys() - known.keys())
    if unknown:
        raise ValueError(f"{of.__name__} has no parameter {', '.join(unknown)}; it knows: {', '.join(known)}")
    arguments = {name: _argument(value, seed) for name, value in parameters.items()}
    if "seed" in known and arguments.get("seed") is None:
        arguments["seed"] = seed
    try:
        return of(**arguments)
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{of.__name__} does not take these parameters: {error}") from None


def _argument(value: JsonValue, seed: int) -> Any:
    if not isinstance(value, dict) or "class" not in value:
        return (
            {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()} if isinstance(value, dict) else value
        )
    spelled = str(value["class"])
    room, _, name = spelled.rpartition(".")
    if room not in _ROOMS:
        raise ValueError(f"class {spelled!r}: write one of {', '.join(_ROOMS)}, a dot and a class of River there")
    found = getattr(importlib.import_module(f"river.{room}"), name, None)
    if not inspect.isclass(found):
        raise ValueError(f"river.{room} has no class {name!r}")
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, dict) or value.keys() - {"class", "parameters"}:
        raise ValueError(f"{spelled}: give `class` and a mapping `parameters`, and nothing else")
    return _make(found, parameters, seed)
