"""Labelled streams of the benchmark: made from real traces by a generator outside the project, cached, and varied."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from curb.evaluate.score import LABELS_FILE, TRUTH_FILE, epoch, has_labels

EVENTS_FILE, GENERATOR = "events.jsonl.gz", "inject.py"
CACHE = Path(tempfile.gettempdir()) / "curb-bench"
#: An incident whose excess is below this is scored neither way.
MATERIAL_USD = 10.0
#: Milder incidents: half the dollars, on and off, smaller factors.
_WEAK = {
    "agent_usd_min": (0.04, 12.5),
    "leak_usd_min": (0.04, 15),
    "fan_usd_min": (7.5, 30),
    "loop_duty": (0.3, 0.8),
    "leak_duty": (0.3, 0.8),
    "retry_x": (2, 7),
    "bloat_x": (2.5, 10),
    "creep_day": (0.06, 0.14),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How the streams of a variant are made: by the generator, or out of another variant's stream."""

    step_s: int = 300
    clean: bool = False
    parameters: dict[str, Any] | None = None
    of: str = ""
    change: Callable[[Stream, int], None] | None = None
    #: Digest of what made it; a cached stream with another one is made anew.
    digest: str = ""


@dataclass
class Stream:
    """A stream in memory. Rows are the lines with `ts` and `recv` as epoch seconds, in order of arrival."""

    meta: dict[str, Any]
    rows: list[Row]
    labels: list[dict[str, Any]]
    #: Excess dollars by label id and epoch seconds of the step.
    truth: dict[str, dict[float, float]]
    #: Lines that are no rows, with when they arrive.
    raw: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def start(self) -> float:
        return epoch(self.meta["start"])

    @property
    def end(self) -> float:
        return epoch(self.meta["end"])

    @property
    def step_s(self) -> int:
        return int(self.meta["step_s"])

    def restate_labels(self) -> None:
        """Bring the labels' dollars in line with the truth."""
        for label in self.labels:
            excess = self.truth.get(label["id"], {})
            minutes = (epoch(label["end"]) - epoch(label["start"])) / 60
            label["excess_usd"] = round(sum(excess.values()), 2)
            label["mean_usd_per_min"] = round(label["excess_usd"] / max(minutes, 1e-9), 4)
            label["peak_usd_per_min"] = round(max(excess.values(), default=0.0) * 60 / self.step_s, 3)
            for stale in ("min_to_10usd", "min_to_100usd"):
                label.pop(stale, None)
            if label["label"] == "incident" and label["excess_usd"] < MATERIAL_USD:
                label["label"] = "immaterial"


def iso(at: float) -> str:
    """RFC 3339 in whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- files --------------------------------------------------------------------------------------------------------


def load(directory: Path) -> Stream:
    """The stream in a directory."""
    found = json.loads((directory / LABELS_FILE).read_text(encoding="utf-8"))
    moments: dict[str, float] = {}

    def moment(text: str) -> float:
        at = moments.get(text)
        if at is None:
            at = moments[text] = epoch(text)
        return at

    decode = msgspec.json.Decoder().decode
    rows = []
    with gzip.open(directory / EVENTS_FILE) as file:
        for line in file:
            row = decode(line)
            row["ts"] = moment(row["ts"])
            row["recv"] = moment(row["recv"]) if "recv" in row else row["ts"]
            rows.append(row)
    truth: dict[str, dict[float, float]] = {}
    with gzip.open(directory / TRUTH_FILE, "rt", encoding="utf-8") as text:
        next(text)
        for entry in text:
            at, label_id, usd = entry.rstrip().split(",")
            truth.setdefault(label_id, {})[moment(at)] = float(usd)
    return Stream(found["meta"], rows, found["labels"], truth)


def save(stream: Stream, directory: Path) -> None:
    """Write a stream the way the generator does; complete or not at all."""
    unfinished = directory.with_name(directory.name + f".{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    encode, lines = msgspec.json.encode, list(stream.raw)
    for row in stream.rows:
        times = {"ts": iso(row["ts"])} if row["src"] == "plan" else {"ts": iso(row["ts"]), "recv": iso(row["recv"])}
        lines.append((row["recv"], encode({**row, **times} if row["src"] != "plan" else _without_recv(row, times))))
    lines.sort(key=lambda line: line[0])
    with gzip.GzipFile(unfinished / EVENTS_FILE, "wb", 4, mtime=0) as file:
        file.write(b"\n".join(line for _, line in lines) + b"\n")
    (unfinished / LABELS_FILE).write_text(json.dumps({"meta": stream.meta, "labels": stream.labels}, indent=1))
    with gzip.GzipFile(unfinished / TRUTH_FILE, "wb", 6, mtime=0) as file:
        truth = [
            f"{iso(at)},{key},{usd:.6f}" for key, steps in stream.truth.items() for at, usd in sorted(steps.items())
        ]
        file.write("\n".join(["ts,label_id,excess_usd", *truth, ""]).encode())
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def _without_recv(row: Row, times: dict[str, str]) -> Row:
    return {name: value for name, value in row.items() if name != "recv"} | times


# --- variants -----------------------------------------------------------------------------------------------------


def without_users(stream: Stream, seed: int) -> None:
    """A source that does not know its users."""
    for row in stream.rows:
        row.pop("users", None)


def noisy_users(stream: Stream, seed: int, sd: float = 0.35, correlation_h: float = 4.0) -> None:
    """Users times a noise of its own per key: exp of an Ornstein-Uhlenbeck process."""
    keys = sorted({row["tags"]["api_key"] for row in stream.rows if row["src"] == "llm"})
    column = {key: i for i, key in enumerate(keys)}
    steps = int((stream.end - stream.start) // stream.step_s) + 1
    rng = np.random.default_rng([seed, 1])
    noise = np.exp(ornstein_uhlenbeck(rng, steps, len(keys), sd, correlation_h * 3600 / stream.step_s))
    for row in stream.rows:
        if row["src"] == "llm" and "users" in row:
            step = int((row["ts"] - stream.start) // stream.step_s)
            row["users"] = max(1, round(row["users"] * float(noise[step, column[row["tags"]["api_key"]]])))


def ornstein_uhlenbeck(
    rng: np.random.Generator, steps: int, series: int, sd: float, correlation_steps: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Stationary noise of standard deviation `sd`, shape (steps, series)."""
    keep = float(np.exp(-1 / correlation_steps))
    shocks = rng.normal(0, sd, (steps, series))
    shocks[1:] *= np.sqrt(1 - keep**2)
    for i in range(1, steps):
        shocks[i] += keep * shocks[i - 1]
    return shocks


