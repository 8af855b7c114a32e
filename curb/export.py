"""Writes records of the log as an event stream: JSON lines that back-tests, replays and notebooks read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import msgspec

from curb import wiring
from curb.config.file import CurbConfig
from curb.detector.rollup.dedupe import RecentIds
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.topics import COMMANDS, GPU, USAGE
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import GpuRecord, PlannedActivity, SpendRecord, UsageRecord
from curb.stream.time import DAY_S, moment

#: Bytes of lines in memory before they are written to the files of their days. Chosen by hand.
_BUFFER_BYTES = 64 << 20


class _Spool:
    """Lines by the day on which they came to be known, in temporary files: one day at a time is sorted in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: dict[int, list[bytes]] = defaultdict(list)
        self._bytes = 0
        self.count = 0

    def add(self, known_at: float, raw: bytes) -> None:
        """Take a line that came to be known at a time (epoch seconds)."""
        entry = b"%b %d %b\n" % (repr(known_at).encode(), self.count, raw)
        self._waiting[int(known_at // DAY_S)].append(entry)
        self.count += 1
        self._bytes += len(entry)
        if self._bytes > _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        for day, entries in self._waiting.items():
            with (self._directory / str(day)).open("ab") as file:
                file.writelines(entries)
        self._waiting.clear()
        self._bytes = 0

    def write(self, out: IO[bytes]) -> None:
        """Write every line in order."""
        self._flush()
        for day in sorted(int(path.name) for path in self._directory.iterdir()):
            with (self._directory / str(day)).open("rb") as file:
                parts = (entry.split(b" ", 2) for entry in file)
                ordered = sorted((float(known_at), int(number), raw) for known_at, number, raw in parts)
            out.writelines(raw for _, _, raw in ordered)


async def export(config: CurbConfig, span: tuple[float, float], tags: Mapping[str, str], out: IO[bytes]) -> int:
    """Write every record whose charge begins within `span` and that has all `tags`, once; the number of records.

    Memory is that of a day of records, and eight bytes for each id.
    """
    with TemporaryDirectory(prefix="curb-export-") as directory:
        spool = _Spool(Path(directory))
        async with wiring.open_log(config, WallClock()) as log:
            for topic, kind in ((USAGE, UsageRecord), (GPU, GpuRecord)):
                ids = RecentIds.for_ever()
                async for message in log.scan(topic):
                    records = decode_lines(message.value, kind, lambda *_: None)
                    wanted = [each for each in records if _is_wanted(each, span, tags)]
                    fresh = ids.first_seen([each.id for each in wanted]) if wanted else None
                    for at, record in enumerate(wanted):
                        if fresh is None or fresh[at]:
                            spool.add(_known_at(record), msgspec.json.encode(line(record)))
            async for message in log.scan(COMMANDS):
                for plan in read_knowledge(message.value, lambda *_: None):
                    if isinstance(plan, PlannedActivity) and span[0] <= plan.at < span[1]:
                        spool.add(plan.at, msgspec.json.encode(plan_line(plan)))
        spool.write(out)
    return spool.count


def _is_wanted(record: SpendRecord, span: tuple[float, float], tags: Mapping[str, str]) -> bool:
    return span[0] <= record.charge_period_start < span[1] and tags.items() <= record.tags.items()


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
    return moment(at).isoformat().replace("+00:00", "Z")
