"""A recorded stream whose rows begin off the hour, or come late, is judged as one on the grid and in time."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay
from curb.evaluate.grid import Grid, grid
from curb.stream.records.spend import UsageRecord

START, STEP_S, DAYS = 1_750_032_000, 3600, 9
RUNS_AWAY = range(START + 8 * 86400, START + 8 * 86400 + 4 * 3600)


def at(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def write(path: Path, move_s: int, late_s: float) -> Path:
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for start in range(START, START + DAYS * 86400, STEP_S):
        rhythm = 1.0 + 0.8 * math.sin((start % 86400) / 86400 * 2 * math.pi)
        for key in range(4):
            usd = (1 + key) * rhythm * rng.uniform(0.8, 1.2) * (15 if key == 2 and start in RUNS_AWAY else 1)
            rows.append(
                {
                    "src": "llm",
                    "id": f"{key}/{start}",
                    "ts": at(start + move_s),
                    "recv": at(start + move_s + STEP_S + late_s * rng.uniform(0.2, 1.0)),
                    "tags": {"team": "search", "project": "p", "api_key": f"key-{key}", "model": "gpt-4o"},
                    "cost_usd": usd,
                    "requests": int(40 * usd) + 1,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: str(row["recv"]))))
    return path


def alerts(path: Path, back_s: float = 0.0) -> list[tuple[Any, ...]]:
    found = replay(path, DetectorSettings()).alerts.values()
    return [
        (life.last.tags["api_key"], life.tier, life.first.fired_at - back_s, round(life.last.excess_usd, 6))
        for life in found
        if life.last.kind == "runaway"
    ]


@pytest.mark.parametrize("move_s", [149, 420, 1440, 3599])
def test_rows_off_the_grid_give_the_same_alerts_at_their_own_time(tmp_path: Path, move_s: int) -> None:
    expected = alerts(write(tmp_path / "on.jsonl", 0, 0.0))
    assert any(key == "key-2" and tier == "page" for key, tier, *_ in expected)
    found = alerts(write(tmp_path / "off.jsonl", move_s, 0.0), move_s)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    # What is normal at 24 minutes past an hour is a little between the hours.
    assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], rel=0.02)


def test_rows_that_come_late_are_waited_for_and_not_for_an_hour(tmp_path: Path) -> None:
    expected = alerts(write(tmp_path / "on.jsonl", 0, 0.0))
    found = replay(write(tmp_path / "late.jsonl", 0, 1800.0), DetectorSettings())
    assert found.pipeline is not None
    assert found.pipeline.judged.late == 0
    late = alerts(tmp_path / "late.jsonl")
    assert [(*row[:2], row[3]) for row in late] == [(*row[:2], row[3]) for row in expected]
    assert all(0 < after[2] - before[2] <= 1860 for after, before in zip(late, expected, strict=True))


def test_its_sentence_names_the_time_of_the_stream(tmp_path: Path) -> None:
    found = replay(write(tmp_path / "off.jsonl", 1440, 0.0), DetectorSettings()).alerts.values()
    (life,) = [life for life in found if life.last.tags.get("api_key") == "key-2" and life.tier == "page"]
    assert "since 00:24 UTC" in life.first.explanation
    assert life.last.alert_id.endswith(f"-{int(life.first.fired_at)}")


def rows(starts: list[float], lates: list[float], step: float = 3600.0) -> list[UsageRecord]:
    return [
        UsageRecord(
            id=str(i),
            charge_period_start=start,
            received_at=start + step + late,
            effective_cost=1.0,
            source="s",
            tags={},
        )
        for i, (start, late) in enumerate(zip(starts, lates, strict=True))
    ]


def test_what_only_a_few_rows_need_is_not_waited_for() -> None:
    starts = [START + 3600.0 * hour for hour in range(100)]
    assert grid(rows(starts, [0.0] * 88 + [3000.0] * 12)) == (3600, 0, 0.0)
    assert grid(rows(starts, [900.0] * 99 + [7200.0])) == (3600, 0, 900.0)
    assert grid(rows([start + 77 for start in starts], [0.0] * 100)) == (3600, 77, 0.0)


def test_seconds_within_the_grace_change_nothing() -> None:
    settings = DetectorSettings()
    assert Grid(3600, 0, 29.0).settings(settings, 3600).grace_s == settings.grace_s == 30
    assert Grid(3600, 0, 30.0).settings(settings, 3600).grace_s == 60
    assert Grid(3600, 0, 900.0).settings(settings, 3600).grace_s == 960
    assert Grid(3600, 0, 900.0).settings(settings, 300).grace_s == 30


def test_buckets_begin_on_whole_minutes_and_wait_for_the_seconds() -> None:
    found = Grid(3600, 149).settings(DetectorSettings())
    assert (found.bucket_s, found.phase_s, found.grace_s) == (3600, 120, 59)
    found = Grid(60, 29, 90.0).settings(DetectorSettings())
    assert (found.bucket_s, found.phase_s, found.grace_s) == (60, 0, 149)


def test_calls_have_no_grid() -> None:
    starts = [START + 3.0, START + 20.0, START + 61.0]
    found = grid(rows(starts, [1.0, 1.0, 1.0], 0.0)).settings(DetectorSettings())
    assert (found.bucket_s, found.phase_s) == (60, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("step_s", [7, 2700, 86400])
def test_a_stream_of_any_step_comes_to_an_end(tmp_path: Path, step_s: int) -> None:
    # Of 45 minutes in buckets of 15 the grace is longer than a bucket.
    rows = [
        {
            "src": "llm",
            "id": str(number),
            "ts": at(START + 100 + number * step_s),
            "recv": at(START + 100 + (number + 1) * step_s),
            "tags": {"team": "search", "api_key": "key-1"},
            "cost_usd": 1.0,
        }
        for number in range(40 if step_s < 86400 else 6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = replay(tmp_path / "rows.jsonl", DetectorSettings())
    assert found.pipeline is not None
    assert (found.events, found.pipeline.scored_until) == (len(rows), 0.0)
