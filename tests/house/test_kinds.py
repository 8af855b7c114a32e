"""Every kind of connector, action, notifier and scorer has a docs page, a fake, and an example that loads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.connectors.kinds import KINDS
from curb.detector.scorers.kinds import SCORERS
from curb.stream.settings import Settings
from tests.house.tree import ROOT, parse
from tests.house.yaml_blocks import configurations, kinds_in

TABLES = {"connectors": KINDS, "actions": ACTIONS, "notifiers": NOTIFIERS, "scorers": SCORERS}
ALL = [(section, kind) for section, table in TABLES.items() for kind in table]
every_kind = pytest.mark.parametrize(("section", "kind"), ALL)


@every_kind
def test_kind_has_a_page(section: str, kind: str) -> None:
    path = ROOT / "docs" / "reference" / section / f"{kind}.md"
    assert path.is_file(), f"write docs/reference/{section}/{kind}.md"
    assert kind in path.read_text(encoding="utf-8").split("\n")[0], f"{path.name}: the title names the kind"


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_page_of_an_action_says_what_was_met_for_real(kind: str) -> None:
    text = (ROOT / "docs" / "reference" / "actions" / f"{kind}.md").read_text(encoding="utf-8")
    assert "\n## Met for real\n" in text, "say which real component it was tried on, in which version, or that none was"


@every_kind
def test_kind_has_an_example_that_loads(section: str, kind: str) -> None:
    where = [block.where for block in configurations() if (section, kind) in kinds_in(block.text)]
    assert where, f"show `kind: {kind}` under {section} in a ```yaml block of docs/ or in deploy/"


@every_kind
def test_kind_has_a_fake(section: str, kind: str) -> None:
    fakes = ROOT / "tests" / "fakes"
    found = [path.name for path in sorted(fakes.glob("*.py")) if path.stem.startswith(kind) or kind in listed(path)]
    assert found, f"no fake for the {section} kind {kind}: add tests/fakes/{kind}.py, or list it in a fake's KINDS"


def listed(path: Path) -> set[str]:
    """The kinds a fake says it stands in for: its module constant KIND = "x" or KINDS = ("x", "y")."""
    for node in parse(path).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id in {"KIND", "KINDS"} for target in targets):
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return {value} if isinstance(value, str) else set(value)
    return set()


@every_kind
def test_config_of_a_kind_says_its_kind_and_name(section: str, kind: str) -> None:
    config = TABLES[section].config(kind)
    assert issubclass(config, Settings)
    assert kind in str(config.model_fields["kind"].annotation), f'{config.__module__}: kind: Literal["{kind}"]'
    assert "name" in config.model_fields, f"{config.__module__}: every entry of {section} has a name"
    assert callable(getattr(config, "build", None)), f"{config.__module__}.Config has no build(context)"