def _hard(stream: Stream, seed: int) -> None:
    from benchmarks.detection.harder import make_harder

    make_harder(stream, seed)


def _digest() -> str:
    """Changes with the code that varies streams."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in ("streams.py", "harder.py"))).hexdigest()[:16]


def recipes() -> dict[str, Recipe]:
    """Every variant by name."""
    digest = _digest()
    return {
        "base": Recipe(),
        "nousers": Recipe(of="base", change=without_users, digest=digest),
        "noisyusers": Recipe(of="base", change=noisy_users, digest=digest),
        "hard": Recipe(of="base", change=_hard, digest=digest),
        "weak": Recipe(parameters=_WEAK),
        "60s": Recipe(step_s=60),
        "clean": Recipe(clean=True),
    }


def make(variant: str, seed: int, data: Path | None, cache: Path = CACHE) -> Path:
    """The directory of a stream; makes what is not in the cache. `data` holds the generator and its traces.

    Raises FileNotFoundError without the generator, RuntimeError when it fails, KeyError for an unknown variant.
    """
    recipe = recipes()[variant]
    directory = cache / f"{variant}-s{seed}"
    if has_labels(directory) and (not recipe.of or _made_with(directory) == recipe.digest):
        return directory
    if recipe.change is None:
        _generate(recipe, seed, data, directory)
        return directory
    stream = load(make(recipe.of, seed, data, cache))
    recipe.change(stream, seed)
    stream.meta |= {"variant": variant, "recipe": recipe.digest}
    save(stream, directory)
    return directory


def _made_with(directory: Path) -> str:
    meta = json.loads((directory / LABELS_FILE).read_text(encoding="utf-8"))["meta"]
    return str(meta.get("recipe", ""))


def _generate(recipe: Recipe, seed: int, data: Path | None, directory: Path) -> None:
    generator = None if data is None else data / GENERATOR
    if generator is None or not generator.exists():
        raise FileNotFoundError(f"{directory} is not there, and making it needs --data: a directory with {GENERATOR}")
    traces = generator.parent / "dev"
    unfinished = directory.with_name(directory.name + f".{os.getpid()}.tmp")
    unfinished.mkdir(parents=True, exist_ok=True)
    arguments: list[str | Path] = [sys.executable, generator, "--rate", traces / "servegen_dev_rate_10min.csv.gz"]
    arguments += ["--tokens", traces / "servegen_dev_tokens_6h.csv.gz", "--gpu", traces / "gpu_pods_1day.csv.gz"]
    arguments += ["--prices", traces / "price_book_llm.csv.gz", "--gpu-prices", traces / "price_book_gpu.csv"]
    arguments += ["--max-keys", "80", "--seed", str(seed), "--step", str(recipe.step_s), "--out", unfinished]
    arguments += ["--clean"] if recipe.clean else []
    if recipe.parameters is not None:
        (unfinished / "parameters.json").write_text(json.dumps(recipe.parameters))
        arguments += ["--params", unfinished / "parameters.json"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env={**os.environ, **one_thread})
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RuntimeError(f"{GENERATOR} failed for seed {seed}: {done.stderr.strip()[-500:]}")
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)
