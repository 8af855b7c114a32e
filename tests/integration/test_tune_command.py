"""`curb tune` from end to end on a short recording: what it says before, what it shows, and the patch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from curb.cli.main import app
from curb.config.file import load_file
from curb.evaluate import tune
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
