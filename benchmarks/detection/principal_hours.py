"""What each principal of a labelled stream did in each hour: the features a population of principals is judged by."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AMOUNTS = ("cost", "requests", "errors", "users", "input_tokens", "output_tokens")
_FIELDS = ("cost_usd", *AMOUNTS[1:])


class Principal(NamedTuple):
    """A key, or a job that runs on it."""

    key: str
    job: str


@dataclass
class Stream:
    """Sums per principal and step; `seen_*` is the first step of each model or region of a principal."""

    start: float
    step_s: int
    principals: list[Principal]
    #: Shape (len(AMOUNTS), principals, steps).
    sums: Floats
    #: (principal, step) → dollars on a model, and in a region, that the key had not used a day before.
    new_model_usd: Floats
    new_region_usd: Floats


@dataclass(frozen=True)
class Label:
    """Something that was put into the stream: the step where it had cost `usd` dollars is where an alert is due."""

    id: str
    kind: str
    incident: bool
    principal: Principal
    #: Step and dollars of excess.
    steps: NDArray[np.int64]
    excess: Floats


def epoch(text: str) -> float:
    """Seconds of an ISO time."""
    return datetime.fromisoformat(text).timestamp()


def load(directory: Path) -> Stream:
    """Read events.jsonl.gz; a repeated id counts once."""
    ids: set[str] = set()
    rows: list[tuple[float, Principal, str, str, list[float]]] = []
    with gzip.open(directory / "events.jsonl.gz", "rb") as lines:
        for line in lines:
            event = json.loads(line)
            if event["src"] != "llm" or event["id"] in ids:
                continue
            ids.add(event["id"])
            tags = event["tags"]
            who = Principal(tags["api_key"], tags.get("job", ""))
            amounts = [float(event.get(name) or 0.0) for name in _FIELDS]
            rows.append((epoch(event["ts"]), who, tags.get("model", ""), tags.get("region", ""), amounts))
    return _stream(rows)


def _stream(rows: list[tuple[float, Principal, str, str, list[float]]]) -> Stream:
    times = sorted({row[0] for row in rows})
    step_s = int(min(np.diff(times)))
    principals = sorted({row[1] for row in rows})
    number = {who: i for i, who in enumerate(principals)}
    steps = int((times[-1] - times[0]) // step_s) + 1
    sums = np.zeros((len(AMOUNTS), len(principals), steps))
    new = {"model": np.zeros((len(principals), steps)), "region": np.zeros((len(principals), steps))}
    first: dict[tuple[str, str, str], int] = {}
    born: dict[str, int] = {}
    day = 86400 // step_s
    for at, who, model, region, amounts in sorted(rows, key=lambda row: row[0]):
        i, step = number[who], int((at - times[0]) // step_s)
        sums[:, i, step] += amounts
        birth = born.setdefault(who.key, step)
        for what, value in (("model", model), ("region", region)):
            since = first.setdefault((who.key, what, value), step)
            if since > birth + day and step < since + day:
                new[what][i, step] += amounts[0]
    return Stream(times[0], step_s, principals, sums, new["model"], new["region"])


def labels(directory: Path, stream: Stream) -> list[Label]:
    """The labels on language-model spend, in the order of the file."""
    with gzip.open(directory / "truth.csv.gz", "rt") as file:
        truth: dict[str, list[tuple[int, float]]] = {}
        for row in csv.DictReader(file):
            step = int((epoch(row["ts"]) - stream.start) // stream.step_s)
            truth.setdefault(row["label_id"], []).append((step, float(row["excess_usd"])))
    return [
        _label(each, truth[each["id"]])
        for each in json.loads((directory / "labels.json").read_text(encoding="utf-8"))["labels"]
        if each["id"] in truth and "api_key" in each["tags"] and each["label"] != "immaterial"
    ]


def _label(each: dict[str, Any], truth: Iterable[tuple[int, float]]) -> Label:
    pairs = sorted(truth)
    who = Principal(each["tags"]["api_key"], each["tags"].get("job", ""))
    steps, excess = np.array([step for step, _ in pairs]), np.array([usd for _, usd in pairs])
    return Label(each["id"], each["kind"], each["label"] == "incident", who, steps, excess)


def due_step(label: Label, usd: float, least_steps: int) -> int:
    """The step at whose end the label had cost `usd` dollars and lasted `least_steps`; its last one if it never did."""
    enough = np.flatnonzero((np.cumsum(label.excess) >= usd) & (label.steps >= label.steps[0] + least_steps - 1))
    return int(label.steps[enough[0]] if len(enough) else label.steps[-1])


def trailing(values: Floats, steps: int) -> Floats:
    """Sums of the last `steps` steps at each step, over the last axis."""
    total = np.cumsum(values, axis=-1)
    total[..., steps:] -= total[..., :-steps].copy()
    return total
