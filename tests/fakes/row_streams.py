"""Rows about periods, as a recording: 12 keys in a daily rhythm, one of which runs away; moved off the grid at will."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from curb.stream.records.spend import UsageRecord

#: A Monday, 2025-06-16 00:00 UTC.
START = 1_750_032_000
KEYS, RUNAWAY = 12, "key-5"


def rows(step_s: int, move_s: int, days: float, runaway_h: int = 4) -> Iterator[dict[str, Any]]:
    """In the order of receipt, a few seconds after the end of each. The runaway ends two hours before the stream."""
    rng = np.random.default_rng(3)
    end = START + int(days * 86400)
    runs_away = range(end - (runaway_h + 2) * 3600, end - 2 * 3600)
    for start in range(START, end, step_s):
        rhythm = 1 + 0.5 * math.sin((start % 86400) / 86400 * 2 * math.pi)
        for key in range(KEYS):
            times = 20.0 if f"key-{key}" == RUNAWAY and start in runs_away else 1.0
            usd = step_s / 3600 * (1 + key) * rhythm * float(rng.uniform(0.9, 1.1)) * times
            yield {
                "id": f"{key}/{start}",
                "start": float(start + move_s),
                "received": float(start + move_s + step_s + 2 + key / 100),
                "tags": {"team": "search", "project": "p", "api_key": f"key-{key}", "model": "gpt-4o"},
                "usd": usd,
                "requests": int(40 * usd) + 1,
            }


def usage_of(row: dict[str, Any]) -> UsageRecord:
    """A row as a connector puts it on the log."""
    return UsageRecord(
        id=row["id"],
        charge_period_start=row["start"],
        received_at=row["received"],
        effective_cost=row["usd"],
        tags=row["tags"],
        source="meter",
        requests=row["requests"],
    )


def write(path: Path, step_s: int, move_s: int, days: float) -> Path:
    """The rows as a recorded stream."""

    def at(moment: float) -> str:
        return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")

    lines = (
        {
            "src": "llm",
            "id": row["id"],
            "ts": at(row["start"]),
            "recv": at(row["received"]),
            "tags": row["tags"],
            "cost_usd": row["usd"],
            "requests": row["requests"],
        }
        for row in rows(step_s, move_s, days)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
