"""`curb backtest`: a recorded stream through the same rollup, detector and alerting, in memory, in arrival order."""

from __future__ import annotations

import gzip
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.evaluate.score import fired, has_labels, read_labels, score, score_lines
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COMMANDS, GPU, USAGE
from curb.stream.records.spend import TIER_RANK, Alert, GpuRecord, PlannedActivity, SpendRecord, Tier, UsageRecord
from curb.stream.time import iso

#: Events looked at to find the step of a stream.
PROBE = 5000
Event = SpendRecord | PlannedActivity


@dataclass
class Backtest:
    """Result of a back-test: events read, seconds it took, every alert by id in the order they opened."""

    events: int = 0
    #: Lines that could not be read or counted.
    unreadable: int = 0
    seconds: float = 0.0
    bucket_s: int = 60
    #: When the last of what happened was over, epoch seconds; records may have come later.
    end: float = 0.0
    #: As it stands at the end of the stream.
    pipeline: Pipeline | None = None
    alerts: dict[str, AlertLife] = field(default_factory=dict)


@dataclass
class AlertLife:
    """One alert from its first revision to its newest."""

    first: Alert
    last: Alert
    tier: Tier
    #: Event times at which it became a notice or a page, and a page; None if it never did.
    noticed_at: float | None = None
    paged_at: float | None = None

    def follow(self, alert: Alert) -> None:
        """Take in the next revision."""
        self.last = alert
        if alert.tier != "digest" and self.noticed_at is None:
            self.noticed_at = alert.updated_at
        if alert.tier == "page" and self.paged_at is None:
            self.paged_at = alert.updated_at
        self.tier = max(self.tier, alert.tier, key=TIER_RANK.__getitem__)

    def row(self) -> dict[str, Any]:
        """One line of the output file. `tier` is the highest; `fired_at` is the time of the first message."""
        last = self.last
        return {
            "alert_id": last.alert_id,
            "fingerprint": last.fingerprint,
            "kind": last.kind,
            "tier": self.tier,
            "fired_at": iso(self.noticed_at or self.first.fired_at),
            "noticed_at": iso(self.noticed_at),
            "paged_at": iso(self.paged_at),
            "resolved_at": iso(last.resolved_at),
            "tags": last.tags,
            "scope": last.scope,
            "expected_usd": round(last.expected_usd, 6),
            "actual_usd": round(last.actual_usd, 6),
            "excess_usd": round(last.excess_usd, 6),
            "dollars_at_risk": round(last.dollars_at_risk, 2),
            "explanation": last.explanation,
        }


def events_file(path: Path) -> Path:
    """The stream itself: `path`, or events.jsonl.gz (or .jsonl) in it. Raises FileNotFoundError."""
    if path.is_dir():
        found = next((path / name for name in ("events.jsonl.gz", "events.jsonl") if (path / name).exists()), None)
        if found is None:
            raise FileNotFoundError(f"{path} holds neither events.jsonl.gz nor events.jsonl")
        return found
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return path


def stream_step(records: Iterable[SpendRecord]) -> int:
    """The step of a stream in seconds: the largest divisor of an hour that divides all event times, 10 s at least."""
    starts = sorted({int(record.charge_period_start) for record in records})
    step = math.gcd(3600, *(start % 3600 for start in starts)) if starts else 60
    return max(10, step)


def replay(path: Path, settings: DetectorSettings, bucket_s: int = 0, progress: Any = None) -> Backtest:
    """Run the stream at `path` through a fresh pipeline. `bucket_s` 0 means: the step of the stream."""
    file = events_file(path)
    if bucket_s == 0:
        with file.open("rb") as raw:
            probe = islice(read_events(raw, file, Backtest()), PROBE)
            bucket_s = stream_step(event for event in probe if isinstance(event, SpendRecord))
    settings = settings.model_validate({**settings.model_dump(), "bucket_s": bucket_s})
    result = Backtest(bucket_s=bucket_s)
    pipeline = Pipeline(settings)
    started = time.perf_counter()
    with file.open("rb") as raw:
        feed(pipeline, settings, read_events(raw, file, result), result, lambda: progress and progress(raw.tell()))
    _forget_the_end(result)
    result.seconds, result.pipeline = time.perf_counter() - started, pipeline
    return result


