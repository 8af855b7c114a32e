"""The metric head on the Numenta Anomaly Benchmark, scored as NAB scores, beside other detectors on the same data.

Run `python benchmarks/nab.py --data DIR`. DIR holds nab.csv.gz (series,timestamp,value) and nab_windows.json (the
labelled windows of every series). One configuration for all series and one threshold for the whole corpus, the best
one per profile, as the benchmark demands. 100 is perfect, 0 is a detector that never fires.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

if not __package__:  # run as a file: the directory above holds our packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.nab_score import PROFILES, Result, Scorer, Series, read_corpus
from curb.detector.rules.metric_rule import MetricHead
from curb.detector.rules.metric_tail import MetricSettings

Floats = NDArray[np.float64]
T = TypeVar("T")

OURS = "Curb, metric head"
#: Longest warm-up: the benchmark's longest probation.
SETTINGS = MetricSettings(warmup_points=750)
_LEAST_WARMUP = 30
#: One grid step down and up; of all other numbers a quarter.
_STEPS: dict[str, tuple[float, float]] = {
    "fire_at": (-0.5, 0.5),
    "tail_share": (-0.005, 0.005),
    "season_bins": (-24, 24),
    "season_memory": (-2, 2),
    "season_known": (-1, 1),
}
_FIXED = {"one_sided", "warmup_points"}
_SPLITS = 6


def score_corpus(settings: MetricSettings, corpus: Sequence[Series], progress: bool = False) -> list[Floats]:
    """Scores of every point, all series in lockstep; the warm-up of a series is its probation."""
    head = MetricHead(settings, capacity=len(corpus))
    for number, series in enumerate(corpus, 1):
        head.grow(number, min(max(series.probation, _LEAST_WARMUP), settings.warmup_points))
    length = max(len(series.timestamps) for series in corpus)
    values, day_share = np.full((length, len(corpus)), np.nan), np.zeros((length, len(corpus)))
    for number, series in enumerate(corpus):
        values[: series.values.size, number] = series.values
        day_share[: series.values.size, number] = series.day_share
    scores = np.zeros_like(values)
    for at in _progress(range(length), "metric head", progress):
        scores[at] = head.step(values[at], day_share[at]).score
    return [scores[: series.values.size, number] for number, series in enumerate(corpus)]


def neighbours(settings: MetricSettings) -> Iterator[tuple[str, float, MetricSettings]]:
    """Every parameter moved one grid step down and up: its name, its value and the settings."""
    for name in MetricSettings.model_fields.keys() - _FIXED:
        value = getattr(settings, name)
        down, up = _STEPS.get(name, (-value / 4, value / 4))
        for moved in (value + down, value + up):
            yield name, moved, settings.model_copy(update={name: moved})


@dataclass(frozen=True)
class Report:
    """One detector's results by profile, and by category at the thresholds of the whole corpus."""

    total: dict[str, Result]
    categories: dict[str, dict[str, Result]]

    def as_json(self) -> dict[str, Any]:
        """By profile."""
        return {
            name: {
                **result.as_json(),
                "categories": {category: each[name].as_json() for category, each in self.categories.items()},
            }
            for name, result in self.total.items()
        }


def report(corpus: Sequence[Series], scores: Sequence[Floats]) -> Report:
    """Results of one detector."""
    scorer = Scorer(corpus, scores)
    total = {name: scorer.best(profile) for name, profile in PROFILES.items()}
    members: dict[str, list[int]] = {}
    for number, series in enumerate(corpus):
        members.setdefault(series.category, []).append(number)
    categories = {
        category: {name: scorer.at(total[name].threshold, profile, only) for name, profile in PROFILES.items()}
        for category, only in members.items()
    }
    return Report(total, categories)


def cross_validate(corpus: Sequence[Series], scores: Sequence[Floats]) -> dict[str, Any]:
    """Standard score of half the series at the threshold that is best for the other half; twelve halves."""
    scorer, profile = Scorer(corpus, scores), PROFILES["standard"]
    learned, own = [], []
    for split in range(_SPLITS):
        order = list(range(len(corpus)))
        random.Random(split).shuffle(order)
        order.sort(key=lambda number: corpus[number].category)
        for train, test in ((order[::2], order[1::2]), (order[1::2], order[::2])):
            learned.append(scorer.at(scorer.best(profile, train).threshold, profile, test).score)
            own.append(scorer.best(profile, test).score)
    kept = [score for score in learned if math.isfinite(score)]
    if not kept:
        return {"halves": 0}
    return {
        "halves": len(kept),
        "mean": statistics.fmean(kept),
        "least": min(kept),
        "greatest": max(kept),
        "mean_with_own_threshold": statistics.fmean(score for score in own if math.isfinite(score)),
    }


