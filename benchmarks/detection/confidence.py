"""`python -m benchmarks.detection.confidence`: how often alerts that say "90 % sure" are right.

The share of alerts that fall on an incident that was put in, by rule and score, on some streams; and what the shipped
confidences say of it on others. An alert on a look-alike or on nothing is wrong; one on an incident too small to be
scored counts neither way. Real traffic is in the streams, so some of what is called wrong would have been of interest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.detection.measure import Job, measure_all
from benchmarks.detection.run import jobs, numbers, parser
from curb.detector.rules.table import settings_path
from curb.evaluate.score import GRACE_S, WARMUP_DAYS, Label, LabelledStream, epoch, read_labels
from curb.stream.records.spend import Tier
from curb.stream.time import DAY_S

#: Alerts of a rule below which nothing is said about it. By hand: 8 of 10 may be anything from 49 to 94 %.
ENOUGH = 10
#: Edges of what is said, of which each bin is compared with what was right.
BINS = (0.0, 0.35, 0.55, 0.7, 0.85, 0.95, 1.01)


class Judged(NamedTuple):
    """An alert that interrupted somebody, and whether it was of interest."""

    family: str
    tier: Tier
    score: float
    right: bool
    #: What it said, 0 for nothing.
    said: float = 0.0


class Step(NamedTuple):
    """From a score on, the share that was right."""

    score: float
    share: float
    alerts: int


def judged(stream: LabelledStream, rows: Iterable[dict[str, Any]]) -> list[Judged]:
    """The notices and pages of one stream after its warm-up."""
    found = []
    for row in rows:
        if row["tier"] not in ("page", "notice"):
            continue
        at = epoch(row["noticed_at"])
        if at < stream.start + WARMUP_DAYS * DAY_S:
            continue
        right = _right(stream.labels, at, row["tags"])
        if right is not None:
            family = row["loudest"].partition("/")[0]
            found.append(Judged(family, row["tier"], row["score"], right, row["confidence"]))
    return found


def _right(labels: Sequence[Label], at: float, tags: dict[str, str]) -> bool | None:
    on = {each.label for each in labels if each.start <= at <= each.end + GRACE_S and each.covers(tags)}
    if "incident" in on:
        return True
    return None if "immaterial" in on else False


def rising(found: Sequence[Judged], most: int = 4) -> list[Step]:
    """The share that was right by score, never falling: pools of neighbours (Ayer et al. 1955), of at least `ENOUGH`
    alerts each, and at most `most` of them. Each share is (right + 1) / (alerts + 2)."""
    pools: list[list[Judged]] = []
    for each in sorted(found, key=lambda one: one.score):
        pools.append([each])
        while len(pools) > 1 and (len(pools[-2]) < ENOUGH or _share(pools[-2]) >= _share(pools[-1])):
            pools[-2:] = [pools[-2] + pools[-1]]
    if len(pools) > 1 and len(pools[-1]) < ENOUGH:
        pools[-2:] = [pools[-2] + pools[-1]]
    while len(pools) > most:
        nearest = min(range(len(pools) - 1), key=lambda i: _share(pools[i + 1]) - _share(pools[i]))
        pools[nearest : nearest + 2] = [pools[nearest] + pools[nearest + 1]]
    return [Step(float(np.median([each.score for each in pool])), _share(pool), len(pool)) for pool in pools]


def _share(pool: Sequence[Judged]) -> float:
    return (sum(each.right for each in pool) + 1) / (len(pool) + 2)


def reliability(found: Sequence[Judged]) -> list[tuple[str, int, float, float]]:
    """By what alerts said: how many, the mean of what they said, and the share that was right."""
    table = []
    for low, high in itertools.pairwise(BINS):
        some = [each for each in found if low <= each.said < high and each.said > 0]
        if some:
            said, right = np.mean([each.said for each in some]), np.mean([each.right for each in some])
            table.append((f"{low:.0%} to {min(high, 1.0):.0%}", len(some), float(said), float(right)))
    return table


def lines(title: str, found: Sequence[Judged], seeds: str) -> list[str]:
    """Markdown of both tables for some streams."""
    out = [
        f"{title}, seeds {seeds}: {len(found)} alerts",
        "",
        "| rule | alerts | right | by score |",
        "|---|---|---|---|",
    ]
    for name in sorted({each.family for each in found}):
        own = [each for each in found if each.family == name]
        steps = ", ".join(f"{step.share:.0%} at {step.score:.3g} ({step.alerts})" for step in rising(own))
        enough = len(own) >= ENOUGH
        out.append(f"| {name} | {len(own)} | {sum(each.right for each in own)} | {steps if enough else 'too few'} |")
    for tier in ("page", "notice"):
        out += ["", f"| {tier}s that say | alerts | said | right |", "|---|---|---|---|"]
        some = [each for each in found if each.tier == tier]
        out += [f"| {name} | {n} | {said:.0%} | {right:.0%} |" for name, n, said, right in reliability(some)]
        out.append(f"| nothing | {sum(each.said == 0 for each in some)} | | |")
    return out


def collect(todo: Sequence[Job], processes: int, kept: Path | None) -> dict[int, list[Judged]]:
    """By seed, the alerts of all its variants; results are kept in a file, since streams take half a minute each."""
    found: dict[int, list[Judged]] = {}
    for result in measure_all(todo, processes):
        rows = judged(read_labels(result.directory), result.rows)
        found.setdefault(result.job.seed, []).extend(rows)
        if kept is not None:
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps({"variant": result.job.variant, "seed": result.job.seed, **row._asdict()}) + "\n"
                    for row in rows
                )
    return found


def main() -> None:
    """Measure on some streams, compare on others."""
    arguments = parser(__doc__)
    arguments.add_argument("--check", default="325-328", help="seeds to compare on")
    arguments.add_argument("--keep", type=Path, help="a file to which every alert is added, one a line")
    arguments.set_defaults(seeds="321-324", variants="base,nousers,noisyusers,hard,clean")
    given = arguments.parse_args()
    measured_on, checked_on = given.seeds, given.check
    given.seeds = f"{measured_on},{checked_on}"
    by_seed = collect(jobs(given), given.jobs, given.keep)
    console = Console(soft_wrap=True)
    for title, seeds in (("Measured", measured_on), ("Compared", checked_on)):
        found = [each for seed in numbers(seeds) for each in by_seed.get(seed, []) if settings_path(each.family)]
        console.print("\n".join([*lines(title, found, seeds), ""]), markup=False, highlight=False)


if __name__ == "__main__":
    main()