def read_events(raw: IO[bytes], file: Path, result: Backtest) -> Iterator[Event]:
    lines: Any = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
    while chunk := lines.readlines(1 << 20):
        batch = parse_event_stream(chunk, source="backtest", location=file.name)
        result.unreadable += len(batch.dead)
        kinds: tuple[Sequence[Event], ...] = (batch.plans, batch.records)
        yield from merge(*kinds, key=_arrival)


def _arrival(event: Event) -> float:
    """When it came to be known, epoch seconds."""
    return event.at if isinstance(event, PlannedActivity) else event.received_at


def _forget_the_end(result: Backtest) -> None:
    """Drop feed alerts after the end: the recording is over, not the feed."""
    ended = [i for i, life in result.alerts.items() if life.first.kind == "feed" and life.first.fired_at > result.end]
    for alert_id in ended:
        del result.alerts[alert_id]


def feed(
    pipeline: Pipeline,
    settings: DetectorSettings,
    events: Iterator[Event],
    result: Backtest,
    report_read: Any,
) -> None:
    bucket_s, grace_s = settings.bucket_s, settings.grace_s
    batch: list[Event] = []
    close_at = -math.inf
    for event in events:
        if _arrival(event) >= close_at:
            # Everything received before the next bucket may close goes in first, then time moves on.
            _flush(pipeline, batch, result)
            if close_at > -math.inf:
                pipeline.tick(close_at)
            close_at = _next_close(_arrival(event), bucket_s, grace_s)
            if close_at - bucket_s > -math.inf:
                pipeline.tick(close_at - bucket_s)
            _collect(pipeline, result)
            report_read()
        batch.append(event)
    _flush(pipeline, batch, result)
    if close_at > -math.inf:
        pipeline.tick(close_at + bucket_s)
    _collect(pipeline, result)


def _next_close(at: float, bucket_s: int, grace_s: float) -> float:
    """The first moment after `at` at which a bucket closes: its end plus the grace."""
    return (math.floor((at - grace_s) / bucket_s) + 1) * bucket_s + grace_s


def _flush(pipeline: Pipeline, batch: list[Event], result: Backtest) -> None:
    for topic, kind in ((COMMANDS, PlannedActivity), (USAGE, UsageRecord), (GPU, GpuRecord)):
        part = [event for event in batch if isinstance(event, kind)]
        if part:
            pipeline.feed(encode_lines(part), topic)
    started = (event.charge_period_start for event in batch if not isinstance(event, PlannedActivity))
    result.end = max(result.end, max(started, default=0.0) + result.bucket_s)
    result.events += len(batch)
    batch.clear()


def _collect(pipeline: Pipeline, result: Backtest) -> None:
    result.unreadable += len(pipeline.dead_letters)
    for alert in pipeline.alerts:
        life = result.alerts.get(alert.alert_id)
        if life is None:
            life = result.alerts[alert.alert_id] = AlertLife(alert, alert, alert.tier)
        life.follow(alert)


def run_backtest(path: Path, out: Path, settings: DetectorSettings, bucket_s: int, console: Console) -> Backtest:
    """Run, write one line per alert to `out`, and print events per second and peak memory."""
    size = events_file(path).stat().st_size
    columns = (TextColumn("back-test"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        result = replay(path, settings, bucket_s, lambda at: progress.update(task, completed=at))
    with out.open("wb") as file:
        for life in result.alerts.values():
            file.write(msgspec.json.encode(life.row()) + b"\n")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * (1024 if sys.platform == "darwin" else 1))
    rate = result.events / max(result.seconds, 1e-9)
    tiers = ", ".join(f"{sum(a.tier == t for a in result.alerts.values())} {t}" for t in ("page", "notice", "digest"))
    console.print(
        f"{result.events:,} events in {result.seconds:.1f} s: {rate:,.0f} events/s, {result.bucket_s} s buckets, "
        f"peak memory {peak_mib:.0f} MiB"
    )
    if result.unreadable:
        console.print(f"{result.unreadable:,} lines could not be read or counted and were left out", style="yellow")
    console.print(f"{len(result.alerts)} alerts ({tiers}) written to {out}")
    if path.is_dir() and has_labels(path):
        rows = [life.row() for life in result.alerts.values()]
        for line in score_lines(score(read_labels(path), fired(rows))):
            console.print(line, markup=False)
    return result
