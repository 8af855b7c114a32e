"""The command: streams, the detector, the methods beside it, one table against the bars, one chart."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.detection import chart
from benchmarks.detection.figures import as_json, methods_as_json
from benchmarks.detection.measure import Job, Result, measure_all, without_dead_letters
from benchmarks.detection.peers import peers, read_events, run_peers
from benchmarks.detection.streams import CACHE, make, recipes
from benchmarks.detection.tables import Method, by_variant, kinds_table, methods_table, misses, variant_table
from curb.evaluate.score import Fired, IncidentResult, epoch, read_labels, score
from curb.stream.records.spend import SpendRecord

DATA_VARIABLE = "CURB_TEST_DATA"


def parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """The options that every command of the benchmark has."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=description)
    given = os.environ.get(DATA_VARIABLE)
    made.add_argument("--data", type=Path, default=given, help=f"directory of inject.py; default: ${DATA_VARIABLE}")
    made.add_argument("--cache", type=Path, default=CACHE, help="where streams and peers' results are kept")
    made.add_argument("--seeds", default="79-88", help="such as 79-88 or 1,2,31-33")
    made.add_argument("--variants", default="base", help="comma-separated: " + ",".join(recipes()))
    made.add_argument("--jobs", type=int, default=2, help="processes")
    made.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting of the detector")
    return made


def numbers(text: str) -> list[int]:
    """'1,3-5' → [1, 3, 4, 5]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """PATH=VALUE, the value as YAML."""
    return {path: yaml.safe_load(value) for path, _, value in (pair.partition("=") for pair in pairs)}


def jobs(arguments: argparse.Namespace, **fields: Any) -> list[Job]:
    """One per variant and seed. A variant may bring seeds of its own: `60s:21-22`."""
    found = []
    for name in arguments.variants.split(","):
        variant, _, seeds = name.partition(":")
        if variant not in recipes():
            raise SystemExit(f"no variant {variant!r}; there are {', '.join(recipes())}")
        found += [
            Job(variant, seed, arguments.data, arguments.cache, **fields) for seed in numbers(seeds or arguments.seeds)
        ]
    return found


def measured(todo: Sequence[Job], processes: int, console: Console) -> list[Result]:
    """All results in the order of the jobs, behind a progress bar."""
    columns = (TextColumn("streams"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for result in measure_all(todo, processes):
            results.append(result)
            progress.advance(task)
    order = {(job.name, job.variant, job.seed): i for i, job in enumerate(todo)}
    return sorted(results, key=lambda result: order[result.job.name, result.job.variant, result.job.seed])


# --- methods beside it --------------------------------------------------------------------------------------------


#: Variants whose dollars are those of `base`; the other methods see nothing else.
_SAME_DOLLARS = ("nousers", "noisyusers")


def _peers_of(job: Job) -> tuple[tuple[str, int], dict[str, list[Fired]]]:
    without_dead_letters()
    variant = "base" if job.variant in _SAME_DOLLARS else job.variant
    directory = make(variant, job.seed, job.data, job.cache)
    return (job.variant, job.seed), run_peers(directory, recipes()[variant].step_s)


def compare(results: Sequence[Result], processes: int) -> dict[str, list[Method]]:
    """By variant: Curb with both tiers, its pages alone, then every peer."""
    todo = [result.job for result in results]
    with multiprocessing.get_context("spawn").Pool(max(1, min(processes, len(todo)))) as pool:
        told = dict(pool.map(_peers_of, todo, chunksize=1))
    found = {}
    for variant, mine in by_variant(results).items():
        labels = [read_labels(result.directory) for result in mine]
        methods = [
            Method("Curb", "Curb", [result.both for result in mine]),
            Method("Curb, pages alone", "Curb", [result.page for result in mine]),
        ]
        for peer in peers():
            alerts = [told[variant, result.job.seed][peer.name] for result in mine]
            scores = [score(stream, some) for stream, some in zip(labels, alerts, strict=True)]
            methods.append(Method(peer.name, peer.family, scores))
        found[variant] = methods
    return found


def draw_overview(methods: Sequence[Method], title: str, path: Path) -> None:
    """The chart of all methods."""
    points = []
    for method in methods:
        recall, noise, lost = (method.mean(name) for name in ("recall", "noise_per_day", "usd_lost_share"))
        if recall is not None and noise is not None and lost is not None:
            points.append(chart.Point(method.name, method.family, recall, noise, lost))
    chart.write(chart.overview(points, title), path)


def draw_incidents(results: Sequence[Result], directory: Path) -> None:
    """For each kind, the incident that was caught in the median time, and the dearest that was missed."""
    caught: dict[str, list[tuple[float, Result, IncidentResult]]] = {}
    missed: dict[str, list[tuple[float, Result, IncidentResult]]] = {}
    for result in results:
        for outcome in result.both.outcomes:
            label, told = outcome.label, outcome.caught_by
            if told is None:
                missed.setdefault(label.kind, []).append((-label.excess_usd, result, outcome))
            else:
                at = epoch(result.interrupting[told]["fired_at"])
                caught.setdefault(label.kind, []).append((at - label.start, result, outcome))
    chosen = {}
    for kind, some in caught.items():
        chosen[kind] = sorted(some, key=itemgetter(0))[len(some) // 2]
    for kind, some in missed.items():
        chosen[f"{kind}_missed"] = min(some, key=itemgetter(0))
    events: dict[Path, Sequence[SpendRecord]] = {}
    for name, (_, result, outcome) in sorted(chosen.items(), key=lambda item: str(item[1][1].directory)):
        if result.directory not in events:
            events = {result.directory: read_events(result.directory)}
        alert = None if outcome.caught_by is None else result.interrupting[outcome.caught_by]
        step_s = recipes()[result.job.variant].step_s
        picture = chart.incident(events[result.directory], outcome.label, alert, step_s)
        chart.write(picture, directory / f"{name}.png")


# --- the command --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    made = parser()
    made.add_argument("--misses", action="store_true", help="what was missed, late, noise or a flagged look-alike")
    made.add_argument(
        "--peers", action="store_true", help="other methods on the same streams; a minute per stream, once"
    )
    made.add_argument("--json", type=Path, help="write all figures here")
    made.add_argument("--chart", type=Path, help="draw all methods on the first variant here (PNG); means --peers")
    made.add_argument(
        "--pictures", type=Path, help="draw one incident of each kind of the first variant into this directory"
    )
    arguments = made.parse_args(argv)
    console = Console(width=None if Console().is_terminal else 150)
    results = measured(jobs(arguments, overrides=overrides(arguments.set)), arguments.jobs, console)
    grouped = by_variant(results)
    for variant, found in grouped.items():
        console.print(variant_table(variant, found))
    console.print(kinds_table(grouped))
    methods = {}
    if arguments.peers or arguments.chart:
        methods = compare(results, arguments.jobs)
        for variant, several in methods.items():
            console.print(methods_table(variant, several))
    if arguments.misses:
        for result in results:
            console.print("\n".join(misses(result)), markup=False, highlight=False, soft_wrap=True)
    if arguments.json:
        figures = {"streams": as_json(results), "methods": methods_as_json(methods)}
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if arguments.chart:
        variant, several = next(iter(methods.items()))
        title = (
            f"{len(several[0].scores)} streams of real traces ({variant}): what each method catches, and at what price"
        )
        draw_overview(several, title, arguments.chart)
    if arguments.pictures:
        draw_incidents(next(iter(grouped.values())), arguments.pictures)
