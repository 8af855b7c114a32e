"""Runs every test on a real outside component, then says in one table what ran, on which version, and what to add.

`make real`, or `python -m tests.real -k kafka`: arguments are passed on to pytest. Kafka, Prometheus, Envoy and the
like are started by their tests where they are found. What is not found and this machine can have is brought up first
(`tests/real/bring_up.py`), for the tests that are chosen; `CURB_TEST_WITHOUT=helm,promtool` leaves components as they
are. What cannot be had is skipped and named with how to switch it on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.real.bring_up import BringUp
from tests.real.kafka_broker import KAFKA_VERSION

_HERE = Path(__file__).parent
#: Program → the option that prints its version; the variable that names another one.
_PROGRAMS = {
    "alertmanager": ("alertmanager prometheus-alertmanager", "--version", "CURB_TEST_ALERTMANAGER"),
    "azurite": ("azurite-blob", "--version", "CURB_TEST_AZURITE"),
    "chromium": ("chromium google-chrome", "--version", "CURB_TEST_CHROMIUM"),
    "envoy": ("envoy", "--version", "CURB_TEST_ENVOY"),
    "haproxy": ("haproxy", "-v", "CURB_TEST_HAPROXY"),
    "helm": ("helm", "version", "CURB_TEST_HELM"),
    "minio": ("minio", "--version", "CURB_TEST_MINIO"),
    "prometheus": ("prometheus", "--version", "CURB_TEST_PROMETHEUS"),
    "image": ("podman docker", "--version", "CURB_IMAGE_ENGINE"),
    "promtool": ("promtool", "--version", "CURB_TEST_PROMTOOL"),
    "schemathesis": ("schemathesis", "--version", "CURB_TEST_SCHEMATHESIS"),
    "systemd": ("systemd-analyze", "--version", ""),
}
#: What a test file needs, where its name does not say it.
_NEEDS = {"pages_in_chromium": "chromium", "rolling_upgrade": "kafka", "genai_prices": "genai-prices"}
_NUMBER = re.compile(r"\d+\.\d+(\.\d+)*|\b\d{2,}\b")
_WIDTH = 100


@dataclass
class Ran:
    """What became of the tests on one component."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    #: Why tests were skipped, each reason once.
    reasons: dict[str, None] = field(default_factory=dict)


class Table:
    """A plugin of pytest that sums up by component; `up` says what was brought up for them."""

    def __init__(self, up: BringUp) -> None:
        self._up = up
        self.rows: defaultdict[str, Ran] = defaultdict(Ran)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self.rows[component(report.nodeid)]
        row.seconds += report.duration
        if report.skipped:
            row.skipped += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            row.reasons[reason.removeprefix("Skipped: ")] = None
        elif report.failed:
            row.failed += 1
        elif report.when == "call":
            row.passed += 1

    def lines(self) -> list[str]:
        """The table, and below it how to switch on what was skipped."""
        head = f"{'passed':>7}{'failed':>7}{'skipped':>8}{'seconds':>9}{'up in s':>9}"
        found = [f"{'component':<14}{'version':<16}{head}"]
        for name, row in sorted(self.rows.items()):
            version = self._up.versions.get(name) or version_of(name) if row.passed or row.failed else "-"
            up = f"{self._up.seconds[name]:.1f}" if name in self._up.seconds else "-"
            counts = f"{row.passed:>7}{row.failed:>7}{row.skipped:>8}{row.seconds:>9.1f}{up:>9}"
            found.append(f"{name:<14}{version:<16}{counts}")
        for name, row in sorted(self.rows.items()):
            for reason in row.reasons:
                said = reason.removeprefix(f"{name}: ")
                found += textwrap.wrap(f"{name} skipped: {said}", _WIDTH, subsequent_indent="  ")
            if why := self._up.away.get(name):
                found += textwrap.wrap(f"{name} was not brought up: {why}", _WIDTH, subsequent_indent="  ")
        return found


def component(nodeid: str) -> str:
    """What a test runs on, by the name of its file."""
    stem = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
    return _NEEDS.get(stem, stem.partition("_")[0])


def version_of(name: str) -> str:
    """The version that the tests ran on, as far as it can be asked; `?` where not."""
    if name == "kafka":
        return os.environ.get("CURB_TEST_KAFKA") or KAFKA_VERSION
    if name in _PROGRAMS:
        names, option, variable = _PROGRAMS[name]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])
        programs = [os.environ.get(variable, ""), *names.split()]
        program = next((found for each in programs if each and (found := shutil.which(each, path=path))), None)
        if program is None:
            return "?"
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, check=False)
        number = _NUMBER.search(done.stdout + done.stderr)
        return number[0] if number else "?"
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "?"


def main(arguments: list[str]) -> int:
    """Run the tests and print the table; pytest's exit code."""
    without = frozenset(os.environ.get("CURB_TEST_WITHOUT", "").split(","))
    up: Any = BringUp(component, without)
    table: Any = Table(up)
    os.environ.setdefault("CURB_TEST_KAFKA_SECURED", "1")  # alone, what it leaves behind disturbs no other test
    code = pytest.main([str(_HERE), "-v", "--no-header", *arguments], plugins=[up, table])
    print("\n" + "\n".join(table.lines()))
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
