"""Whether rows of other periods, off the grid and late, give the same alerts: re-cuts a labelled stream, scores it.

    python -m benchmarks.detection.periods DIRECTORY [--moves 0,149,420,1440] [--rows 60,300,900,3600] [--late 0,1800]

`DIRECTORY` holds a labelled stream. Every time is moved by so many seconds, every row is split or added up to cover so
many seconds, and is received up to so many seconds after its end: `1800` is all of them by 30 minutes, `~1800` is each
by its own share of 30 minutes. One line of the table is one back-test of the shipped defaults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.streams import Row, Stream, load, save
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay
from curb.evaluate.score import fired, read_labels, score

_COUNTS = ("requests", "input_tokens", "output_tokens", "errors", "users")
_SAMPLES = ("gpu_util_pct", "gpu_mem_gib")


@dataclass(frozen=True)
class Delivery:
    """How a stream is changed, seconds. `spread` gives each row its own share of `late_s`."""

    move_s: int
    rows_s: int
    late_s: int
    spread: bool

    def __str__(self) -> str:
        late = f"0 to {self.late_s // 60} min" if self.spread else f"{self.late_s // 60} min"
        return f"{self.move_s} s · rows of {self.rows_s} s · {late} late"


def change(stream: Stream, how: Delivery, seed: int = 0) -> None:
    """Re-cut, move and delay the rows of a stream; labels and truth move with them."""
    rng = np.random.default_rng(seed)
    plans = [row for row in stream.rows if row["src"] == "plan"]
    rows = [row for row in stream.rows if row["src"] != "plan"]
    step = stream.step_s
    if how.rows_s < step:
        rows = [part for row in rows for part in _split(row, step, how.rows_s)]
    elif how.rows_s > step:
        rows = list(_sums(rows, step, how.rows_s))
    for row in rows:
        delay = how.late_s * (float(rng.random()) if how.spread else 1.0)
        row["recv"] += how.move_s + delay
        row["ts"] += how.move_s
    for plan in plans:
        plan["ts"] += how.move_s
        plan["recv"] += how.move_s
        for name in ("start", "end"):
            plan[name] = _moved(plan[name], how.move_s)
    stream.rows = sorted([*plans, *rows], key=lambda row: row["recv"])
    for name in ("start", "end"):
        stream.meta[name] = _moved(stream.meta[name], how.move_s)
    for label in stream.labels:
        for name in ("start", "end", "regime_until"):
            if label.get(name):
                label[name] = _moved(label[name], how.move_s)
        if label.get("windows"):
            label["windows"] = [[_moved(a, how.move_s), _moved(b, how.move_s)] for a, b in label["windows"]]
    stream.truth = {key: {at + how.move_s: usd for at, usd in steps.items()} for key, steps in stream.truth.items()}


def _moved(text: str, move_s: int) -> str:
    moved = np.datetime64(text.removesuffix("Z"), "s") + np.timedelta64(move_s, "s")
    return f"{moved}Z"


def _split(row: Row, step: int, rows_s: int) -> Iterator[Row]:
    """Equal parts that add up to the row; each is received as long after its end as the row after its own."""
    parts = step // rows_s
    for number in range(parts):
        part = dict(row)
        part["id"] = f"{row['id']}/{number}"
        part["ts"] = row["ts"] + number * rows_s
        part["recv"] = row["recv"] - step + (number + 1) * rows_s
        for name in _COUNTS:
            if name in row:
                part[name] = row[name] * (number + 1) // parts - row[name] * number // parts
        part["cost_usd"] = row["cost_usd"] / parts
        yield part


def _sums(rows: Iterable[Row], step: int, rows_s: int) -> Iterator[Row]:
    """One row for each period and set of tags. What came late is added up apart, and comes as late."""
    sums: dict[tuple[Any, ...], Row] = {}
    samples: dict[tuple[Any, ...], int] = {}
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            continue
        seen.add(row["id"])
        start = row["ts"] // rows_s * rows_s
        late = max(0.0, row["recv"] - row["ts"] - step) // rows_s * rows_s
        key = (row["src"], json.dumps(row["tags"], sort_keys=True), start, late)
        total = sums.get(key)
        if total is None:
            sums[key] = {**row, "ts": start, "recv": start + rows_s + late}
            samples[key] = 1
            continue
        samples[key] += 1
        for name in (*_COUNTS, "cost_usd"):
            if name in row:
                total[name] += row[name]
        for name in _SAMPLES:
            if name in row:
                total[name] += (row[name] - total[name]) / samples[key]
    return iter(sums.values())


def measure(directory: Path, how: Delivery, bucket_s: int = 0) -> dict[str, Any]:
    """One back-test of the stream in `directory`, delivered like this."""
    with tempfile.TemporaryDirectory() as made:
        stream = load(directory)
        change(stream, how)
        save(stream, Path(made) / "stream")
        started = time.process_time()
        result = replay(Path(made) / "stream", DetectorSettings(), bucket_s)
        cpu_s = time.process_time() - started
        rows = [life.row() for life in result.alerts.values()]
        found = score(read_labels(Path(made) / "stream"), fired(rows))
    assert result.pipeline is not None
    judged = result.pipeline.judged
    return {
        "delivery": str(how),
        "caught": found.all_kinds.caught,
        "missed": found.missed,
        "incidents": found.all_kinds.incidents,
        "usd_lost": found.all_kinds.lost_share,
        "median_min": found.all_kinds.median_minutes,
        "look_alikes": len(found.benign_flagged),
        "noise": found.noise_per_day,
        "alerts": sum(row["tier"] != "digest" for row in rows),
        "negative": sum(row["excess_usd"] < 0 for row in rows),
        "not_judged": judged.late_usd / judged.usd if judged.usd else 0.0,
        "cpu_s": cpu_s,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--moves", default="0,149,420,1440")
    parser.add_argument("--rows", default="60,300,900,3600")
    parser.add_argument("--late", default="0,1800,~1800")
    parser.add_argument("--bucket-s", type=int, default=0)
    parser.add_argument("--out", type=Path, help="one line of JSON per back-test, appended")
    given = parser.parse_args(arguments)
    print(
        "| delivery | caught | $ lost | median min | look-alikes | noise/day | alerts | negative | not judged | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for rows in given.rows.split(","):
        for late in given.late.split(","):
            for move in given.moves.split(","):
                how = Delivery(int(move), int(rows), int(late.removeprefix("~")), late.startswith("~"))
                found = measure(given.directory, how, given.bucket_s)
                if given.out is not None:
                    with given.out.open("a") as file:
                        file.write(json.dumps(found) + "\n")
                print(
                    f"| {found['delivery']} | {found['caught']} of {found['incidents']} | {found['usd_lost']:.1%} "
                    f"| {found['median_min']:,.0f} | {found['look_alikes']} | {found['noise']:.2f} | {found['alerts']} "
                    f"| {found['negative']} | {found['not_judged']:.2%} | {found['cpu_s']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
