"""Rules are known by what they declare: no other file names one, and the page on detection repeats their lines."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from curb.detector.rules.table import RULES
from curb.detector.state.rule import Family
from tests.house.tree import CODE, ROOT, name, parse, python_files

PAGE = (ROOT / "docs" / "explain" / "how-detection-works.md").read_text(encoding="utf-8")
FAMILIES = [family for rule in RULES for family in rule.families]
OWN = {
    each: name(Path(inspect.getfile(rule)).resolve())
    for rule in RULES
    for each in (rule.name, *(family.name for family in rule.families))
}
#: Names that are also words of something else, and of what: these are searched for as channels only.
ALSO = {
    "context": "a kind of block in Slack",
    "creep": "a kind of incident of the benchmarks' simulator",
    "errors": "a column of usage",
    "growth": "a kind of alert",
    "job": "a tag",
    "jobs": "a resource of Kubernetes",
    "unit_cost": "a kind of alert",
}
#: Where a name stands all the same, and why.
ALLOWED = {
    ("stream/records/spend.py", "new_principal"): "alerts of before they carried needs_warmup",
}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a file that is no docstring, with its line."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def compared_channels(path: Path) -> Iterator[tuple[int, str]]:
    """Texts that a channel or a family is compared with."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Compare) and re.search(r"\b(channel|family)\b", ast.unparse(node)):
            yield from (
                (each.lineno, each.value)
                for each in ast.walk(node)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


def sure(family: Family) -> str:
    """The confidence of a family as the page says it."""
    if not family.confidence.points:
        return "not measured"
    points = [(f"{share:.0%}".replace("%", " %"), f"{score:g}") for score, share in family.confidence.points]
    return points[0][0] if len(points) == 1 else " to ".join(f"{share} at {score}" for share, score in points)


def test_no_other_file_names_a_rule() -> None:
    wrong = []
    for path in python_files(*CODE):
        found = [each for each in strings(path) if each[1].split("/")[0] not in ALSO] + [*compared_channels(path)]
        wrong += [
            f"{name(path)}:{line}: {text!r} of {own}"
            for line, text in found
            if (own := OWN.get(text.split("/")[0])) not in (None, name(path)) and (name(path), text) not in ALLOWED
        ]
    assert not wrong, "ask the rule's Family (curb/detector/state/rule.py) instead:\n" + "\n".join(wrong)


def test_the_exceptions_are_real() -> None:
    assert set(ALSO) <= set(OWN)
    for path, text in ALLOWED:
        assert text in {each for _, each in strings(ROOT / path)}, f"{path} no longer names {text}"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.name))
def test_the_page_has_the_rule(family: Family) -> None:
    assert family.docs is not None, f"{family.name} has no docs line"
    line = "| " + " | ".join((*family.docs, sure(family))) + " |"
    assert line in PAGE, f"docs/explain/how-detection-works.md lacks this line of {family.name}:\n{line}"
    assert re.search(rf"`{family.name}(/[^`]*)?`", PAGE), (
        f"the channels in docs/explain/how-detection-works.md lack `{family.name}`"
    )
