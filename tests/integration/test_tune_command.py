"""`curb tune` from end to end on a short recording: what it says before, what it shows, and the patch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from curb import wiring
from curb.cli.main import app
from curb.cli.tune import verdicts
from curb.config.file import CurbConfig, load_file
from curb.evaluate import tune
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import Feedback
from tests.fakes.alerts import T0, an_alert
from tests.fakes.memory_log import MemoryLog
from tests.unit.test_tune import stream


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five days of three keys, and two settings to try."""
    grid = tune.grid
    monkeypatch.setattr(tune, "grid", lambda current: grid(current)[:2])
    return stream(tmp_path / "recording", 5)


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["tune", *(str(each) for each in arguments)])


def test_a_recording_is_tuned_on(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "tune.yaml"
    arguments = (recording, "-c", tmp_path / "none.yaml", "--per-shape", "1", "--out", out)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    for text in ("incidents of $", "2 settings, 4 back-tests", "now", "recommended", "loop ×8", "written to"):
        assert text in result.output
    assert load_file(out).detector.score.floors_usd[0] in (0.4, 1.0)


def test_ctrl_c_shows_what_was_measured(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = tune.Bench.run

    def interrupted(bench: tune.Bench, setting: tune.TunePoint, **more: object) -> object:
        if setting != bench.points[0]:
            raise KeyboardInterrupt
        return replay(bench, setting, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "_probe", lambda *_: 1.0)
    monkeypatch.setattr(tune.Bench, "run", interrupted)
    result = run(recording, "-c", tmp_path / "none.yaml", "--per-shape", "1", "--json")
    assert result.exit_code == 130
    found = json.loads(result.stdout.splitlines()[0])
    assert (len(found["tried"]), found["settings_left"], found["interrupted"]) == (1, 1, True)
    assert found["tried"][0]["setting"]["notice_at_risk_usd"] == 5.0
    assert sum(of for _, of in found["tried"][0]["by_shape"].values()) == len(found["incidents"])


async def test_verdicts_are_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    alerts = [
        an_alert(alert_id="real", fired_at=T0 + 60, started_at=T0, resolved_at=T0 + 900.0, tags={"api_key": "k1"}),
        an_alert(alert_id="launch", fired_at=T0, started_at=T0, tags={"api_key": "k2"}),
        an_alert(alert_id="money", fired_at=T0, kind="budget"),
        an_alert(alert_id="nobody", fired_at=T0),
    ]
    said = [("real", "not_an_anomaly"), ("real", "real"), ("launch", "planned"), ("money", "real"), ("gone", "real")]
    feedback = [Feedback(id=f"f{n}", at=T0 + n, alert_id=each, verdict=what) for n, (each, what) in enumerate(said)]  # type: ignore[arg-type]
    await log.append([Message(ALERTS, encode_lines(alerts), key=b""), *map(knowledge_message, feedback)])

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[MemoryLog]:
        yield log

    monkeypatch.setattr(wiring, "open_log", opened)
    found = {each.tags["api_key"]: each for each in await verdicts(CurbConfig())}
    assert {key: each.real for key, each in found.items()} == {"k1": True, "k2": False}, "the newest verdict counts"
    assert (found["k1"].start, found["k1"].end) == (T0, T0 + 900.0)


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "curb.yaml"
    config.write_text(f"log: {{kind: embedded, directory: {tmp_path}/log}}\n", encoding="utf-8")
    for arguments, why in (
        ((tmp_path / "nowhere",), "does not exist"),
        ((stream(tmp_path / "short", 1),), "has 1.0 days"),
        (("-c", config), "the log holds no usage"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert why in result.output
        assert len(result.output.splitlines()) == 1
