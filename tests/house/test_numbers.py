"""Numbers of the detector and the actions have a unit and a reason: a measurement, a source, or "chosen by hand"."""

from __future__ import annotations

import ast

import pytest

from tests.house.tree import name, parse, python_files

#: Packages whose constants stand at module level; heads and rules keep theirs in `Params`.
PACKAGES = ("budgets", "forecast", "reconcile", "rollup", "scorers", "state")


def is_number(node: ast.expr) -> bool:
    """A number, a group of them or a sum of them; not a call that happens to take one."""
    if isinstance(node, ast.Tuple | ast.List):
        return any(is_number(each) for each in node.elts)
    if isinstance(node, ast.Dict):
        return any(is_number(each) for each in node.values)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) or is_number(node.right)
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in {int, float}


def unexplained(source: str, tree: ast.Module) -> list[int]:
    """Lines of constants with a number and without a `#:` comment above."""
    lines = source.splitlines()
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    numbers = [node for node in assigned if node.value is not None and is_number(node.value)]
    return [node.lineno for node in numbers if not lines[node.lineno - 2].startswith("#")]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_constant_says_its_unit_and_its_reason(package: str) -> None:
    wrong = [
        f"{name(path)}:{line}"
        for path in python_files("detector")
        if path.parent.name == package
        for line in unexplained(path.read_text(encoding="utf-8"), parse(path))
    ]
    assert not wrong, "say the unit and the reason in a `#:` comment above:\n" + "\n".join(wrong)


def test_a_constant_of_the_actions_says_its_unit_and_its_reason() -> None:
    wrong = []
    for path in python_files("actions"):
        source = path.read_text(encoding="utf-8")
        for line in unexplained(source, parse(path)):
            wrong.append(f"{name(path)}:{line}: no comment")
        lines = source.splitlines()
        for node in parse(path).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and is_number(node.value):
                above = lines[node.lineno - 2].lower()
                if above.startswith("#") and not any(why in above for why in ("by hand", "by definition")):
                    wrong.append(f"{name(path)}:{node.lineno}: no reason")
    assert not wrong, "unit and reason in one `#:` line above, by hand or by definition:\n" + "\n".join(wrong)


def test_a_number_without_a_word_is_seen() -> None:
    source = "#: Seconds.\nA = 5\nB = 3\nC, D = 1, 2\nE = f(1)\nF = -1\n"
    assert unexplained(source, ast.parse(source)) == [3, 4, 6]
