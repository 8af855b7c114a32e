"""The scorer of the Numenta Anomaly Benchmark: early detections in labelled windows earn, others cost."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The first share of a file is never scored, but at most so many points.
PROBATION_SHARE, PROBATION_MAX = 0.15, 750
#: A false positive costs all once it is so many window widths behind the last window.
_FAR = 3.0
_STEEPNESS = 5.0


@dataclass(frozen=True)
class Profile:
    """What a detection, a false positive and a missed window weigh."""

    hit: float
    false_positive: float
    miss: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "low FP": Profile(1.0, 0.22, 1.0),
    "low FN": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True)
class Series:
    """One file of the corpus; arrays of shape (points,)."""

    name: str
    timestamps: tuple[str, ...]
    values: Floats
    #: Time of day from 0 up to 1.
    day_share: Floats
    #: First and last index of every labelled window.
    windows: tuple[tuple[int, int], ...]

    @property
    def category(self) -> str:
        """The directory the file is in."""
        return self.name.split("/", maxsplit=1)[0]

    @property
    def probation(self) -> int:
        """Number of points at the beginning that are not scored."""
        return probation_points(len(self.timestamps))


@dataclass(frozen=True)
class Result:
    """Score at a threshold: 100 is perfect, 0 is a detector that never fires."""

    score: float
    #: Points with at least this score are detections.
    threshold: float
    windows: int
    windows_hit: int
    false_positives: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN, infinite and thus unset ones are None."""
        return {
            "score": _finite(self.score),
            "threshold": _finite(self.threshold),
            "windows": self.windows,
            "windows_hit": self.windows_hit,
            "false_positives": self.false_positives,
        }


def probation_points(points: int) -> int:
    """Points at the beginning of a file of that length that are not scored."""
    return min(math.floor(PROBATION_SHARE * points), PROBATION_MAX)


def read_corpus(directory: Path) -> list[Series]:
    """All series of nab.csv.gz with the windows of nab_windows.json. Raises OSError, or ValueError if they disagree."""
    windows = json.loads((directory / "nab_windows.json").read_text(encoding="utf-8"))
    rows: dict[str, list[tuple[str, float]]] = {}
    with gzip.open(directory / "nab.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["series"], []).append((row["timestamp"], float(row["value"])))
    unknown = windows.keys() - rows.keys()
    if unknown:
        raise ValueError(f"windows of series that are not there: {', '.join(sorted(unknown))}")
    return [make_series(name, points, windows.get(name, [])) for name, points in rows.items()]


def make_series(name: str, points: Sequence[tuple[str, float]], windows: Sequence[Sequence[str]]) -> Series:
    """A series of (timestamp, value) with its windows as first and last timestamp. Raises ValueError."""
    times = [datetime.fromisoformat(timestamp) for timestamp, _ in points]
    return Series(
        name=name,
        timestamps=tuple(timestamp for timestamp, _ in points),
        values=np.array([value for _, value in points]),
        day_share=np.array([(t.hour * 3600 + t.minute * 60 + t.second) / 86400 for t in times]),
        windows=tuple(_indices(name, times, *window) for window in windows),
    )


def _indices(name: str, times: Sequence[datetime], start: str, end: str) -> tuple[int, int]:
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    inside = [at for at, time in enumerate(times) if first <= time <= last]
    if not inside:
        raise ValueError(f"{name}: no point in the window from {start} to {end}")
    # Clocks may be set back in a file, so that a point before the window can have a time within it.
    return inside[0], inside[-1]


def sigmoid(distance: float) -> float:
    """Worth of a detection at a distance in window widths from the end of a window: 1 well before, -1 far behind."""
    return -1.0 if distance > _FAR else 2 / (1 + math.exp(_STEEPNESS * distance)) - 1


def worth(series: Series) -> tuple[Floats, NDArray[np.intp]]:
    """What a detection at each point is worth before weights, and the window it is in; -1 is none.

    A false positive before the first window costs all, one soon after a window costs less.
    """
    points = len(series.timestamps)
    value, window = np.full(points, -1.0), np.full(points, -1, np.intp)
    for number, (first, last) in enumerate(series.windows):
        end = series.windows[number + 1][0] if number + 1 < len(series.windows) else points
        for at in range(last + 1, end):
            value[at] = sigmoid((at - last) / (last - first)) if last > first else -1.0
        window[first : last + 1] = number
        for at in range(first, last + 1):
            value[at] = sigmoid(-(last - at + 1) / (last - first + 1)) / sigmoid(-1.0)
    return value, window


class Scorer:
    """Scores one detector's scores on a corpus. What needs no weights is worked out once."""

    def __init__(self, corpus: Sequence[Series], scores: Sequence[Floats]) -> None:
        """`scores` are in the order of `corpus`, one per point, more is more anomalous. Raises ValueError."""
        points: list[tuple[float, int, int, float]] = []
        self._windows = [len(series.windows) for series in corpus]
        for number, (series, score) in enumerate(zip(corpus, scores, strict=True)):
            if len(score) != len(series.timestamps) or not np.isfinite(score).all():
                raise ValueError(f"{series.name}: needs one finite score per point")
            value, window = worth(series)
            for at in range(series.probation, len(score)):
                points.append((float(score[at]), number, int(window[at]), float(value[at])))
        points.sort(key=lambda point: -point[0])
        self._points = points

    def best(self, profile: Profile, only: Sequence[int] | None = None) -> Result:
        """With the threshold that scores most; every score that occurs is tried. `only`: positions in the corpus."""
        return self._sweep(profile, only, None)

    def at(self, threshold: float, profile: Profile, only: Sequence[int] | None = None) -> Result:
        """With a given threshold."""
        return self._sweep(profile, only, threshold)

    def _sweep(self, profile: Profile, only: Sequence[int] | None, threshold: float | None) -> Result:
        chosen = set(range(len(self._windows)) if only is None else only)
        windows = sum(self._windows[number] for number in chosen)
        points = [point for point in self._points if point[1] in chosen]
        tally = _Tally(profile, windows)
        best = tally.result(math.inf)
        for at, (score, number, window, value) in enumerate(points):
            if threshold is not None and score < threshold:
                break
            tally.add((number, window), value)
            # Points of equal score are detected together or not at all.
            together = at + 1 < len(points) and points[at + 1][0] == score
            if threshold is None and not together and tally.total > best[0]:
                best = (tally.total, tally.result(score)[1])
        return best[1] if threshold is None else tally.result(threshold)[1]


class _Tally:
    """The sum of what detections earned and cost so far."""

    def __init__(self, profile: Profile, windows: int) -> None:
        self._profile = profile
        self._windows = windows
        self._found: dict[tuple[int, int], float] = {}
        self._false_positives = 0
        self.total = -profile.miss * windows

    def add(self, window: tuple[int, int], value: float) -> None:
        """A detection: its series and window, -1 for none, and its worth. Of a window only the best one counts."""
        if window[1] < 0:
            self._false_positives += 1
            self.total += self._profile.false_positive * value
            return
        earned = self._profile.hit * value
        held = self._found.get(window)
        if held is None:
            self.total += self._profile.miss + earned
        elif earned > held:
            self.total += earned - held
        self._found[window] = earned if held is None else max(held, earned)

    def result(self, threshold: float) -> tuple[float, Result]:
        nothing = -self._profile.miss * self._windows
        span = (self._profile.hit + self._profile.miss) * self._windows
        score = 100 * (self.total - nothing) / span if span else math.nan
        return self.total, Result(score, threshold, self._windows, len(self._found), self._false_positives)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
