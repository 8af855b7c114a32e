"""`curb backfill` and `curb export`: the past counts once and teaches, and comes out as it went in."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curb.cli.main import app
from curb.connectors.history.recognise import looks_like
from tests.sizes import size

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
CONFIG = "log: {{kind: embedded, directory: {path}/log}}\nstate_dir: {path}/state\nhttp: {{port: 1}}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "curb.yaml"
    path.write_text(CONFIG.format(path=tmp_path))
    return path


def curb(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def rows(count: int) -> list[dict[str, Any]]:
    """Spend logs: two calls an hour."""
    return [
        {
            "request_id": f"chatcmpl-{number}",
            "call_type": "acompletion",
            "api_key": "a" * 64,
            "spend": 0.25,
            "total_tokens": 1200,
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "startTime": (NOW - timedelta(minutes=30 * number + 7, milliseconds=113 * number)).isoformat(),
            "model": "gpt-4o",
            "custom_llm_provider": "openai",
            "status": "success",
            "metadata": json.dumps({"user_api_key_alias": "agent"}),
            "request_tags": "[]",
        }
        for number in range(count)
    ]


def totals(config: Path) -> tuple[float, int]:
    answer = curb("spend", "-c", config, "--scope", "model", "--json")
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    return round(sum(row["total_usd"] for row in found), 6), sum(row["events"] for row in found)


@pytest.mark.parametrize("form", ["jsonl", "array", "csv"])
def test_spend_logs_of_any_form_count_once(tmp_path: Path, config: Path, form: str) -> None:
    path, logs = tmp_path / "spend", rows(24)
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, logs)))
    elif form == "array":
        path.write_text(json.dumps(logs))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(logs[0]))
            writer.writeheader()
            writer.writerows(logs)
    first = curb("backfill", path, "-c", config)
    assert first.exit_code == 0, first.output
    assert "24 records ($6.00) appended" in " ".join(first.output.split())
    assert totals(config) == (6.0, 24)
    again = tmp_path / "renamed.jsonl"
    again.write_text("\n".join(map(json.dumps, logs)))
    assert "24 were on the log" in " ".join(curb("backfill", again, "-c", config).output.split())
    assert totals(config) == (6.0, 24)


def test_lines_that_cannot_be_counted_are_named_and_their_neighbours_count(tmp_path: Path, config: Path) -> None:
    odd = ({"spend": 1e308}, {"startTime": "yesterday"}, {"startTime": None}, {"prompt_tokens": "many"})
    logs = [json.dumps(row) for row in rows(12)]
    for number, change in enumerate(odd):
        logs.insert(3 * number, json.dumps(rows(1)[0] | {"request_id": f"odd-{number}"} | change))
    logs[5:5] = ['{"request_id":', "[" * 50_000, "\x00\x01"]
    path = tmp_path / "spend.jsonl"
    path.write_text("\n".join(logs))
    answer = " ".join(curb("backfill", path, "-c", config).output.split())
    assert "12 records ($3.00) appended" in answer
    assert "7 could not be read and are dead letters" in answer
    assert totals(config) == (3.0, 12)


def events(hours: int) -> list[str]:
    first = NOW - timedelta(hours=hours)
    return [
        json.dumps(
            {
                "id": f"{key}-{hour}",
                "ts": (first + timedelta(hours=hour)).isoformat(),
                "src": "llm",
                "tags": {"team": "a", "project": "p", "api_key": key, "model": "m"},
                "requests": 10,
                "input_tokens": 100,
                "output_tokens": 10,
                "cost_usd": 40.0 if key == "k1" and hour > hours - 6 else 1.0,
            }
        )
        for hour in range(hours)
        for key in ("k1", "k2")
    ]


def test_what_was_backfilled_comes_out_for_a_backtest(tmp_path: Path, config: Path) -> None:
    source, out = tmp_path / "events.jsonl", tmp_path / "out.jsonl.gz"
    source.write_text("\n".join(events(size(100, 200))))
    assert curb("backfill", source, "-c", config).exit_code == 0
    assert curb("export", "-c", config, "-o", out).exit_code == 0
    found = []
    for each in (source, out):
        alerts = tmp_path / f"{each.name}.alerts"
        assert curb("backtest", each, "-o", alerts).exit_code == 0
        found.append(alerts.read_text())
    assert found[0] == found[1] != ""
    part = tmp_path / "part.jsonl"
    since = (NOW - timedelta(hours=10)).isoformat()
    assert curb("export", "-c", config, "-o", part, "--since", since, "--tag", "api_key=k2").exit_code == 0
    assert {json.loads(line)["tags"]["api_key"] for line in part.read_text().splitlines()} == {"k2"}
    assert len(part.read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (b'{"request_id": "a", "spend": 0.1, "startTime": "2026-01-01"}', "litellm"),
        (b'[{"id": "a", "response_cost": 0.1, "startTime": 1.0}]', "litellm"),
        (b"request_id,call_type,spend,startTime\n", "litellm"),
        (b'{"object": "page", "data": [{"object": "bucket", "start_time": 1, "results": []}]}', "openai_usage"),
        (b"start_time,end_time,project_id,num_model_requests,model\n", "openai_usage"),
        (b'{"data": [{"starting_at": "2026-01-01T00:00:00Z", "results": []}]}', "anthropic_usage"),
        (b"usage_date_utc,model_version,api_key\n", "anthropic_usage"),
        (b"\xef\xbb\xbfBilledCost,ChargePeriodStart,ServiceName\n", "focus"),
        (b"identity/LineItemId,lineItem/UsageStartDate\n", "cur"),
        (b"line_item_usage_start_date,line_item_usage_type\n", "cur"),
        (b'{"resourceSpans": [', "otlp"),
        (b'{"id": "a", "charge_period_start": 1.0}', "curb"),
        (b'{"id": "a", "src": "llm", "ts": "2026-01-01T00:00:00Z"}', "event_stream"),
        (b'{"hello": 1}', "unknown"),
        (b"\x00\x01\x02", "unknown"),
        (b"", "unknown"),
    ],
)
def test_a_format_is_recognised(head: bytes, form: str) -> None:
    assert looks_like(head) == form


def test_a_file_that_is_something_else_is_named(tmp_path: Path, config: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(1))))
    for arguments in (("replay", path), ("backfill", path, "--format", "event_stream")):
        answer = curb(*arguments, "-c", config)
        assert answer.exit_code == 1
        assert "looks like LiteLLM spend logs" in " ".join(answer.output.split())


def test_a_backtest_says_what_a_file_is_that_it_cannot_read(tmp_path: Path) -> None:
    line = {"type": "usage", "id": "a", "charge_period_start": 1790812800.0, "effective_cost": 0.5, "tags": {}}
    (tmp_path / "events.jsonl").write_text(f"{json.dumps(line)}\n" * 3)
    answer = curb("backtest", tmp_path, "-o", tmp_path / "alerts.jsonl")
    assert answer.exit_code == 2
    assert "it looks like Curb's own lines" in answer.stderr
    assert "3 lines could not be read or counted and were left out: 3 missing_field" in answer.stderr


def test_a_backtest_says_why_lines_are_left_out_and_where_the_first_is(tmp_path: Path) -> None:
    good = {"src": "llm", "ts": "2025-03-24T00:00:00Z", "tags": {"team": "a"}, "requests": 1, "cost_usd": 1.0}
    lines = [json.dumps({**good, "id": str(number)}) for number in range(3)]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "{", "{"]) + "\n")
    answer = curb("backtest", tmp_path, "-o", tmp_path / "alerts.jsonl")
    assert answer.exit_code == 0
    assert "3 events in" in answer.stdout
    assert "2 lines could not be read or counted and were left out: 2 not_json; the first is events.jsonl:4:" in (
        answer.stdout
    )


@pytest.mark.parametrize("command", ["spend", "forecast"])
def test_a_scope_that_there_is_not_is_refused_with_those_there_are(config: Path, command: str) -> None:
    answer = curb(command, "-c", config, "--scope", "teams", "--json")
    assert (answer.exit_code, len(answer.output.splitlines())) == (2, 1)
    assert f"{command}: no scope teams; configured: key, team" in answer.output
