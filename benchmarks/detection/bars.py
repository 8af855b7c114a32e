"""What the detector is held to on each variant: a figure that must be reached, and one that is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

from benchmarks.detection.measure import Result
from curb.evaluate.score import Score


class Figure(NamedTuple):
    """One column of the table. None where a stream has nothing to measure it on."""

    name: str
    of: Callable[[Result], float | None]
    form: str = ".3f"


def _benign(score: Score) -> float | None:
    return len(score.benign_flagged) / score.benign if score.benign else None


FIGURES = (
    Figure("recall", lambda result: result.both.all_kinds.recall),
    Figure("exact", lambda result: result.both.all_kinds.exact_recall),
    Figure("$ lost", lambda result: result.both.all_kinds.lost_share, ".4f"),
    Figure("look-alikes", lambda result: _benign(result.both)),
    Figure("noise/day", lambda result: result.both.noise_per_day, ".2f"),
    Figure("repeats", lambda result: result.both.repeats, ".1f"),
    Figure("median min", lambda result: result.both.all_kinds.median_minutes, ".1f"),
    Figure("page $ lost", lambda result: result.page.all_kinds.lost_share, ".4f"),
    Figure("page noise", lambda result: result.page.noise_per_day, ".2f"),
    Figure("CPU s", lambda result: result.seconds, ".1f"),
)
#: Figures of which more is better; of all others less is.
MORE_IS_BETTER = {"recall", "exact"}

#: (gate, target) by variant and figure, for the mean over seeds.
BARS: dict[str, dict[str, tuple[float, float]]] = {
    "base": {
        "recall": (0.95, 0.98),
        "exact": (0.95, 0.98),
        "$ lost": (0.03, 0.01),
        "look-alikes": (0.12, 0.05),
        "noise/day": (0.4, 0.2),
        "repeats": (3, 1),
        "median min": (15, 10),
        "page $ lost": (0.15, 0.06),
        "page noise": (0.1, 0.05),
    },
    "nousers": {"recall": (0.90, 0.95), "$ lost": (0.04, 0.02), "look-alikes": (0.20, 0.10), "noise/day": (1.0, 0.5)},
    "noisyusers": {"recall": (0.90, 0.95), "noise/day": (1.5, 0.5)},
    "60s": {"recall": (0.95, 1.0), "$ lost": (0.02, 0.01)},
    "clean": {"noise/day": (0.6, 0.3)},
}


def mean(figure: Figure, results: list[Result]) -> float | None:
    """Over the streams that have it."""
    values = [value for value in map(figure.of, results) if value is not None]
    return fmean(values) if values else None


def verdict(variant: str, figure: str, value: float) -> str:
    """target, gate or MISSED; empty without a bar."""
    bars = BARS.get(variant, {}).get(figure)
    if bars is None:
        return ""
    sign = 1 if figure in MORE_IS_BETTER else -1
    gate, target = (sign * value >= sign * bar - 1e-9 for bar in bars)
    return "target" if target else "gate" if gate else "MISSED"
