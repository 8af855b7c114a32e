"""Writes records of the log as an event stream: JSON lines that back-tests, replays and notebooks read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

from curb import wiring
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.topics import COMMANDS, GPU, USAGE
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import GpuRecord, PlannedActivity, SpendRecord, UsageRecord


async def export(config: CurbConfig, span: tuple[float, float], tags: Mapping[str, str], out: IO[bytes]) -> int:
    """Write every record whose charge begins within `span` and that has all `tags`, once; the number of records."""
    found: list[tuple[float, int, bytes]] = []
    seen: set[str] = set()
    async with wiring.open_log(config, WallClock()) as log:
        for topic, kind in ((USAGE, UsageRecord), (GPU, GpuRecord)):
            async for message in log.scan(topic):
                for record in decode_lines(message.value, kind, lambda *_: None):
                    wanted = span[0] <= record.charge_period_start < span[1] and tags.items() <= record.tags.items()
                    if wanted and record.id not in seen:
                        seen.add(record.id)
                        found.append((_known_at(record), len(found), msgspec.json.encode(line(record))))
        async for message in log.scan(COMMANDS):
            for plan in read_knowledge(message.value, lambda *_: None):
                if isinstance(plan, PlannedActivity) and span[0] <= plan.at < span[1]:
                    found.append((plan.at, len(found), msgspec.json.encode(plan_line(plan))))
    found.sort()
    for _, _, raw in found:
        out.write(raw + b"\n")
    return len(found)


def line(record: SpendRecord) -> dict[str, Any]:
    """A record as an event of the stream."""
    event: dict[str, Any] = {
        "id": record.id,
        "ts": _text(record.charge_period_start),
        "src": "gpu" if isinstance(record, GpuRecord) else "llm",
        "tags": record.tags,
    }
    if isinstance(record, GpuRecord):
        event |= {"gpu_util_pct": record.gpu_utilization, "gpu_mem_gib": record.memory_used}
    else:
        for name in ("requests", "input_tokens", "output_tokens", "errors", "users"):
            event[name] = getattr(record, name)
    if not record.backfilled:  # what was read from the past came in time then
        event["recv"] = _text(record.received_at)
    return event | {"cost_usd": record.effective_cost}


def _known_at(record: SpendRecord) -> float:
    """When the record came to be known, or had if it had been read in time."""
    return max(record.charge_period_start, record.charge_period_end) if record.backfilled else record.received_at


def plan_line(plan: PlannedActivity) -> dict[str, Any]:
    """Announced work as an event of the stream."""
    return {
        "id": plan.id,
        "ts": _text(plan.at),
        "src": "plan",
        "tags": plan.tags,
        "start": _text(plan.start),
        "end": _text(plan.end),
        "max_usd": plan.max_usd,
        "reason": plan.reason,
    }


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
