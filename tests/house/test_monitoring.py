"""Rules for Prometheus name metrics that exist, are all tested, and lead to a runbook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml

from docs.generate import all_metrics
from tests.house.tree import ROOT

RULES = ROOT / "deploy" / "prometheus" / "curb.rules.yaml"
TESTS = RULES.with_name("curb.rules.test.yaml")
#: What every client of Prometheus publishes, and Prometheus itself.
OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def known_names() -> set[str]:
    """Every series name that an expression may use."""
    found = set(OTHERS) | {rule["record"] for rule in rules() if "record" in rule}
    for name, kind, *_ in all_metrics():
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + part for part in parts}
    return found


def unknown(expressions: Iterable[str]) -> Iterator[str]:
    """Names in expressions that nothing publishes."""
    names = known_names()
    for expression in expressions:
        bare = re.sub(r'"[^"]*"', '""', expression)
        for name in re.findall(r"\b(?:[a-z]+:)?curb_\w+(?::\w+)?", bare):
            if name not in names:
                yield f"{name} in {expression}"


def test_rules_use_metrics_that_exist() -> None:
    assert not list(unknown(rule["expr"] for rule in rules()))
    assert list(unknown(['sum(curb_nothing{a="curb_x"})'])) == ['curb_nothing in sum(curb_nothing{a="curb_x"})']


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_a_severity_texts_and_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert f"### {rule['alert']}\n" in (ROOT / page).read_text(encoding="utf-8")
    assert anchor == rule["alert"].lower()


def test_every_alert_is_seen_to_fire_and_to_stay_quiet() -> None:
    tests = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    seen = [each for test in tests for each in test.get("alert_rule_test", [])]
    fired = {each["alertname"] for each in seen if each["exp_alerts"]}
    quiet = {each["alertname"] for each in seen if not each["exp_alerts"]}
    assert fired == quiet == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_runbook_is_of_an_alert() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == {rule["alert"] for rule in rules() if "alert" in rule}


def test_recorded_sums_are_tested() -> None:
    text = TESTS.read_text(encoding="utf-8")
    assert not [rule["record"] for rule in rules() if "record" in rule and rule["record"] not in text]
