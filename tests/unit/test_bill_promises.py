"""`check-config` and `connectors check` say what a bill will and will not do, and what nothing configured can fill."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from curb.cli.main import app
from tests.fakes import focus_file as focus
from tests.fakes.bills import JUNE, write

_BILL = """
connectors:
  - {{kind: focus_file, name: aws-bill, url: {root}/bill/x.csv{more}}}
"""
_TOKENS = """
connectors:
  - {{kind: usage_jsonl, name: calls, token: "${{CALLS}}"}}
"""
_SCOPES = """
detector:
  scopes:
    - {{name: account, group_by: [account], sources: [costs]}}
  budgets:
    - {{name: account-month, scope: account, amount_usd: 30000}}
"""
_TEAM = """
detector:
  budgets:
    - {{name: each-team, scope: team, amount_usd: 2000}}
    - {{name: whole, scope: bill-account, amount_usd: 2000}}
"""


def said(root: Path, config: str, *command: str, more: str = "") -> str:
    path = root / "curb.yaml"
    path.write_text(f"log: {{directory: {root}/data}}\nstate_dir: {root}/state\n" + config.format(root=root, more=more))
    answer = CliRunner().invoke(app, [*command, "-c", str(path)], env={"CALLS": "a-token-of-calls"})
    assert answer.exit_code == 0, answer.output
    return answer.output


@pytest.mark.parametrize(("more", "by"), [("", "by the hour, or the day"), (", granularity: day", "by the day as far")])
def test_a_bill_says_how_and_when_it_is_judged(tmp_path: Path, more: str, by: str) -> None:
    found = said(tmp_path, _BILL + _SCOPES, "check-config", more=more)
    assert f"bill        aws-bill: judged {by}" in found
    assert "a day or more late; alerts only, never an action" in found
    assert "budget account-month: in the bill's own days and months (UTC), open until it is complete" in found
    assert "nothing will count" not in found
    # What needs users and requests is not promised of a bill alone.
    assert "new keys and users" not in found

    write(tmp_path / "bill" / "x.csv", focus.csv_text([focus.line(JUNE, 1.0)]))
    found = said(tmp_path, _BILL + _SCOPES, "connectors", "check", "aws-bill", more=more)
    assert f"ok   what becomes of it: judged {by}" in found


def test_scopes_of_bills_without_a_bill_are_said_to_stay_empty(tmp_path: Path) -> None:
    found = said(tmp_path, _TOKENS + _SCOPES, "check-config")
    assert "no connector reads a bill: nothing will count in scope account, budget account-month" in found
    assert "new keys and users" in found


def test_budgets_that_a_bill_alone_cannot_fill_are_named(tmp_path: Path) -> None:
    found = said(tmp_path, _BILL + _TEAM, "check-config")
    assert "only bills are read, which count in bill, bill-account, bill-origin" in found
    assert "nothing will count in budget each-team\n" in found
    assert "nothing will count" not in said(tmp_path, _TOKENS, "check-config")
