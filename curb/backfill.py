"""Gives an installation its past: files, gateways' own logs and providers' reports, counted once and then learned."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from curb import wiring
from curb.config.file import CurbConfig
from curb.connectors.connector import Batch, Connector, Context, Pull, PushWithBackfill, open_source
from curb.connectors.history.files import PastFile
from curb.connectors.history.recognise import HINTS, NAMES, Form, recognise
from curb.connectors.intake.runner import PullRunner
from curb.connectors.kinds import KINDS
from curb.connectors.tokens.litellm import Config as LiteLLMConfig
from curb.connectors.tokens.litellm import LiteLLM
from curb.connectors.tokens.usage_jsonl import Config as UsageJsonl
from curb.connectors.tokens.usage_jsonl import line_format
from curb.connectors.validate import validate
from curb.feed import settle, until
from curb.row_grid import RowGrid
from curb.stream.clock import Clock, WallClock
from curb.stream.errors import PermanentError
from curb.stream.kinds import KindError
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import CostRecord, DeadLetter, SpendRecord
from curb.stream.time import DAY_S, grid_of

#: Records from whose starts the period of a file's rows is known. Chosen by hand.
_PROBE = 1000
#: Shortest period of rows, seconds: below it they are calls.
_SHORTEST_S = 60
#: Different starts from which a period is known. Chosen by hand: two are always on a grid.
_FEWEST_STARTS = 3

#: Settings for spend logs of a gateway that is not configured; nothing is pushed to it.
_NO_GATEWAY = LiteLLMConfig.model_validate({"kind": "litellm", "name": "litellm", "token": "not-used"})


class Span(NamedTuple):
    """What is wanted of the past, epoch seconds."""

    since: float
    until: float


@dataclass
class Counts:
    """What came of one source."""

    records: int = 0
    known: int = 0
    #: Dead letters: lines that cannot be read, and records that the log does not take.
    refused: int = 0
    outside: int = 0
    usd: float = 0.0
    first: float = math.inf
    last: float = 0.0


class _Id(msgspec.Struct):
    id: str


class KnownIds:
    """Hashes of the ids that are on the log, so that nothing counts twice whatever the detector remembers."""

    def __init__(self, hashes: Iterable[int]) -> None:
        self._sorted: NDArray[np.int64] = np.unique(np.fromiter(hashes, np.int64))
        self._new: set[int] = set()

    def add(self, record_id: str) -> bool:
        """Whether the id is new; it is known from then on."""
        value = hash(record_id)
        at = int(np.searchsorted(self._sorted, value))
        if value in self._new or (at < len(self._sorted) and self._sorted[at] == value):
            return False
        self._new.add(value)
        return True


class _Past:
    """Passes a connector through: what lies in the span and is not on the log, marked as read from the past."""

    def __init__(self, inner: Connector, name: str, clock: Clock, span: Span, known: KnownIds, counts: Counts) -> None:
        self._inner, self._span, self._known, self.counts = inner, span, known, counts
        self._name, self._clock = name, clock
        self._period_s: float | None = None
        #: The batch that was given last: until it is on the log it may be asked for again.
        self._given: tuple[str | None, Batch] | None = None

    async def read(self, cursor: str | None) -> Batch:
        if self._given is not None and self._given[0] == cursor:
            return self._given[1]
        # Only what the log takes is counted.
        batch = validate(await self._inner.read(cursor), source=self._name, at=self._clock.now())
        self.counts.refused += sum(msgspec.json.decode(each.value, type=DeadLetter).count for each in batch.dead)
        if self._period_s is None and batch.records:
            self._period_s = period_of(batch.records[:_PROBE])
        kept = [at for at, record in enumerate(batch.records) if self._wanted(record)]
        locations = [batch.locations[at] for at in kept] if batch.locations else ()
        batch = batch._replace(records=[batch.records[at] for at in kept], locations=locations)
        self._given = (cursor, batch)
        return batch

    def _wanted(self, record: SpendRecord) -> bool:
        counts, start = self.counts, record.charge_period_start
        if not self._span.since <= start < self._span.until:
            counts.outside += 1
            return False
        if not self._known.add(record.id):
            counts.known += 1
            return False
        counts.records += 1
        counts.usd += record.effective_cost if math.isfinite(record.effective_cost) else 0.0
        counts.first, counts.last = min(counts.first, start), max(counts.last, start)
        if not isinstance(record, CostRecord):
            record.backfilled = True
            record.charge_period_end = record.charge_period_end or (start + self._period_s if self._period_s else 0.0)
        return True

    async def close(self) -> None:
        await self._inner.close()


def period_of(records: Sequence[SpendRecord]) -> float:
    """Seconds that each row covers, as the grid of their starts says; 0 for calls."""
    starts = {record.charge_period_start for record in records}
    step = grid_of(starts)
    return float(min(step, DAY_S)) if step >= _SHORTEST_S and len(starts) >= _FEWEST_STARTS else 0.0


@dataclass
class HistorySource:
    """One thing to read, under the name that its cursor is kept by."""

    name: str
    connector: Connector
    what: str
    counts: Counts = field(default_factory=Counts)


def file_source(config: CurbConfig, context: Context, path: Path, form: str, like: str | None) -> HistorySource:
    """The source for a file. Raises PermanentError naming what the file looks like instead."""
    found = recognise(path)
    configured = next((each for each in config.connectors if each.name == like), None)
    if like is not None and configured is None:
        raise PermanentError(f"--like {like}: no connector has this name")
    connector: Connector
    if configured is not None and isinstance(configured, UsageJsonl):
        connector = _past_file(path, configured, found, context)
        name = configured.name
    else:
        wanted = _agreed(path, form, found)
        name, connector = _by_form(config, context, path, wanted, like)
    mark = hashlib.sha256(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}".encode()).hexdigest()
    return HistorySource(f"past/{name}/{mark[:16]}", connector, f"{path.name} ({NAMES[found]})")


def _agreed(path: Path, form: str, found: Form) -> Form:
    if found == "unknown" and form in ("curb", "event_stream", "litellm", "focus"):
        return cast("Form", form)
    if form not in ("auto", found):
        raise PermanentError(f"{path} is not {form}: it looks like {NAMES[found]}; {HINTS[found]}")
    if found not in ("curb", "event_stream", "litellm", "focus"):
        raise PermanentError(f"{path} looks like {NAMES[found]}; {HINTS[found]}")
    return found


def _by_form(config: CurbConfig, context: Context, path: Path, form: Form, like: str | None) -> tuple[str, Connector]:
    stem = "".join(c if c.isalnum() else "-" for c in path.name.split(".")[0].lower())[:50] or "file"
    if form == "focus":
        try:  # by its kind: a default install has no libraries for bills
            kind = KINDS.config("focus_file")
        except KindError as error:
            raise PermanentError(f"{path} is a bill: {error}") from None
        settings = kind.model_validate({"kind": "focus_file", "name": f"past-{stem}", "url": str(path)})
        return settings.name, open_pull(settings, context)
    if form != "litellm":
        lines = UsageJsonl.model_validate(
            {"kind": "usage_jsonl", "name": like or f"past-{stem}", "path": path, "format": form}
        )
        return lines.name, _past_file(path, lines, form, context)
    gateways = [each for each in config.connectors if isinstance(each, LiteLLMConfig) and like in (None, each.name)]
    gateway = gateways[0] if gateways else _NO_GATEWAY
    rows = LiteLLM(gateway, context.prices)
    return gateway.name, PastFile(path, gateway.name, form, context.clock, lines=None, rows=rows.row_records)


def _past_file(path: Path, settings: UsageJsonl, form: Form, context: Context) -> PastFile:
    lines = line_format(settings, context.prices)
    return PastFile(path, settings.name, form, context.clock, lines=lines, rows=lambda raw, at: [])


def open_pull(settings: Any, context: Context) -> Connector:
    """The reading side of a connector. Raises PermanentError where it has none."""
    match open_source(settings, context):
        case Pull(connector):
            return connector
        case PushWithBackfill(_, Pull(connector)):
            return connector
        case _:
            raise PermanentError(f"connector {settings.name} is pushed to: give its logs as a file, or set `backfill`")


def configured_source(settings: Any, context: Context, span: Span) -> HistorySource | None:
    """The past of a configured connector as far back as the span; None where it cannot look back."""
    hours = (span.until - span.since) / 3600 + 1
    if not settings.looks_back:
        return None
    changed: Any = None
    if isinstance(settings, LiteLLMConfig) and settings.backfill is not None:
        limits = {"first_hours": hours, "max_hours": hours, "page_size": 1000}
        changed = settings.model_copy(update={"backfill": settings.backfill.model_copy(update=limits)})
    else:
        costs = {"costs": False} if "costs" in type(settings).model_fields else {}
        changed = settings.model_copy(update={"first_hours": hours, **costs})
    name = f"past/{settings.name}/{int(span.since // DAY_S)}"
    return HistorySource(name, open_pull(changed, context), f"{settings.name} ({settings.kind})")


async def backfill(
    config: CurbConfig,
    files: Sequence[Path],
    names: Sequence[str],
    form: str,
    like: str | None,
    span: Span,
    console: Console,
    *,
    learn: bool,
) -> list[HistorySource]:
    """Append the past of every source, then have it learned unless a daemon does."""
    clock = WallClock()
    timeout = aiohttp.ClientTimeout(total=60)
    async with wiring.open_log(config, clock) as log, aiohttp.ClientSession(timeout=timeout) as http:
        context = wiring.connector_context(config, clock, http)
        sources = [file_source(config, context, path, form, like) for path in files]
        wanted = [each for each in config.connectors if each.name in names or (not files and not names)]
        sources += [made for each in wanted if (made := configured_source(each, context, span)) is not None]
        if not sources:
            raise PermanentError("nothing to read: give files, or configure `backfill` of litellm, openai or anthropic")
        known = await known_ids(log)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} records"))
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            for source in sources:
                await _append(config, log, clock, source, span, known, progress)
            if learn:
                await _learn(config, log, clock, progress)
    return sources


async def known_ids(log: Log) -> KnownIds:
    """The ids of all records on the log."""
    hashes: list[int] = []
    for topic in (USAGE, COSTS, GPU):
        async for message in log.scan(topic):
            hashes += [hash(each.id) for each in decode_lines(message.value, _Id, lambda *_: None)]
    return KnownIds(hashes)


async def _append(
    config: CurbConfig, log: Log, clock: Clock, source: HistorySource, span: Span, known: KnownIds, progress: Progress
) -> None:
    bar = progress.add_task(source.what, total=None)
    past = _Past(source.connector, source.name, clock, span, known, source.counts)
    attribution = wiring.make_attribution(config)
    await attribution.open(log)
    runner = PullRunner(past, source.name, log, clock, attribution=attribution)
    try:
        while await runner.step():
            progress.update(bar, completed=source.counts.records)
    finally:
        await past.close()
    progress.update(bar, completed=source.counts.records, total=max(1, source.counts.records))


async def _learn(config: CurbConfig, log: Log, clock: Clock, progress: Progress) -> None:
    """Sum and judge the past here, as the daemon would."""
    bar, rows = progress.add_task("learning", total=None), RowGrid(config, log)
    await rows.open()
    config = rows.config
    rollup, detector = wiring.make_rollup(config, log, clock), wiring.make_detector(config, log, clock)
    stop = asyncio.Event()
    tasks = [asyncio.create_task(part.run(stop)) for part in (rollup, detector)]
    await settle(rollup, tasks)
    await settle(detector, tasks)
    detector.learn_past()
    await until(lambda: not detector.rebuilding, tasks, lambda: progress.update(bar))
    stop.set()
    await asyncio.gather(*tasks)
