"""`curb budgets` on a recorded directory, on the log of a daemon that is down, and on one that runs."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from curb.cli import offline
from curb.cli.budgets import app
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND, USAGE
from curb.stream.time import iso
from tests.fakes.spend import T0, usage

HOUR = 3600
CONFIG = """
log: {{kind: embedded, directory: {directory}/data}}
http: {{port: 9}}
detector:
  bucket_s: 300
  budgets:
    - {{name: org, scope: team, shared: true, amount_usd: 300, period: week}}
    - {{name: each-key, scope: key, parent: org, amount_usd: 40, period: day, hard: true}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "curb.yaml"
    path.write_text(CONFIG.format(directory=tmp_path), encoding="utf-8")
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two days of two keys of team a at $2 and $1 an hour."""
    lines = [
        json.dumps(
            {
                "src": "llm", "id": f"{key}-{hour}", "ts": iso(T0 + hour * HOUR), "recv": iso(T0 + hour * HOUR + 60),
                "cost_usd": usd, "requests": 1, "tags": {"team": "a", "project": "p", "api_key": key},
            }
        )
        for hour in range(46)
        for key, usd in (("k1", 2.0), ("k2", 1.0))
    ]  # fmt: skip
    with gzip.open(tmp_path / "events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


def test_a_recording_as_a_tree(config: Path, recording: Path) -> None:
    result = run("-c", config, "--from", recording)
    assert result.exit_code == 0, result.output
    for text in ("org", "each-key (hard cap)", "api_key=k1", "$138.00", "$44.00", "46%"):
        assert text in result.output


def test_a_recording_as_json(config: Path, recording: Path) -> None:
    rows = [json.loads(line) for line in run("-c", config, "--from", recording, "--json").output.splitlines()]
    org, *keys = rows
    assert (org["name"], org["spent_usd"], org["tags"]) == ("org", pytest.approx(138.0), {})
    assert sorted(row["spent_usd"] for row in keys) == [pytest.approx(22.0), pytest.approx(44.0)]
    assert {row["parent_id"] for row in keys} == {org["id"]}
    assert sum(row["spent_in_parent_usd"] for row in keys) == pytest.approx(138.0)
    assert all(row["forecast_usd"] >= row["spent_usd"] and 0 <= row["breach_probability"] <= 1 for row in rows)


def test_what_another_amount_would_do(config: Path, recording: Path) -> None:
    result = run("what-if", "each-key", "--amount", "30", "-c", config, "--from", recording, "--json")
    found = json.loads(result.output)
    # $2 an hour: 100 % of $40 in hour 20 of both days; of $30 in hour 15. $1 an hour: 80 % of $30 at most.
    assert [each["channel"] for each in found["now"]].count("budget/100") == 2
    reached = [each for each in found["then"] if each["channel"] == "budget/100"]
    # The row of the fifteenth hour comes a minute after its start.
    assert [each["fired_at"] - T0 for each in reached] == [14 * HOUR + 60, 38 * HOUR + 60]
    # Until the first bucket of the next day closes.
    assert reached[0]["hours"] == pytest.approx(11, abs=0.01)
    assert found["amount"] == 30.0


def test_what_if_for_people(config: Path, recording: Path) -> None:
    result = run("what-if", "each-key", "--amount", "30", "-c", config, "--from", recording)
    assert "each-key as it is: 8 crossings (2 page, 2 notice, 4 digest)" in result.output
    assert "a hard cap would have throttled 2 times" in result.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("what-if", "nobody", "--amount", "30"), "no budget nobody; configured: org, each-key"),
        (("--from", "/nowhere"), "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(config: Path, arguments: tuple[str, ...], why: str) -> None:
    first, *rest = arguments
    result = run("-c", config, *arguments) if first.startswith("-") else run(first, *rest, "-c", config)
    assert result.exit_code == 2
    assert why in result.output


def on_the_log(config: Path, directory: Path) -> None:
    """What a daemon would have left: sums and ticks of four hours."""
    settings = DetectorSettings(bucket_s=300)
    rollup = Rollup(settings, USAGE, partitions=1, name="r", live=False)
    messages: list[Message] = []
    for hour in range(4):
        records = [usage(f"{hour}", T0 + hour * HOUR, 5.0, received_at=T0 + hour * HOUR + 1)]
        messages += rollup.process(Message(USAGE, encode_lines(records), partition=0, offset=hour))
        messages += rollup.flush(T0 + hour * HOUR + 900)

    async def write() -> None:
        log = EmbeddedLog(directory / "data", ManualClock(T0))
        await log.open()
        await log.append([message for message in messages if message.topic == SPEND])
        await log.close()

    asyncio.run(write())


def test_the_log_of_a_daemon_that_is_down(config: Path, tmp_path: Path) -> None:
    on_the_log(config, tmp_path)
    result = CliRunner().invoke(app, ["-c", str(config), "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert {row["name"]: row["spent_usd"] for row in rows} == {"org": 20.0, "each-key": 20.0}
    assert "counted from the log" in result.output
    then = json.loads(run("what-if", "org", "--amount", "20", "-c", config, "--json").output)["then"]
    assert {each["channel"] for each in then} == {"budget/50", "budget/100"}


def test_a_daemon_that_runs_is_asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "tags": {"team": "a"}, "name": "b", "id": "b1", "parent_id": None, "period": "day", "period_start": T0,
        "period_end": T0 + 86400.0, "amount_usd": 100.0, "spent_usd": 25.0, "threshold": 0.0, "counted_from": T0 + 9.0,
        "increased_usd": 10.0, "forecast_usd": 110.0, "breach_at": T0 + 3600.0, "breach_probability": 0.75,
    }  # fmt: skip

    async def answer(_: object, path: str) -> dict[str, Any]:
        assert path == "/v1/budgets"
        return {"budgets": [row]}

    monkeypatch.setattr(offline, "daemon_json", answer)
    result = run("-c", config)
    for text in ("team=a", "$25.00", "$75.00", "25%", "75%", "$110.00", "added for a time", "count only since"):
        assert text in result.output
