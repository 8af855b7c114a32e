"""`curb backtest`: a recorded stream through the same rollup, detector and alerting, in memory, in arrival order."""

from __future__ import annotations

import gzip
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import IO, Any, get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from curb.connectors.history.recognise import NAMES, recognise
from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.evaluate.grid import Grid, grid
from curb.evaluate.score import fired, has_labels, read_labels, score, score_lines
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, GPU, USAGE
from curb.stream.records.spend import (
    TIER_RANK,
    Alert,
    DeadLetter,
    GpuRecord,
    PlannedActivity,
    SpendRecord,
    Tier,
    UsageRecord,
)
from curb.stream.time import iso

Event = SpendRecord | PlannedActivity

#: Events looked at to find the grid of a stream.
PROBE = 5000


@dataclass
class Backtest:
    """Result of a back-test: events read, seconds it took, every alert by id in the order they opened."""

    events: int = 0
    #: Lines that could not be read or counted, by reason.
    left_out: Counter[str] = field(default_factory=Counter)
    #: Where the first of them is, and what is wrong with it.
    first_left_out: str = ""
    seconds: float = 0.0
    bucket_s: int = 60
    #: When the last of what happened was over, epoch seconds; records may have come later.
    end: float = 0.0
    #: As it stands at the end of the stream.
    pipeline: Pipeline | None = None
    alerts: dict[str, AlertLife] = field(default_factory=dict)

    def follow(self, alert: Alert) -> None:
        """Take in the next revision of an alert."""
        life = self.alerts.get(alert.alert_id)
        if life is None:
            life = self.alerts[alert.alert_id] = AlertLife(alert, alert, alert.tier)
        life.follow(alert)

    def leave_out(self, letters: Iterable[DeadLetter | Message]) -> None:
        """Count what is not in the result: dead letters, or messages that hold one each."""
        for letter in letters:
            each = msgspec.json.decode(letter.value, type=DeadLetter) if isinstance(letter, Message) else letter
            self.left_out[each.reason] += each.count
            self.first_left_out = self.first_left_out or f"{each.location}: {each.detail}"

    @property
    def left_out_words(self) -> str:
        """How many lines, why, and where the first one is; "" for none."""
        if not self.left_out:
            return ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
        return (
            f"{self.left_out.total():,} lines could not be read or counted and were left out: {reasons}; the first is "
            f"{self.first_left_out}"
        )

    def collect(self, pipeline: Pipeline) -> None:
        """Take in what came out of a pipeline since the last look."""
        self.leave_out(pipeline.dead_letters)
        for alert in pipeline.alerts:
            self.follow(alert)


@dataclass
class AlertLife:
    """One alert from its first revision to its newest."""

    first: Alert
    last: Alert
    tier: Tier
    #: Event times at which it became a notice or a page, and a page; None if it never did.
    noticed_at: float | None = None
    paged_at: float | None = None
    #: Its first revision and, of a budget, those with a higher threshold than before.
    crossings: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        #: The newest revision in which it fired.
        self.firing = self.first

    def follow(self, alert: Alert) -> None:
        """Take in the next revision."""
        if crosses(self.crossings[-1] if self.crossings else None, alert):
            self.crossings.append(alert)
        self.last = alert
        if alert.status == "firing":
            self.firing = alert
        if alert.tier in ("notice", "page") and self.noticed_at is None:
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


def crosses(before: Alert | None, alert: Alert) -> bool:
    """Whether a revision is the first of an alert, or has its budget at a higher threshold than `before`."""
    if before is None or before.budget is None or alert.budget is None:
        return before is None
    return alert.channel != before.channel and alert.budget.threshold > before.budget.threshold


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


def replay(
    path: Path,
    settings: DetectorSettings,
    bucket_s: int = 0,
    progress: Any = None,
    *,
    change: Callable[[Iterator[Event]], Iterator[Event]] | None = None,
) -> Backtest:
    """Run the stream at `path` through a fresh pipeline. `bucket_s` 0 means: the step of the stream, or that of the
    settings if it is longer.

    `progress` is called with the bytes read, and what it raises ends the run. `change` may add or drop events.
    """
    file = events_file(path)
    found = grid_in(file)
    settings = found.settings(settings, bucket_s)
    result = Backtest(bucket_s=settings.bucket_s)
    pipeline = Pipeline(settings)
    started = time.perf_counter()
    with file.open("rb") as raw:
        events = read_events(raw, file, result, found.step_s)
        feed(
            pipeline, settings, change(events) if change else events, result, lambda: progress and progress(raw.tell())
        )
    _forget_the_end(result)
    result.seconds, result.pipeline = time.perf_counter() - started, pipeline
    return result


def grid_in(file: Path) -> Grid:
    """The grid of the stream in `file`, as its first events have it."""
    with file.open("rb") as raw:
        probe = islice(read_events(raw, file, Backtest(), 0), PROBE)
        return grid(event for event in probe if isinstance(event, SpendRecord))


