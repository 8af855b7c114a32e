"""Scorers that do what a test tells them, in place of a kind's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from curb.detector.scorers.protocol import Scorer, ScorerSettings

KINDS = ("river",)


@dataclass
class ToldScorer:
    """Scores by the function it is given, and keeps what it was taught."""

    score: Callable[[dict[str, float]], float]
    learned: list[dict[str, float]] = field(default_factory=list)

    def score_one(self, x: dict[str, float]) -> float:
        return self.score(x)

    def learn_one(self, x: dict[str, float]) -> None:
        self.learned.append(x)


class ToldSettings(ScorerSettings):
    """Builds scorers that say 1 over `limit` dollars an hour, and keeps them by series."""

    name: str = "told"
    limit: float = 10.0

    def build(self, series: str) -> Scorer:
        built = ToldScorer(self.score)
        BUILT.setdefault(self.name, {})[series] = built
        return built

    def score(self, x: dict[str, float]) -> float:
        if round(x["cost"]) == 666:
            raise ZeroDivisionError("division by zero")
        if round(x["cost"]) == 667:
            return float("nan")
        return float(x["cost"] > self.limit)

    def stamp(self) -> str:
        return "told 1"


#: Scorers built, by name of the settings and of the series.
BUILT: dict[str, dict[str, ToldScorer]] = {}
