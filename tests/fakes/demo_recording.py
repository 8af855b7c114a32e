"""The demo's traffic with agent loops in it, as a recording with known incidents."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from curb.demo.incident import AgentLoop, LoopRun
from curb.demo.trace import Key, Request, Trace, as_event
from curb.evaluate.known import IncidentLine
from curb.stream.time import DAY_S


def demo_recording(directory: Path, out: Path, loops: Sequence[AgentLoop] | None = None, step_s: int = 300) -> Path:
    """The demo's traffic in `directory` with agent loops on some keys: events.jsonl.gz and incidents.jsonl in `out`.

    One line per key and `step_s` seconds. `loops`: by default those of `default_loops`."""
    trace = Trace.load(directory)
    events, incidents = list(trace.history(trace.start, trace.end, step_s)), []
    for number, loop in enumerate(default_loops(trace) if loops is None else loops):
        key = trace.key(loop.key)
        lines = _loop_lines(LoopRun(trace, loop), key, number, step_s)
        events += lines
        start, end = (datetime.fromtimestamp(at, UTC) for at in (loop.start, loop.end))
        incidents.append(IncidentLine(key.tags, start, end, sum(line["cost_usd"] for line in lines)))
    events.sort(key=lambda line: (line["ts"], line["id"]))
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(out / "events.jsonl.gz", "wb") as file:
        file.writelines(as_event(event) + b"\n" for event in events)
    (out / "incidents.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in incidents))
    return out


def default_loops(trace: Trace) -> list[AgentLoop]:
    """Eight loops after the third day, on the keys that spend most: $3 to $60 an hour for 40 minutes to 4 hours."""
    day3 = trace.start + 3 * DAY_S
    by_spend = sorted(trace.keys, key=lambda key: -trace.usual_usd_per_hour(key, trace.start, day3))
    sizes = [(60, 40), (40, 60), (30, 90), (20, 120), (12, 120), (8, 180), (5, 120), (3, 240)]
    room = (trace.end - day3) / (len(sizes) + 1)
    loops = []
    for number, ((usd_per_hour, minutes), key) in enumerate(zip(sizes, by_spend, strict=False)):
        start, usual = _first_busy(trace, key, day3 + (number + 0.5) * room)
        loops.append(AgentLoop(key.alias, start, start + minutes * 60, 1 + usd_per_hour / usual))
    return loops


def _first_busy(trace: Trace, key: Key, at: float) -> tuple[float, float]:
    """The first moment from `at` on after an hour with spend, and that spend: a loop is a multiple of it."""
    while at < trace.end:
        if usual := trace.usual_usd_per_hour(key, at - 3600, at):
            return at, usual
        at += 600
    raise ValueError(f"{key.alias} spends nothing in the rest of the trace")


def _loop_lines(run: LoopRun, key: Key, number: int, step_s: int) -> list[dict[str, Any]]:
    """Lines like those of `Trace.history`; a loop has lines of its own beside the key's usual ones."""
    steps: dict[int, list[Request]] = {}
    while run.next_at < math.inf:
        call = run.call()
        steps.setdefault(int(call.at // step_s) * step_s, []).append(call)
        run.answer(admitted=True)
    return [
        {
            "src": "llm",
            "id": f"loop-{number}-{step}",
            "ts": float(step),
            "recv": float(step + step_s),
            "tags": key.tags,
            "requests": len(calls),
            "errors": 0,
            "input_tokens": sum(call.input_tokens for call in calls),
            "output_tokens": sum(call.output_tokens for call in calls),
            "cost_usd": sum(call.cost_usd for call in calls),
        }
        for step, calls in steps.items()
    ]