def on_time(records: Iterable[SpendRecord], now: float, step_s: int) -> list[SpendRecord]:
    """The records; those without a recorded time of receipt (`now` stands for it) came when their step ended."""

    def received(record: SpendRecord) -> SpendRecord:
        if record.received_at < now:
            return record
        return msgspec.structs.replace(record, received_at=record.charge_period_start + step_s)

    return list(map(received, records))


def read_events(raw: IO[bytes], file: Path, result: Backtest, step_s: int) -> Iterator[Event]:
    """The events of an open file, in order of receipt; unreadable lines are counted in `result`."""
    lines: Any = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
    now = WallClock().now()
    while chunk := lines.readlines(1 << 20):
        batch = parse_event_stream(chunk, source="backtest", location=file.name, at=now)
        result.leave_out(batch.dead)
        kinds: tuple[Sequence[Event], ...] = (batch.plans, on_time(batch.records, now, step_s))
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
            close_at = _next_close(_arrival(event), settings)
            if close_at - bucket_s > -math.inf:
                pipeline.tick(close_at - bucket_s)
            result.collect(pipeline)
            report_read()
        batch.append(event)
    _flush(pipeline, batch, result)
    if close_at > -math.inf:
        close_at += bucket_s
        pipeline.tick(close_at)
        while close_at < result.end + grace_s:
            close_at += bucket_s
            pipeline.tick(close_at)
        while (until := pipeline.scored_until) > 0:  # records of a source that is late wait for their turn
            # Time must go on: with a grace longer than a bucket the next close may be past already.
            close_at = max(close_at + bucket_s, _next_close(until, settings))
            pipeline.tick(close_at)
    result.collect(pipeline)


def _next_close(at: float, settings: DetectorSettings) -> float:
    """The first moment after `at` at which a bucket closes: its end plus the grace."""
    bucket_s, after_s = settings.bucket_s, settings.grace_s + settings.phase_s
    return (math.floor((at - after_s) / bucket_s) + 1) * bucket_s + after_s


def _flush(pipeline: Pipeline, batch: list[Event], result: Backtest) -> None:
    for topic, kind in ((COMMANDS, PlannedActivity), (USAGE, UsageRecord), (GPU, GpuRecord)):
        part = [event for event in batch if isinstance(event, kind)]
        if part:
            pipeline.feed(encode_lines(part), topic)
    started = (event.charge_period_start for event in batch if not isinstance(event, PlannedActivity))
    result.end = max(result.end, max(started, default=0.0) + result.bucket_s)
    result.events += len(batch)
    batch.clear()


def _not_judged(result: Backtest) -> str:
    """The share that was counted and not judged in its bucket, and why."""
    assert result.pipeline is not None
    judged = result.pipeline.judged
    if not judged.late:
        return "every record was judged"
    share = judged.late_usd / judged.usd if judged.usd else 0.0
    return (
        f"{judged.late:,} of {judged.records:,} records ({share:.2%} of the dollars) came after their bucket was "
        "judged, later than is usual for their source: they count in totals, budgets and the windows still open"
    )


def run_backtest(path: Path, out: Path, settings: DetectorSettings, bucket_s: int, console: Console) -> Backtest:
    """Run, write one line per alert to `out`, and print events per second and peak memory.

    Raises ValueError, naming what the file looks like, where none of its lines can be read.
    """
    file = events_file(path)
    size = file.stat().st_size
    columns = (TextColumn("back-test"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        result = replay(path, settings, bucket_s, lambda at: progress.update(task, completed=at))
    if result.left_out and not result.events:
        raise ValueError(
            f"no line of {file} can be read; it looks like {NAMES[recognise(file)]}, and a back-test reads a recorded "
            f"event stream: read it with `curb backfill`, then write one with `curb export`. {result.left_out_words}"
        )
    with out.open("wb") as lines:
        for life in result.alerts.values():
            lines.write(msgspec.json.encode(life.row()) + b"\n")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * (1024 if sys.platform == "darwin" else 1))
    rate = result.events / max(result.seconds, 1e-9)
    tiers = ", ".join(f"{sum(a.tier == t for a in result.alerts.values())} {t}" for t in get_args(Tier))
    console.print(
        f"{result.events:,} events in {result.seconds:.1f} s: {rate:,.0f} events/s, {result.bucket_s} s buckets, "
        f"peak memory {peak_mib:.0f} MiB"
    )
    console.print(_not_judged(result))
    if result.left_out:
        console.print(result.left_out_words, style="yellow", markup=False, soft_wrap=True)
    console.print(f"{len(result.alerts)} alerts ({tiers}) written to {out}")
    if path.is_dir() and has_labels(path):
        rows = [life.row() for life in result.alerts.values()]
        for line in score_lines(score(read_labels(path), fired(rows))):
            console.print(line, markup=False)
    return result
