"""The chart without helm: its configurations are accepted, its files are those of the tree, its version is Curb's."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from curb.actions.workloads.kubernetes_levers import LEVERS
from curb.config.file import load_text
from tests.house.tree import ROOT
from tests.house.yaml_blocks import environment

CHART = ROOT / "deploy" / "helm" / "curb"
SETS = sorted((CHART / "ci").glob("*-values.yaml"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def merged(below: Any, above: Any) -> Any:
    """As helm lays values over values."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return above


def values(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = merged(read(CHART / "values.yaml"), read(path))
    return found


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_configuration_of_the_chart_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = values(path)
    text = yaml.safe_dump(merged(given["config"], read(CHART / "files" / "fixed.yaml")))
    variables = environment(text)
    assert set(variables) == {"CURB_INSTANCE", *given["secrets"]}, "every variable has its secret, and no more"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_text(text)
    assert (config.http.host, config.http.port) == ("0.0.0.0", 8088)
    assert str(config.state_dir).startswith(("/var/lib/curb", "curb-data"))


def test_there_is_a_set_for_each_way_to_run() -> None:
    kinds = {path.stem: values(path)["config"]["log"]["kind"] for path in SETS}
    assert kinds == {"embedded-values": "embedded", "kafka-values": "kafka", "shadow-values": "embedded"}


def test_rights_and_rules_are_those_of_the_tree() -> None:
    files = CHART / "files"
    assert (files / "roles").resolve() == ROOT / "deploy" / "kubernetes" / "roles"
    assert {path.stem for path in (files / "roles").glob("*.yaml")} == set(LEVERS)
    assert (files / "policy.yaml").resolve() == ROOT / "deploy" / "kubernetes" / "policy.yaml"
    assert (files / "curb.rules.yaml").resolve() == ROOT / "deploy" / "prometheus" / "curb.rules.yaml"


def test_the_version_is_that_of_curb() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = read(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_value_is_in_the_schema_and_used() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]
    given = read(CHART / "values.yaml")
    assert set(given) <= set(schema)
    for key, value in given.items():
        if isinstance(value, dict) and schema[key].get("additionalProperties") is False:
            assert set(value) <= set(schema[key]["properties"]), key
    templates = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
    unused = [key for key in given if not re.search(rf"\.Values\.{key}\b", templates)]
    assert not unused
