"""The scorer seam: measurements of one series in, a score of how unusual they are out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Protocol

from pydantic import Field

from curb.stream.settings import Settings

#: Measurements of a series in a bucket, per hour.
Metric = Literal["cost", "requests", "errors", "users", "input_tokens", "output_tokens"]


class Scorer(Protocol):
    """Judges the measurements of one series; River's own two verbs, so that River's detectors fit.

    The bank of scorers calls `score_one` once per closed bucket, in the order of time, and then `learn_one` with the
    same measurements, unless they were suspicious: an anomaly is not learned until it has lasted a day.
    Both get every feature of the configuration, as finite numbers per hour. A score is finite, between 0 (as always)
    and 1 (never seen), and changes no state. Same calls, same scores: no clock, no chance without a seed. A scorer is
    pickled into the snapshot. An exception ends the scorer of that series alone, with its text as the reason.
    """

    def score_one(self, x: dict[str, float]) -> float: ...

    def learn_one(self, x: dict[str, float]) -> None: ...


class ScorerSettings(Settings):
    """Settings that all kinds of scorers share."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name; findings carry it.")
    features: tuple[Metric, ...] = Field(
        default=("cost",),
        min_length=1,
        description="Measurements per hour; findings are about the first, the others support it.",
    )
    scopes: tuple[str, ...] = Field(
        default=("key",), min_length=1, description="Names of the scopes whose series are watched."
    )
    threshold: float = Field(default=0.999, gt=0, le=1, description="Score from which a bucket is suspicious.")
    hold_minutes: int = Field(
        default=10, ge=0, le=1440, description="How long every bucket must be suspicious before there is a finding."
    )
    direction: Literal["up", "both"] = Field(
        default="up", description="`up`: only more than usual of the first feature counts; `both`: less does too."
    )
    tier: Literal["digest", "notice"] = Field(
        default="digest", description="The tier of findings. They never page and never throttle."
    )
    max_series: int = Field(
        default=50,
        ge=1,
        le=100_000,
        description="Series watched at most per detector shard. A new one replaces the series that has been "
        "silent "
        "longest, if that is a day or more; otherwise it is not watched.",
    )

    @abstractmethod
    def build(self, series: str) -> Scorer:
        """A fresh scorer for the series with this name."""

    @abstractmethod
    def stamp(self) -> str:
        """Identifies the versions that make a state; a state with another stamp is not read."""
