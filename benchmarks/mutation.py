"""Mutation runs over the detector and the actions: `python -m benchmarks.mutation detector/rules --tests tests/unit`.

A mutant is the code with one small change, such as `*` for `/`; a test should fail for each. mutmut makes the mutants
(`pip install mutmut`, not among Curb's dependencies) in a copy of the project in a temporary directory. The tests are
collected once, and each mutant gets a fork of that session, in which the quickest tests that reach it run first: 0.1 s
a mutant where a fresh session would take 0.5 s. Printed is how many mutants of each module were killed, and the diff of
each mutant that survived. It is no part of the tests: a package takes minutes to an hour.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: CPU seconds that a mutant may take, beside five times those of its tests: an endless loop is killed.
_CPU_S = 8


def stage(targets: Sequence[str], directory: Path) -> None:
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
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    with (directory / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\nuse_git_change_detection = false\nuse_setproctitle = false\n" + "".join(lines))


def generate() -> None:
    """Make the mutants of the staged project in the working directory, in its folder `mutants`."""
    _set_mutant("mutant_generation")
    mutmut = importlib.import_module("mutmut.__main__")
    Path("mutants").mkdir()
    for step in ("copy_src_dir", "copy_also_copy_files", "setup_source_paths"):
        getattr(mutmut, step)()
    mutmut.create_mutants(1)


def mutants_of(directory: Path) -> dict[str, str]:
    """The module of each mutant, by the name that mutmut gives it."""
    found = {}
    for path in sorted((directory / "mutants").rglob("*.meta")):
        module = path.relative_to(directory / "mutants" / "curb").as_posix().removesuffix(".meta")
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found.update(dict.fromkeys(codes, module))
    return found


def _set_mutant(name: str) -> None:
    importlib.import_module("mutmut.mutation.trampoline").set_mutant_under_test(name)


class MutantSession:
    """A pytest plugin: in place of one run of all tests, one of each mutant in a fork, with the tests that reach it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._reaching: dict[str, list[Any]] = {}
        self._cpu_s: dict[str, float] = {}
        #: killed, survived or untested, by mutant.
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every test once without a mutant, then every mutant."""
        if session.testsfailed:
            raise pytest.UsageError("the tests cannot be collected")
        self._learn_what_reaches(session.items)
        for at, name in enumerate(self._names):
            tests = self._reaching.get(name.rpartition("__mutmut_")[0], [])
            self.outcomes[name] = self._outcome(name, tests) if tests else "untested"
            if at % 100 == 99:
                print(f"{at + 1} of {len(self._names)}: {Counter(self.outcomes.values())}", flush=True)
        return True

    def _learn_what_reaches(self, items: Sequence[pytest.Item]) -> None:
        state = importlib.import_module("mutmut.state").state()
        _set_mutant("stats")
        for at, item in enumerate(items):
            state._stats.clear()
            begin = time.process_time()
            if not _passes(item, items[at + 1] if at + 1 < len(items) else None):
                raise pytest.UsageError(f"fails without a mutant: {item.nodeid}")
            self._cpu_s[item.nodeid] = time.process_time() - begin
            for function in state._stats:
                self._reaching.setdefault(function, []).append(item)
        for tests in self._reaching.values():
            tests.sort(key=lambda item: self._cpu_s[item.nodeid])
        _set_mutant("")

    def _outcome(self, name: str, tests: Sequence[pytest.Item]) -> str:
        limit_s = _CPU_S + int(5 * sum(self._cpu_s[item.nodeid] for item in tests))
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            passed = False
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                _set_mutant(name)
                passed = all(_passes(item, after) for item, after in zip(tests, [*tests[1:], None], strict=True))
            finally:
                os._exit(0 if passed else 1)
        _, status = os.waitpid(child, 0)
        return "survived" if status == 0 else "killed"


def _passes(item: pytest.Item, after: pytest.Item | None) -> bool:
    reports = importlib.import_module("_pytest.runner").runtestprotocol(item, log=False, nextitem=after)
    return not any(report.failed for report in reports)


def measure(tests: Sequence[str], every: int) -> int:
    """Run the mutants in the working directory, every `every`-th of them; their outcomes go to `outcomes.json`."""
    directory = Path.cwd()
    session = MutantSession(list(mutants_of(directory))[::every])
    os.chdir("mutants")
    sys.path.insert(0, os.getcwd())
    arguments = ["--rootdir=.", "--tb=no", "-q", "-p", "no:xdist", "-p", "no:randomly"]
    code = int(pytest.main([*arguments, *tests], plugins=[session]))
    (directory / "outcomes.json").write_text(json.dumps(session.outcomes), encoding="utf-8")
    return code


def table(found: dict[str, Counter[str]]) -> str:
    """A row for each module and one for all, as Markdown."""
    rows = ["| module | mutants | killed | survived | untested |", "|---|---:|---:|---:|---:|"]
    for name, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        share = counts["killed"] / max(1, counts.total())
        rows.append(f"| {name} | {counts.total()} | {share:.0%} | {counts['survived']} | {counts['untested']} |")
    return "\n".join(rows)


def _step(directory: Path, call: str) -> None:
    """Do a step of the run in a process of its own, in the staged project."""
    code = f"import sys; sys.path[0] = '.'; from benchmarks import mutation; sys.exit(mutation.{call})"
    subprocess.run([sys.executable, "-c", code], cwd=directory, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 when less than `--gate` of the mutants were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="modules or folders to mutate, such as detector/rules")
    parser.add_argument("--tests", nargs="+", default=["tests/unit"], help="tests that should notice; fewer is faster")
    parser.add_argument("--every", type=int, default=1, help="a sample: only every n-th mutant (default: 1)")
    parser.add_argument("--gate", type=float, default=0.85, help="share that must be killed (default: 0.85)")
    parser.add_argument("--diffs", action="store_true", help="print the diff of each mutant that survived")
    options = parser.parse_args(arguments)
    mutmut = Path(sys.executable).with_name("mutmut")
    if not mutmut.is_file():
        parser.error(f"mutmut is not installed beside {sys.executable}: pip install mutmut")
    with tempfile.TemporaryDirectory(prefix="curb-mutation-") as temporary:
        directory = Path(temporary)
        stage(options.targets, directory)
        _step(directory, "generate()")
        _step(directory, f"measure({options.tests!r}, {options.every})")
        outcomes = json.loads((directory / "outcomes.json").read_text(encoding="utf-8"))
        modules, counts = mutants_of(directory), dict[str, Counter[str]]()
        for name, outcome in outcomes.items():
            counts.setdefault(modules[name], Counter())[outcome] += 1
            if options.diffs and outcome != "killed":
                subprocess.run([str(mutmut), "show", name], cwd=directory, check=True)
    print(table(counts), flush=True)
    total = sum(counts.values(), Counter())
    return int(total["killed"] < options.gate * total.total())


if __name__ == "__main__":
    sys.exit(main())
