"""No words that tie the project to one machine, promise later work, or swallow errors; no test that sleeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import CODE, name, parse, python_files, text_files

# Written with brackets around a letter so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~}])/(?:[w]ork|[r]oot|[h]ome|[U]sers)/",
    "the host name of a package registry": r"(?:[p]ypi\.org|[p]ythonhosted\.org|[m]aven\.org|[r]epo1?\.maven\."
    r"|[n]pmjs\.(?:org|com)|[d]ocker\.io|[g]hcr\.io|[q]uay\.io|[c]rates\.io|[p]roxy\.golang\.org)",
    "a note about unfinished work": r"\b(?:[T]ODO|[F]IXME|[X]XX)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    wrong = []
    for path in text_files():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong += [
            f"{name(path)}:{at}: {line.strip()[:120]}" for at, line in enumerate(lines, 1) if pattern.search(line)
        ]
    assert not wrong, f"{what}:\n" + "\n".join(wrong)


def test_the_patterns_find_what_they_are_for() -> None:
    samples = [
        ("/ro" + "ot/x", "/var/root"),
        ("py" + "pi.org/simple", "our pypi page"),
        ("# TO" + "DO: later", "TODOS"),
    ]
    for pattern, (bad, good) in zip(FORBIDDEN.values(), samples, strict=True):
        assert re.search(pattern, bad)
        assert not re.search(pattern, good)


# --- broad excepts ------------------------------------------------------------------------------------------------


def may_catch_everything(path: Path) -> bool:
    """Runners and their parts keep going whatever one item does; `run` turns a defect into an exit code."""
    return "runner" in path.stem or path.stem in {"worker", "daemon", "run", "lease", "outbox", "reaper"}


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(each is None or ast.unparse(each) in {"Exception", "BaseException"} for each in caught)


def test_only_runners_catch_everything_and_say_why() -> None:
    wrong = []
    for path in python_files(*CODE):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.ExceptHandler) or not is_broad(node):
                continue
            if isinstance(node.body[-1], ast.Raise):  # cleans up and passes the error on
                continue
            comments = [re.sub(r"noqa: ?[A-Z0-9, ]+", "", each) for each in _comments(lines, node)]
            if not may_catch_everything(path):
                wrong.append(f"{name(path)}:{node.lineno}: catch what can happen, by name")
            elif not any(re.search(r"\w", each) for each in comments):
                wrong.append(f"{name(path)}:{node.lineno}: say in a comment why everything is caught here")
    assert not wrong, "broad excepts:\n" + "\n".join(wrong)


def _comments(lines: list[str], handler: ast.ExceptHandler) -> Iterator[str]:
    """What is said on the line of the except and on the lines around it."""
    for line in lines[max(handler.lineno - 2, 0) : handler.lineno + 1]:
        if "#" in line:
            yield line.split("#", 1)[1]


# --- time in tests ------------------------------------------------------------------------------------------------

CLOCKS = {"time.time", "time.monotonic", "time.perf_counter", "monotonic", "perf_counter", "loop.time"}


def calls(node: ast.AST) -> set[str]:
    return {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}


def timed_asserts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[int]:
    """Lines of asserts on something a wall clock had a part in."""
    timed: set[str] = set()

    def depends_on_time(node: ast.AST) -> bool:
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        return bool(calls(node) & CLOCKS or names & timed)

    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.AnnAssign)]
    for node in sorted(assigned, key=lambda each: each.lineno):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and is_arithmetic(node.value) and depends_on_time(node.value):
            timed.update(target.id for target in targets if isinstance(target, ast.Name))
    for each in ast.walk(function):
        if isinstance(each, ast.Assert) and depends_on_time(each.test):
            yield each.lineno


def is_arithmetic(node: ast.AST) -> bool:
    """A reading of a clock or a sum with one; an object merely built with a time is not a duration."""
    if isinstance(node, ast.BinOp):
        return is_arithmetic(node.left) or is_arithmetic(node.right)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS)


def test_tests_assert_nothing_about_durations() -> None:
    wrong = [
        f"{name(path)}:{line}"
        for path in python_files("tests")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for line in timed_asserts(node)
    ]
    assert not wrong, "a busy machine must not fail a test:\n" + "\n".join(wrong)


def test_an_assert_on_a_duration_is_seen() -> None:
    source = "def f():\n    start = time.monotonic()\n    spent = time.monotonic() - start\n    assert spent < 1\n"
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert list(timed_asserts(function)) == [4]


def test_tests_do_not_sleep() -> None:
    wrong = []
    for path in python_files("tests"):
        if not path.name.startswith("test_"):
            continue  # what starts a real broker has to wait for it
        # `while not there: await asyncio.sleep(...)` waits for something that happens, not for time to pass.
        polling = {each for loop in ast.walk(parse(path)) if isinstance(loop, ast.While) for each in ast.walk(loop)}
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call) or ast.unparse(node) == "asyncio.sleep(0)":
                continue
            called = ast.unparse(node.func)
            waits = called == "asyncio.sleep" and path.parent.name == "unit" and node not in polling
            if called in {"time.sleep", "sleep"} or waits:
                wrong.append(f"{name(path)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "wait for what happened, or move a ManualClock:\n" + "\n".join(wrong)
