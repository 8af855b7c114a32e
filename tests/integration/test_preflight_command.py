"""`curb preflight` on a recording, on a log without a daemon and without anything: output and exit codes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from curb.cli import offline
from curb.cli.main import app
from curb.stream.time import iso
from tests.fakes.spend import T0

HOUR = 3600
CONFIG = """
log: {{kind: embedded, directory: {directory}/data}}
http: {{port: 9}}
connectors:
  - {{kind: usage_jsonl, name: meter, token: "${{NOT_SET_IN_CI}}"}}
  - kind: dcgm
    name: gpus
    targets: [{{url: "http://gpu:9400/metrics"}}]
    prices: [{{gpu: H100, usd_per_hour: 2.5}}]
attribution:
  keys: {{team: [squad]}}
  required: [env]
detector:
  bucket_s: 300
  budgets:
    - {{name: search-week, scope: team, match: {{team: search}}, amount_usd: 300, period: week}}
    - {{name: each-key, scope: key, amount_usd: 100, period: month, hard: true}}
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: train, namespace: ml, labels: {team: search}}
spec:
  activeDeadlineSeconds: 7200
  template:
    spec:
      nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
      containers: [{name: train, resources: {limits: {nvidia.com/gpu: 8}}}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Team search at $3 an hour for 46 hours of a week: $138 so far, some $500 at its end."""
    path = tmp_path_factory.mktemp("preflight")
    (path / "curb.yaml").write_text(CONFIG.format(directory=path), encoding="utf-8")
    (path / "job.yaml").write_text(JOB, encoding="utf-8")
    lines = [
        json.dumps(
            {
                "src": "llm", "id": f"{hour}", "ts": iso(T0 + hour * HOUR), "recv": iso(T0 + hour * HOUR + 60),
                "cost_usd": 3.0, "requests": 1, "tags": {"team": "search", "project": "p", "api_key": "k1"},
            }
        )
        for hour in range(46)
    ]  # fmt: skip
    with gzip.open(path / "events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return path


def run(directory: Path, *arguments: str, recorded: bool = True) -> Result:
    given = ["preflight", "-c", str(directory / "curb.yaml"), *arguments]
    given += ["--from", str(directory)] if recorded else []
    return CliRunner(env={"COLUMNS": "220"}).invoke(app, given)


def test_a_run_that_crosses_by_the_forecast_is_exit_code_3(directory: Path) -> None:
    result = run(directory, "--tag", "team=search", "--tag", "env=prod", "--usd", "20")
    assert result.exit_code == 3, result.output
    for text in ("search-week", "$138.00", "$162.00", "$158.00", "crosses", "It fits now, but search-week"):
        assert text in result.output
    assert "which it is without it as well" in result.output
    assert "no api_key: not compared with each-key" in result.output


def test_a_run_that_does_not_fit_is_exit_code_1(directory: Path) -> None:
    result = run(directory, "--tag", "squad=search", "--gpu", "h100", "--count", "8", "--hours", "9")
    assert result.exit_code == 1, result.output
    assert "$180.00  8 × H100 for 9 h at $2.50 an hour each" in result.output
    assert (
        "It does not fit: with it, search-week team=search comes to $318.00 of $300.00, $18.00 over." in result.output
    )
    assert "no env: attribution.required asks for it" in result.output


def test_a_run_that_fits_is_exit_code_0_and_json(directory: Path) -> None:
    calls = ["--model", "gpt-4o", "--input-tokens", "1000", "--output-tokens", "100", "--requests", "10000"]
    result = run(directory, "--tag", "api_key=k2", "--tag", "env=dev", *calls, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"], found["exit_code"]) == (0, "fits", 0)
    assert found["usd"] == pytest.approx(35.0)
    (budget,) = found["budgets"]
    assert (budget["name"], budget["hard"], budget["spent_usd"]) == ("each-key", True, 0.0)
    assert "no team: not compared with search-week" in found["warnings"]


def test_a_manifest_is_priced_before_it_is_applied(directory: Path) -> None:
    result = run(directory, "--file", str(directory / "job.yaml"), "--runs", "5", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"], found["usd"]) == (1, "over", 200.0)
    assert found["costs"][0]["what"] == "train: 8 × H100 for 2 h at $2.50 an hour each"


def test_a_run_that_nobody_holds_fits_with_a_warning(directory: Path) -> None:
    result = run(directory, "--tag", "job=train", "--usd", "1000000")
    assert result.exit_code == 0
    assert "no team: nobody's budget holds it" in result.output
    assert "it fits, as no budget holds it" in result.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--tag", "team=search"], "say what it costs"),
        (["--tag", "team", "--usd", "1"], "is not name=value"),
        (["--gpu", "h100"], "GPUs need --hours"),
        (["--file", "/nowhere/job.yaml"], "No such file"),
        (["--file", "events.jsonl.gz"], "No such file"),
        (["--file", "/nowhere", "--usd", "1"], "do not go with it"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(directory: Path, arguments: list[str], why: str) -> None:
    result = run(directory, *arguments)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert why in result.output


def test_without_a_daemon_and_a_log_it_says_nothing_fits(directory: Path) -> None:
    result = run(directory, "--tag", "team=search", "--usd", "1", recorded=False)
    assert result.exit_code == 2
    assert "no daemon answers at http://127.0.0.1:9/v1/status" in result.output
    assert "and there is no log in" in result.output
    assert not (directory / "data").exists()


def test_a_daemon_that_runs_is_asked_and_may_be_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: object, path: str) -> dict[str, Any]:
        return {"/v1/budgets": {"budgets": []}, "/v1/status": {"budgets": [], "ready": False}}[path]

    monkeypatch.setattr(offline, "daemon_json", answer)
    result = run(directory, "--tag", "team=search", "--usd", "299", recorded=False)
    assert result.exit_code == 0, result.output
    assert "$299.00 leaves $1.00 of search-week" in result.output
    assert "the daemon is behind its log" in result.output


def test_a_hostile_tag_is_shown_as_data(directory: Path) -> None:
    result = run(directory, "--tag", "team=search", "--tag", "api_key=[red]x\x1b[31m", "--usd", "1")
    assert "[red]x" in result.output
    assert "\x1b[31m" not in result.output
