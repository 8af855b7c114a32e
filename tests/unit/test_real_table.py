"""The table of tests on real components: what ran, what was skipped and how to switch it on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real.__main__ import Table, component


def report(nodeid: str, when: Any, outcome: Any, longrepr: Any = None) -> pytest.TestReport:
    return pytest.TestReport(nodeid, (nodeid, 1, "t"), {}, outcome, longrepr, when, duration=1.5)


def test_files_belong_to_components() -> None:
    names = ["kafka_log", "kafka_crash", "rolling_upgrade", "pages_in_chromium", "kubernetes_rights", "promtool"]
    found = [component(f"tests/real/test_{name}.py::test_x[a::b]") for name in names]
    assert found == ["kafka", "kafka", "kafka", "chromium", "kubernetes", "promtool"]


def test_each_component_is_a_row_and_each_reason_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.real.__main__.version_of", lambda name: "4.1")
    table = Table()
    kafka, helm = "tests/real/test_kafka_log.py::test_a", "tests/real/test_helm.py::test_b"
    for when, outcome in (("setup", "passed"), ("call", "passed"), ("teardown", "passed")):
        table.pytest_runtest_logreport(report(kafka, when, outcome))
    table.pytest_runtest_logreport(report(kafka, "call", "failed", "boom"))
    why = ("conftest.py", 1, "Skipped: helm: no helm: install it, or set CURB_TEST_HELM")
    for _ in range(2):
        table.pytest_runtest_logreport(report(helm, "setup", "skipped", why))
    head, first, second, said = table.lines()
    assert first.split() == ["helm", "-", "0", "0", "2", "3.0"]
    assert second.split() == ["kafka", "4.1", "1", "1", "0", "6.0"]
    assert head.split() == ["component", "version", "passed", "failed", "skipped", "seconds"]
    assert said == "helm skipped: no helm: install it, or set CURB_TEST_HELM"
