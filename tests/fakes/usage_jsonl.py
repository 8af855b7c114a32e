"""A gateway that writes JSON lines, in Curb's format and as an event stream."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any


def curb_line(number: int, at: float, **changes: Any) -> dict[str, Any]:
    """One event in Curb's own format."""
    return {
        "id": f"e{number}",
        "charge_period_start": at,
        "tags": {"team": "search", "project": "answers", "api_key": "k1"},
        "effective_cost": 0.01,
        "request_model": "gpt-4o",
        "requests": 1,
        "input_tokens": 1000,
        "output_tokens": 200,
        **changes,
    }


def stream_line(number: int, at: float, **changes: Any) -> dict[str, Any]:
    """One event of a recorded stream; `src` in `changes` makes it a gpu sample or a plan."""
    common = {"id": f"s{number}", "ts": rfc3339(at), "recv": rfc3339(at + 60), "src": "llm"}
    usage = {
        "tags": {"team": "search", "project": "answers", "env": "prod", "model": "gpt-4o", "api_key": "k1"},
        "requests": 10,
        "input_tokens": 1000,
        "output_tokens": 200,
        "errors": 1,
        "users": 3,
        "cost_usd": 0.01,
    }
    return {**common, **usage, **changes}


def gpu_line(number: int, at: float, **changes: Any) -> dict[str, Any]:
    """One GPU sample of a recorded stream."""
    return {
        "id": f"g{number}",
        "ts": rfc3339(at),
        "recv": rfc3339(at + 60),
        "src": "gpu",
        "tags": {"team": "platform", "group": "train", "node": "n0", "instance": "p5"},
        "gpu_util_pct": 12.5,
        "gpu_mem_gib": 20.0,
        "cost_usd": 0.38,
        **changes,
    }


def rfc3339(at: float) -> str:
    """Epoch seconds as "2025-03-24T00:00:00Z"."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def lines(events: list[dict[str, Any]]) -> bytes:
    """JSON lines, each ended."""
    return "".join(json.dumps(event) + "\n" for event in events).encode()
