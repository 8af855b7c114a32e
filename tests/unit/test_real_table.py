"""The table of tests on real components: what ran, what was skipped and how to switch it on."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.real.__main__ import Table, component
from tests.real.bring_up import BringUp, Recipe, Up
from tests.real.programs import AwayError, go_mod


def report(nodeid: str, when: Any, outcome: Any, longrepr: Any = None) -> pytest.TestReport:
    return pytest.TestReport(nodeid, (nodeid, 1, "t"), {}, outcome, longrepr, when, duration=1.5)


def test_files_belong_to_components() -> None:
    names = ["kafka_log", "kafka_crash", "rolling_upgrade", "pages_in_chromium", "kubernetes_rights", "promtool"]
    found = [component(f"tests/real/test_{name}.py::test_x[a::b]") for name in names]
    assert found == ["kafka", "kafka", "kafka", "chromium", "kubernetes", "promtool"]


def test_each_component_is_a_row_and_each_reason_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.real.__main__.version_of", lambda name: "4.1")
    up = BringUp(component)
    up.seconds["kafka"], up.away["helm"] = 8.04, "no go to build it with"
    table = Table(up)
    kafka, helm = "tests/real/test_kafka_log.py::test_a", "tests/real/test_helm.py::test_b"
    for when, outcome in (("setup", "passed"), ("call", "passed"), ("teardown", "passed")):
        table.pytest_runtest_logreport(report(kafka, when, outcome))
    table.pytest_runtest_logreport(report(kafka, "call", "failed", "boom"))
    why = ("conftest.py", 1, "Skipped: helm: no helm: install it, or set CURB_TEST_HELM")
    for _ in range(2):
        table.pytest_runtest_logreport(report(helm, "setup", "skipped", why))
    head, first, second, said, away = table.lines()
    assert first.split() == ["helm", "-", "0", "0", "2", "3.0", "-"]
    assert second.split() == ["kafka", "4.1", "1", "1", "0", "6.0", "8.0"]
    assert head.split() == ["component", "version", "passed", "failed", "skipped", "seconds", "up", "in", "s"]
    assert said == "helm skipped: no helm: install it, or set CURB_TEST_HELM"
    assert away == "helm was not brought up: no go to build it with"


class Chosen:
    """A session of pytest with these tests."""

    def __init__(self, *names: str, collect_only: bool = False) -> None:
        self.items = [SimpleNamespace(nodeid=f"tests/real/test_{name}.py::test_a") for name in names]
        self.config = SimpleNamespace(option=SimpleNamespace(collectonly=collect_only))


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two components that no test has, one of which cannot be had; what is asked for and stopped."""
    happened: list[str] = []

    def bring(stack: contextlib.ExitStack) -> Up:
        happened.append("up")
        stack.callback(happened.append, "down")
        return Up("value", "1.2")

    def fail(_stack: contextlib.ExitStack) -> Up:
        raise AwayError("no go to build it with")

    own = {"able": Recipe("CURB_TEST_ABLE", (), bring), "absent": Recipe("CURB_TEST_ABSENT", ("sh",), fail)}
    own["lost"] = Recipe("CURB_TEST_LOST", (), fail)
    monkeypatch.setattr("tests.real.bring_up.RECIPES", own)
    monkeypatch.setattr("os.environ", dict(os.environ))
    return happened


def test_only_what_the_chosen_tests_need_is_brought_up(recipes: list[str]) -> None:
    up: Any = BringUp(component, frozenset({"lost"}))
    up.pytest_collection_finish(Chosen("other", "lost", "absent"))
    up.pytest_collection_finish(Chosen("able", collect_only=True))
    assert recipes == []
    up.pytest_collection_finish(Chosen("able_a", "able_b"))
    assert (recipes, os.environ["CURB_TEST_ABLE"], up.versions, up.away) == (["up"], "value", {"able": "1.2"}, {})
    up.pytest_unconfigure()
    assert recipes == ["up", "down"]


def test_what_is_named_or_found_is_taken_and_what_cannot_be_had_is_said(recipes: list[str]) -> None:
    os.environ["CURB_TEST_ABLE"] = "mine"
    up: Any = BringUp(component)
    up.pytest_collection_finish(Chosen("able", "absent", "lost"))
    assert (recipes, os.environ["CURB_TEST_ABLE"], up.seconds) == ([], "mine", {})
    assert up.away == {"lost": "no go to build it with"}


def test_parts_that_a_module_keeps_in_its_own_directories_are_taken_as_they_are_released() -> None:
    given = {
        "Go": "1.24.0",
        "Replace": [
            {"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
            {"Old": {"Path": "example.com/a"}, "New": {"Path": "example.com/fork", "Version": "v1.2.3"}},
        ],
    }
    assert go_mod("k8s.io/kubernetes", "v1.34.4", given, "v0.34.4").splitlines() == [
        "module bench",
        "go 1.24.0",
        "require k8s.io/kubernetes v1.34.4",
        "replace k8s.io/api => k8s.io/api v0.34.4",
        "replace example.com/a => example.com/fork v1.2.3",
    ]