def sensitivity(corpus: Sequence[Series], settings: MetricSettings, jobs: int) -> list[dict[str, Any]]:
    """Standard score with each parameter moved one grid step, the worst first."""
    moves = sorted(neighbours(settings), key=lambda move: move[:2])
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(_standard_score, ((each, corpus) for _, _, each in moves))
        rows = [
            {"parameter": name, "value": value, "score": score}
            for (name, value, _), score in zip(moves, _progress(results, "sensitivity", True, len(moves)), strict=True)
        ]
    return sorted(rows, key=lambda row: row["score"])


def _standard_score(work: tuple[MetricSettings, Sequence[Series]]) -> float:
    settings, corpus = work
    return Scorer(corpus, score_corpus(settings, corpus)).best(PROFILES["standard"]).score


def write_scores(path: Path, corpus: Sequence[Series], scores: Sequence[Floats]) -> None:
    """A row for every point: series,timestamp,score."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("series", "timestamp", "score"))
        for series, score in zip(corpus, scores, strict=True):
            rows = zip(series.timestamps, score.tolist(), strict=True)
            writer.writerows((series.name, timestamp, value) for timestamp, value in rows)


def _progress(items: Iterable[T], what: str, shown: bool, total: int | None = None) -> Iterable[T]:
    if not shown:
        return items
    return track(items, f"{what:<32}", total, console=Console(stderr=True), transient=True)


def run_peers(corpus: Sequence[Series]) -> dict[str, Report]:
    """The other detectors."""
    # River takes a second to import; nothing else here needs it.
    from benchmarks.nab_peers import PEERS

    return {
        name: report(corpus, [peer(series) for series in _progress(corpus, name, True)]) for name, peer in PEERS.items()
    }


def tables(reports: dict[str, Report]) -> str:
    """All results as Markdown."""
    lines = ["| detector | standard | low FP | low FN | windows hit | FP points |", "|---|---|---|---|---|---|"]
    for name, each in reports.items():
        scores = " | ".join(f"{result.score:.1f}" for result in each.total.values())
        standard = each.total["standard"]
        hit = f"{standard.windows_hit} of {standard.windows}"
        lines.append(f"| {name} | {scores} | {hit} | {standard.false_positives} |")
    lines += ["", f"{OURS}, by category:", ""]
    lines += ["| category | standard | low FP | low FN | windows hit | FP points |", "|---|---|---|---|---|---|"]
    for category, results in reports[OURS].categories.items():
        scores = " | ".join("-" if math.isnan(each.score) else f"{each.score:.1f}" for each in results.values())
        standard = results["standard"]
        hit = f"{standard.windows_hit} of {standard.windows}"
        lines.append(f"| {category} | {scores} | {hit} | {standard.false_positives} |")
    return "\n".join(lines)


def _extras(outcome: dict[str, Any]) -> str:
    lines = []
    if "cross_validation" in outcome:
        found = outcome["cross_validation"]
        lines += ["", "Threshold chosen on one half of the series, standard score of the other half:"]
        lines.append(json.dumps(found))
    if "sensitivity" in outcome:
        rows = outcome["sensitivity"]
        lines += ["", "Standard score with one parameter a grid step away, the worst first:", ""]
        lines += ["| parameter | value | standard |", "|---|---|---|"]
        lines += [f"| {row['parameter']} | {row['value']:g} | {row['score']:.1f} |" for row in rows]
        lines += ["", f"Worst {rows[0]['score']:.1f}, mean {statistics.fmean(row['score'] for row in rows):.1f}."]
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/nab.py",
        description=__doc__,
        epilog="Example: python benchmarks/nab.py --data nab --scores scores.csv --json > result.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of nab.csv.gz and nab_windows.json")
    parser.add_argument("--scores", type=Path, help="write series,timestamp,score for every point to this CSV file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables; progress is on stderr")
    parser.add_argument("--no-peers", action="store_true", help="leave out the other detectors (half of the time)")
    parser.add_argument(
        "--cross-validate", action="store_true", help="also choose the threshold on halves of the series"
    )
    parser.add_argument(
        "--sensitivity", action="store_true", help="also move each parameter one grid step both ways (minutes)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes of --sensitivity; default 1")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 if the data cannot be read."""
    arguments = _arguments(argv)
    try:
        corpus = read_corpus(arguments.data)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot read the benchmark in {arguments.data}: {error}", file=sys.stderr)
        return 2
    scores = score_corpus(SETTINGS, corpus, progress=True)
    if arguments.scores is not None:
        write_scores(arguments.scores, corpus, scores)
    reports = {OURS: report(corpus, scores)}
    if not arguments.no_peers:
        reports |= run_peers(corpus)
    outcome: dict[str, Any] = {
        "series": len(corpus),
        "points": sum(len(series.timestamps) for series in corpus),
        "score": reports[OURS].total["standard"].as_json()["score"],
        "detectors": {name: each.as_json() for name, each in reports.items()},
    }
    if arguments.cross_validate:
        outcome["cross_validation"] = cross_validate(corpus, scores)
    if arguments.sensitivity:
        outcome["sensitivity"] = sensitivity(corpus, SETTINGS, arguments.jobs)
    print(json.dumps(outcome, indent=2) if arguments.json else tables(reports) + "\n" + _extras(outcome))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
