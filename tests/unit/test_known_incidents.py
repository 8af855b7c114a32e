"""`incidents.jsonl` of a recording: read as alerts that a person called real, refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curb.evaluate.known import known_incidents
from curb.evaluate.tune import JudgedAlert

AN_INCIDENT = {
    "tags": {"api_key": "k-17"},
    "start": "2026-03-27T10:00:00Z",
    "end": "2026-03-27T12:00:00+01:00",
    "usd": 4,
}


def write(directory: Path, *incidents: dict[str, Any]) -> Path:
    lines = "".join(json.dumps(each) + "\n\n" for each in incidents)
    (directory / "incidents.jsonl").write_text(lines, encoding="utf-8")
    return directory


def test_they_are_real_alerts_and_none_is_needed(tmp_path: Path) -> None:
    assert known_incidents(tmp_path) == []
    real = JudgedAlert(True, {"api_key": "k-17"}, 1774605600.0, 1774609200.0, 4.0)
    assert known_incidents(write(tmp_path, AN_INCIDENT, AN_INCIDENT)) == [real, real]


@pytest.mark.parametrize(
    "wrong", [{"end": "2026-03-27T10:00:00Z"}, {"tags": {}}, {"start": "yesterday"}, {"usd": None}], ids=str
)
def test_what_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"incident|Invalid|Expected"):
        known_incidents(write(tmp_path, AN_INCIDENT | wrong))
