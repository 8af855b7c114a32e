"""Recordings: rows without a time of receipt came when their step ended, and the end says what was not judged."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay, run_backtest
from tests.fakes.spend import T0

DAY = 86400


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(number: int, key: str, *, blind: bool = False, **more: Any) -> dict[str, Any]:
    """Five minutes of a key: 20 requests, or 180 of which nothing is known but their number."""
    at = datetime.fromtimestamp(T0 + 300 * number, UTC).isoformat()
    usage = {"cost_usd": 0.0, "requests": 180} if blind else {"cost_usd": 0.14, "requests": 20, "input_tokens": 30_000}
    tags = {"api_key": key, "team": "t", "project": "p", "model": "gpt-4o"}
    return {"src": "llm", "id": f"{key}{number}", "ts": at, "tags": tags, **usage, **more}


def test_a_key_that_streams_without_usage_is_reported_within_the_hour(tmp_path: Path) -> None:
    begins = 3 * DAY // 300
    rows = [row(number, key, blind=key == "a" and number >= begins) for number in range(begins + 36) for key in "ab"]
    result = replay(write(tmp_path / "events.jsonl", rows), DetectorSettings())
    assert result.pipeline is not None
    assert (result.pipeline.judged.records, result.pipeline.judged.late) == (len(rows), 0)
    (life,) = result.alerts.values()
    assert (life.first.kind, life.first.tier, life.first.tags["api_key"]) == ("feed", "notice", "a")
    assert life.first.fired_at - (T0 + 3 * DAY) <= 3600
    assert "report neither tokens nor a cost" in life.first.explanation


def test_the_end_says_what_was_not_judged(tmp_path: Path) -> None:
    rows = [row(number, "a") for number in range(100)]
    late = datetime.fromtimestamp(T0 + 300 * 90, UTC).isoformat()
    said = io.StringIO()

    def run(rows: list[dict[str, Any]]) -> str:
        source = write(tmp_path / "events.jsonl", rows)
        said.truncate(0)
        run_backtest(source, tmp_path / "out", DetectorSettings(), 0, Console(file=said, width=300))
        return said.getvalue()

    assert "every record was judged" in run(rows)
    rows.insert(90, row(10, "a", id="late", recv=late))
    assert "1 of 101 records (0.99% of the dollars) came after their bucket was judged" in run(rows)
