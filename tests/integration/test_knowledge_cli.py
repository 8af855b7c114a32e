"""What people know on the command line: told, listed and taken back, on a log without a daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curb.cli.main import app

_CONFIG = """
log: {{directory: {directory}}}
detector:
  budgets:
    - {{name: team-month, scope: team, amount_usd: 100}}
"""


class Shell:
    """`curb` on a log of its own."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "curb.yaml"
        self.config.write_text(_CONFIG.format(directory=directory / "data"), encoding="utf-8")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "-c", str(self.config)])
        assert result.exit_code == code, result.output
        return result.output.strip()

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]


@pytest.fixture
def curb(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


_PLAN = ("plan", "add", "--tags", "team=a,job=b", "--max-usd", "5")
_SILENCE = ("silence", "add", "--match", "team=a", "--until", "+2h")
_INCREASE = ("increase", "add", "team-month", "--amount-usd", "5", "--expires", "+7d")


@pytest.mark.parametrize(
    ("add", "end", "field", "value"),
    [
        ((*_PLAN, "--start", "+1h", "--end", "+2d"), "cancel", "tags", {"team": "a", "job": "b"}),
        ((*_SILENCE, "--reason", "[bold]r[/bold]"), "lift", "matchers", {"team": "a"}),
        ((*_INCREASE, "--match", "team=a"), "cancel", "match", {"team": "a"}),
    ],
)
def test_told_listed_and_taken_back(curb: Shell, add: tuple[str, ...], end: str, field: str, value: Any) -> None:
    told = curb(*add)
    (row,) = curb.rows(add[0], "list")
    assert (row["id"], row[field]) == (told, value)
    assert row["by"]
    table = curb(add[0], "list")
    assert told in table
    assert "team=a" in table
    assert curb(add[0], end, told) == f"ended {told}"
    assert curb.rows(add[0], "list") == []
    assert curb(add[0], "list") == "nothing in force"
    assert "is in force" in curb(add[0], end, told, code=2)


def test_a_verdict_on_an_alert_nobody_knows_is_kept_and_said(curb: Shell) -> None:
    assert "no alert fp-1 on the log" in curb("feedback", "fp-1", "not-an-anomaly", "--note", "batch")


def test_an_annotation_now_and_then(curb: Shell) -> None:
    assert curb("annotate", "deploy", "checkout 2.3", "-t", "project=checkout")
    assert curb("annotate", "note", "--at", "2025-06-16T10:00:00+02:00")
    assert "in the future" in curb("annotate", "launch", "--at", "+1h", code=2)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((*_PLAN, "--end", "2026-03-01T18:00:00"), "times need a zone"),
        ((*_PLAN, "--start", "+2h", "--end", "+1h"), "end is not after start"),
        (("plan", "add", "--tags", "team", "--end", "+1h", "--max-usd", "5"), "'team' is not name=value"),
        (("plan", "add", "--tags", "a=b,a=c", "--end", "+1h", "--max-usd", "5"), "a is given twice"),
        (("silence", "add", "--match", "team=a", "--until", "2020-01-01T00:00:00Z"), "until is in the past"),
        (("increase", "add", "other", "--amount-usd", "5", "--expires", "+7d"), "there are: team-month"),
    ],
)
def test_what_cannot_be_meant_is_refused(curb: Shell, arguments: tuple[str, ...], why: str) -> None:
    assert why in curb(*arguments, code=2)
