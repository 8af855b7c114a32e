"""Every number of a head or a rule has a unit and a reason, and every class with state says how it works."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from curb.detector.rules.table import RULES
from tests.house.tree import ROOT, name, parse, python_files

PARTS = [path for path in python_files("detector") if path.parent.name in {"heads", "rules"}]
#: The reasons there are. Whoever changes a number says which.
REASONS = re.compile(r"\b(prototype|by hand|by definition|measured|simulation|labelled stream)", re.IGNORECASE)
TERMS = ("State:", "Update:", "Score:", "Source:")


def comment_before(path: Path, line: int) -> str:
    """The `#:` lines right above a line."""
    lines, found = path.read_text(encoding="utf-8").splitlines(), []
    for above in reversed(lines[: line - 1]):
        if not above.strip().startswith("#:"):
            break
        found.append(above.strip().removeprefix("#:").strip())
    return " ".join(reversed(found))


def is_number(node: ast.expr) -> bool:
    """Numbers, tuples and arrays of them, and sums of both."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.Tuple | ast.List):
        return bool(node.elts) and all(is_number(each) for each in node.elts)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) or is_number(node.right)
    if isinstance(node, ast.Subscript):
        return is_number(node.value)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith("np.") and any(is_number(each) for each in node.args)
    return False


def numbers(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every number that a module or its Params define."""
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and is_number(node.value):
            yield node.lineno, ast.unparse(node.targets[0])
        if isinstance(node, ast.ClassDef) and node.name == "Params":
            yield from (
                (field.lineno, f"Params.{ast.unparse(field.target)}")
                for field in node.body
                if isinstance(field, ast.AnnAssign)
            )


def test_every_number_has_a_unit_and_a_reason() -> None:
    wrong = []
    for path in PARTS:
        for line, called in numbers(path):
            said = comment_before(path, line)
            if not REASONS.search(said):
                wrong.append(f"{name(path)}:{line}: {called}: {said or 'no comment'}")
    assert not wrong, "a line `#: unit and meaning. Reason.` above each; the truth may be `By hand.`:\n" + "\n".join(
        wrong
    )


def test_numbers_are_seen() -> None:
    source = "A = 1\nB, C = 2.0, (3, 4)\nD = np.array([0.1])[:, None]\nE = 'x'\nF = True\nG = 60 * A\n"
    values = [node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    assert [is_number(each) for each in values] == [True, True, True, False, False, True]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_rule_says_how_it_works(rule: type) -> None:
    missing = [term for term in TERMS if term not in (rule.__doc__ or "")]
    assert not missing, f"the docstring of {rule.__name__} lacks {', '.join(missing)}"


def test_what_has_state_says_how_it_works() -> None:
    wrong = []
    for path in (path for path in PARTS if path.parent == ROOT / "detector" / "heads"):
        for node in parse(path).body:
            stateful = isinstance(node, ast.ClassDef) and "Columns(" in ast.unparse(node)
            if stateful and isinstance(node, ast.ClassDef):
                missing = [term for term in TERMS if term not in (ast.get_docstring(node) or "")]
                wrong += [f"{name(path)}: {node.name} lacks {', '.join(missing)}"] if missing else []
    assert not wrong, "\n".join(wrong)
