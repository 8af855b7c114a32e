"""Incidents that are known to be in a recording: `incidents.jsonl` beside its events."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from curb.evaluate.tune import JudgedAlert

#: The file beside the events of a recording.
INCIDENTS_FILE = "incidents.jsonl"


class IncidentLine(msgspec.Struct):
    """A line of the file; `usd` is dollars in all."""

    tags: dict[str, str]
    start: datetime
    end: datetime
    usd: float


def known_incidents(directory: Path) -> list[JudgedAlert]:
    """The incidents of a recording, as alerts that a person called real; none where the file is missing.

    Raises ValueError (msgspec's ValidationError and DecodeError are such) for lines that are none.
    """
    file = directory / INCIDENTS_FILE
    if not file.is_file():
        return []
    return [_incident(line) for line in file.read_bytes().splitlines() if line.strip()]


def _incident(line: bytes) -> JudgedAlert:
    found = msgspec.json.decode(line, type=IncidentLine)
    if found.end <= found.start or not found.tags:
        raise ValueError(f"{INCIDENTS_FILE}: an incident needs tags and an end after its start: {found}")
    return JudgedAlert(True, found.tags, found.start.timestamp(), found.end.timestamp(), found.usd)
