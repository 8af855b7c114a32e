"""Curb's detector on one stream after the other, in processes of their own."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.detection.streams import iso, make, recipes
from curb.detector.rules.table import RULES
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import AlertLife, replay
from curb.evaluate.score import Score, fired, read_labels, score

#: Settings by dotted path from the detector's, such as {"score.page_threshold": 2.5}.
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One stream to be measured, and what differs from the shipped defaults."""

    variant: str
    seed: int
    data: Path | None
    cache: Path
    overrides: Overrides = field(default_factory=dict)
    name: str = ""


@dataclass
class Result:
    """What the detector made of it. `rows` are those of `curb backtest`, in order of time of the first alert."""

    job: Job
    directory: Path
    #: Of the CPU.
    seconds: float
    events: int
    rows: list[dict[str, Any]]
    both: Score
    page: Score

    @property
    def interrupting(self) -> list[dict[str, Any]]:
        """The rows behind `both`: positions in it count in this list."""
        return in_order(self.rows)


def patched(settings: DetectorSettings, overrides: Overrides) -> DetectorSettings:
    """Settings with some values replaced. Raises KeyError for a path that is none, ValueError for a bad value."""
    values = settings.model_dump()
    own = {rule.name: rule.config().model_dump() for rule in RULES if not rule.settings_at}
    for path, value in overrides.items():
        *parents, last = path.removeprefix("detector.").split(".")
        part = values
        if parents[:1] == ["rules"]:  # a rule without a place of its own has its defaults there
            values["rules"] = {name: own[name] for name in parents[1:2]} | values["rules"]
        for parent in parents:
            part = part[parent]
        if last not in part:
            raise KeyError(f"the detector has no setting {path}; there are {', '.join(sorted(part))}")
        part[last] = value
    return DetectorSettings.model_validate(values)


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pages and notices in the order in which `curb.scoring.fired` lists them."""
    told = [row for row in rows if row["tier"] in ("page", "notice")]
    return sorted(told, key=lambda row: fired([row])[0].at)


def without_dead_letters() -> None:
    """The broken lines of hard streams are what it is for: nobody needs to read of each."""
    for name in ("curb.connectors", "curb.stream.records.dead_letters"):
        logging.getLogger(name).setLevel(logging.ERROR)


def measure(job: Job) -> Result:
    """Replay a stream and score what came of it."""
    without_dead_letters()
    directory = make(job.variant, job.seed, job.data, job.cache)
    started = time.process_time()
    backtest = replay(directory, patched(DetectorSettings(), job.overrides))
    seconds = time.process_time() - started
    rows = [_row(life) for life in backtest.alerts.values()]
    labels = read_labels(directory)
    both, page = score(labels, fired(rows)), score(labels, fired(rows, "page"))
    return Result(job, directory, seconds, backtest.events, rows, both, page)


def _row(life: AlertLife) -> dict[str, Any]:
    """A line of the back-test's output, and what pictures need beside it."""
    first, last = life.first, life.last
    more = {"score": last.score, "confidence": last.confidence, "loudest": last.channel}
    more |= {"channel": first.channel, "expected_usd_per_hour": first.expected_usd_per_hour}
    return life.row() | more | {"started_at": iso(first.started_at), "told": first.explanation}


def measure_all(jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Results as they come. Streams with the finest steps take longest and go first; missing bases are made first."""
    known = recipes()
    bases = {(known[job.variant].of, job.seed): job for job in jobs if known[job.variant].of}
    todo = sorted(jobs, key=lambda job: known[job.variant].step_s)
    if processes <= 1 or len(jobs) <= 1:
        yield from map(measure, todo)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        # Variants of one stream would all make it at the same time.
        pool.starmap(make, [(base, seed, job.data, job.cache) for (base, seed), job in bases.items()], chunksize=1)
        yield from pool.imap_unordered(measure, todo, chunksize=1)
