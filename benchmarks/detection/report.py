"""Measures everything and writes it into the pages: `python -m benchmarks.detection.report --data DIR`.

Each part is a command of its own whose results are kept as JSON in `--results`; the tables of the pages, between
`<!-- table: NAME -->` and `<!-- end -->`, are written from there. `--parts` measures some parts anew, `--parts none`
none. The directory holds inject.py and dev/ for the streams, nab/ for the Numenta benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection import markdown, markdown_others
from benchmarks.detection.run import DATA_VARIABLE
from benchmarks.detection.streams import CACHE, make

DOCS = Path(__file__).resolve().parents[2] / "docs"
IMAGES, CHART = DOCS / "images" / "detection", "methods.png"
_MAKERS = {
    **markdown.MAKERS,
    "nab": markdown_others.nab,
    "simulator": markdown_others.simulator,
    "month_end": markdown_others.month_end,
}
#: Streams of the population model's table.
_POPULATION_SEEDS = (21, 22, 23)
#: Variants with seeds of their own cost more time, or are no more than a look aside.
_VARIANTS = "base,nousers,noisyusers,hard,60s:79-81,60s:84-86,clean:79-81,clean:84-86,weak:79-80,weak:84-85"


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """What measures each part, without the interpreter. Parts without `--json FILE` print what is kept."""
    data, results, seeds = arguments.data, arguments.results, arguments.seeds
    common = ["--data", str(data), "--cache", str(arguments.cache), "--jobs", str(arguments.jobs)]
    drawn = results / "pictures"
    images = ["--peers", "--chart", str(drawn / CHART), "--pictures", str(drawn)]
    variants = ["--variants", arguments.variants, "--seeds", seeds, *images]
    population = [str(make("base", seed, data, arguments.cache)) for seed in _POPULATION_SEEDS]
    return {
        "detection": ["benchmarks.detection", *common, *variants, "--json", str(results / "detection.json")],
        "ablation": [
            "benchmarks.detection.ablation",
            *(*common, "--seeds", arguments.ablation_seeds, "--json", str(results / "ablation.json")),
        ],
        "nab": ["benchmarks.nab", "--data", str(data / "nab"), "--json", "--cross-validate"],
        "simulator": ["benchmarks.detection.simulator", "--json"],
        "month_end": ["benchmarks.detection.month_end", "--data", str(data), "--seed", "2", "--json"],
        "population": ["benchmarks.detection.population", *population],
    }


def measure(parts: Mapping[str, Sequence[str]], results: Path) -> None:
    """Run the commands one after the other. Raises CalledProcessError for one that fails."""
    results.mkdir(parents=True, exist_ok=True)
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for part, command in parts.items():
        began = time.monotonic()
        if part == "detection":  # what was missed before may be caught now
            shutil.rmtree(results / "pictures", ignore_errors=True)
        output = results / (f"{part}.txt" if f"{part}.json" in " ".join(command) else f"{part}{_ending(part)}")
        with output.with_suffix(".tmp").open("w", encoding="utf-8") as file:
            argv = [sys.executable, "-m", *command]
            subprocess.run(argv, check=True, stdout=file, env={**os.environ, **one_thread})
        output.with_suffix(".tmp").replace(output)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)


def _ending(part: str) -> str:
    return ".json" if part in _MAKERS else ".md"


def hang(drawn: Path) -> None:
    """Put new pictures in the place of the old ones."""
    if drawn.is_dir():
        shutil.rmtree(IMAGES, ignore_errors=True)
        shutil.copytree(drawn, IMAGES)


def tables(results: Path) -> dict[str, str]:
    """Every table there are results for."""
    made: dict[str, str] = {}
    for part, maker in _MAKERS.items():
        path = results / f"{part}.json"
        if path.exists():
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            made |= maker(found)
    for path in results.glob("*.md"):
        made[path.stem] = path.read_text(encoding="utf-8").strip()
    return made | pictures()


def pictures() -> dict[str, str]:
    """The incidents' pictures, those caught and those missed, two in a row."""
    drawn = [path for path in sorted(IMAGES.glob("*.png")) if path.name != CHART]
    missed = [path for path in drawn if path.stem.endswith("_missed")]
    return {
        "pictures": _grid([path for path in drawn if path not in missed]),
        "pictures missed": _grid(missed) if missed else "On these streams no incident was missed.",
    }


def _grid(drawn: Sequence[Path]) -> str:
    cells = [f"![{path.stem.replace('_', ' ')}](../images/detection/{path.name})" for path in drawn]
    rows = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    return "\n".join(["| | |", "|---|---|", *(f"| {' | '.join([*row, ''][:2])} |" for row in rows)])


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(prog="python -m benchmarks.detection.report", description=__doc__)
    given = os.environ.get(DATA_VARIABLE)
    made.add_argument("--data", type=Path, default=given, help=f"directory of inject.py; default: ${DATA_VARIABLE}")
    made.add_argument("--results", type=Path, default=CACHE / "results", help="where results are kept")
    made.add_argument("--cache", type=Path, default=CACHE, help="where streams and peers' results are kept")
    made.add_argument("--parts", default="all", help="comma-separated: parts to measure; all or none")
    made.add_argument("--seeds", default="79-88")
    made.add_argument("--variants", default=_VARIANTS)
    made.add_argument("--ablation-seeds", default="84-85")
    made.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = made.parse_args(argv)
    if arguments.parts != "none":
        if arguments.data is None:
            made.error(f"measuring needs --data or ${DATA_VARIABLE}")
        arguments.data = Path(arguments.data)
        every = commands(arguments)
        wanted = list(every) if arguments.parts == "all" else arguments.parts.split(",")
        measure({part: every[part] for part in wanted}, arguments.results)
    hang(arguments.results / "pictures")
    found = tables(arguments.results)
    for page in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]:
        if markdown.MARKED.search(page.read_text(encoding="utf-8")):
            missing = markdown.fill(page, found)
            print(
                f"{page.relative_to(DOCS.parent)}: "
                + (f"no results for {', '.join(missing)}" if missing else "written")
            )


if __name__ == "__main__":
    main()
