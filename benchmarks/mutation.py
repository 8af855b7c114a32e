"""Mutation runs over the detector and the actions: `python -m benchmarks.mutation detector/rules --tests tests/unit`.

A mutant is the code with one small change, such as `*` for `/`; a test should fail for each. The run works on a copy of
the project in a temporary directory, with mutmut (`pip install mutmut`, not among Curb's dependencies), and prints how
many mutants of each module were killed and the diff of each one that survived. Not part of the tests: a package takes
minutes to an hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: mutmut's exit codes of a mutant's tests that mean "killed": failed, killed by a signal, out of time.
_KILLED = {1, 3, -24, 24, 36, 152, 255, -11, -9}
_SURVIVED, _UNTESTED = {0}, {33, 5}


def stage(targets: Sequence[str], tests: Sequence[str], directory: Path) -> None:
    """Copy what a run needs into `directory`, with the rooms as real folders of `curb`, and configure mutmut there."""
    shutil.copytree(ROOT / "curb", directory / "curb", symlinks=False, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "docs", "deploy", "benchmarks"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, directory / name)
    only = [f"curb/{each}" if each.endswith(".py") else f"curb/{each.rstrip('/')}/*" for each in targets]
    settings = {
        "source_paths": ["curb"],
        "only_mutate": only,
        "also_copy": ["docs", "deploy", "benchmarks", "README.md"],
        "pytest_add_cli_args_test_selection": list(tests),
        "pytest_add_cli_args": ["-x", "-p", "no:xdist"],
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    with (directory / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\nuse_git_change_detection = false\nuse_setproctitle = false\n" + "".join(lines))


def results(directory: Path) -> dict[str, dict[str, str]]:
    """By module, the outcome of each mutant by the name that mutmut gives it."""
    found = {}
    for path in sorted((directory / "mutants").rglob("*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            module = path.relative_to(directory / "mutants" / "curb").as_posix().removesuffix(".meta")
            found[module] = {name: _outcome(code) for name, code in codes.items()}
    return found


def _outcome(code: int | None) -> str:
    if code in _SURVIVED:
        return "survived"
    if code in _UNTESTED:
        return "untested"
    return "killed" if code in _KILLED else "unknown"


def table(found: dict[str, Counter[str]]) -> str:
    """A row for each module and one for all, as Markdown."""
    rows = ["| module | mutants | killed | survived | untested | unknown |", "|---|---:|---:|---:|---:|---:|"]
    for name, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        share = counts["killed"] / max(1, counts.total())
        cells = (counts.total(), f"{share:.0%}", *(counts[key] for key in ("survived", "untested", "unknown")))
        rows.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 when less than `--gate` of the mutants were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="modules or folders to mutate, such as detector/rules")
    parser.add_argument("--tests", nargs="+", default=["tests/unit"], help="tests that should notice; fewer is faster")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at once (default: 2)")
    parser.add_argument("--gate", type=float, default=0.85, help="share that must be killed (default: 0.85)")
    parser.add_argument("--diffs", action="store_true", help="print the diff of each mutant that survived")
    options = parser.parse_args(arguments)
    mutmut = Path(sys.executable).with_name("mutmut")
    if not mutmut.is_file():
        parser.error(f"mutmut is not installed beside {sys.executable}: pip install mutmut")
    with tempfile.TemporaryDirectory(prefix="curb-mutation-") as temporary:
        directory = Path(temporary)
        stage(options.targets, options.tests, directory)
        log = directory / "mutmut.log"
        with log.open("wb") as out:
            command = [str(mutmut), "run", "--max-children", str(options.jobs)]
            code = subprocess.run(command, cwd=directory, stdout=out, stderr=out, check=False).returncode
        found = results(directory)
        if not found:
            print(log.read_text(encoding="utf-8", errors="replace")[-4000:])
            return code or 1
        names = [
            name for each in found.values() for name, outcome in each.items() if outcome in {"survived", "untested"}
        ]
        for name in names if options.diffs else ():
            subprocess.run([str(mutmut), "show", name], cwd=directory, check=True)
        counts = {module: Counter(each.values()) for module, each in found.items()}
        print(table(counts), flush=True)
        total = sum(counts.values(), Counter())
        return int(total["killed"] < options.gate * total.total())


if __name__ == "__main__":
    sys.exit(main())
