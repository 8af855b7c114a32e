"""Feeds recorded usage through the configured log and the whole way of an event, in event time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from curb import wiring
from curb.actions.lifecycle.runner import ActionsRunner
from curb.config.file import CurbConfig
from curb.connectors.connector import Batch, Connector
from curb.connectors.history.recognise import HINTS, NAMES, recognise
from curb.connectors.intake.runner import PullRunner
from curb.connectors.tokens.usage_jsonl import Config as UsageJsonl
from curb.connectors.tokens.usage_jsonl import JsonlFiles, line_format
from curb.detector.rollup.rollup import Rollup
from curb.evaluate.backtest import PROBE, on_time
from curb.evaluate.grid import Grid, grid
from curb.stream.clock import EventClock, WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.records.spend import REPLAYED
from curb.stream.work.worker import Worker

logger = logging.getLogger(__name__)

#: How long to wait before a log that could not be reached is asked again, seconds.
_LOG_RETRIES_S = (1.0, 2.0, 4.0, 8.0)
#: How long to wait at the end until this process may send, seconds; a daemon on the same log may send instead.
_HANDOVER_S = 90.0


class _Feed:
    """Passes a connector through and moves the clock to what was received, once it is safely on the log."""

    def __init__(self, inner: Connector, clock: EventClock) -> None:
        self._inner, self._clock = inner, clock
        self._received = 0.0
        self.records = 0
        self._began = WallClock().now()
        #: The grid of the recording, as its first events have it.
        self.grid = Grid(0)
        self._first: Batch | None = None
        self.done = asyncio.Event()

    async def look(self) -> None:
        """Look at the first events."""
        self._first = await self._inner.read(None)
        self.grid = grid(self._first.records[:PROBE])

    async def read(self, cursor: str | None) -> Batch:
        # Being asked again means that the batch before was appended.
        self._clock.observe(self._received)
        batch = await self._inner.read(cursor) if self._first is None or cursor is not None else self._first
        batch = batch._replace(records=on_time(batch.records, self._began, self.grid.step_s))
        self.records += len(batch.records) + len(batch.plans)
        received = [*(record.received_at for record in batch.records), *(plan.at for plan in batch.plans)]
        self._received = max([self._received, *received])
        if not received and not batch.more:
            self.done.set()
        return batch

    async def close(self) -> None:
        await self._inner.close()


async def feed(config: CurbConfig, source: Path, form: str, console: Console, *, notify: bool = False) -> int:
    """Take `source` through the configured log, rollup and detector; the number of events read now.

    A replay never acts, and notifies only with `notify`.
    """
    clock = EventClock()
    timeout = aiohttp.ClientTimeout(total=30)
    async with wiring.open_log(config, clock) as log, aiohttp.ClientSession(timeout=timeout) as http:
        passing = _make_feed(config, source, form, clock)
        await passing.look()
        if config.detector.fit_buckets:
            config = config.model_copy(update={"detector": passing.grid.settings(config.detector)})
        notifying = wiring.make_replay_notifiers(config, log, clock, http, notify=notify)
        await _replay(config, log, clock, passing, notifying, console)
        return passing.records


def _form(source: Path, form: str) -> str:
    """The format of the lines. Raises PermanentError naming what a file looks like that has another one."""
    files = sorted([*source.glob("*.jsonl"), *source.glob("*.jsonl.gz")]) if source.is_dir() else [source]
    found = recognise(files[0]) if files else "unknown"
    if found == "unknown" and (form != "auto" or not files):
        return "event_stream" if form == "auto" else form
    if found not in ("curb", "event_stream") or form not in ("auto", found):
        wanted = "" if form == "auto" else f" is not {form}: it"
        raise PermanentError(f"{files[0]}{wanted} looks like {NAMES[found]}; {HINTS[found]}")
    return found


def _make_feed(config: CurbConfig, source: Path, form: str, clock: EventClock) -> _Feed:
    settings = UsageJsonl.model_validate(
        {
            "kind": "usage_jsonl",
            "name": f"{REPLAYED}{source.name.split('.')[0].lower()}"[:60],
            "path": source,
            "format": _form(source, form),
        }
    )
    form_of = line_format(settings, wiring.load_prices(config.prices))
    # The recorded receipt times are the time here; the wall clock only bounds them.
    files = JsonlFiles(source, settings.name, form_of, WallClock(), max_line_bytes=settings.max_line_bytes)
    return _Feed(files, clock)


async def _replay(
    config: CurbConfig, log: Log, clock: EventClock, passing: _Feed, notifying: ActionsRunner, console: Console
) -> None:
    rollup, detector = wiring.make_rollup(config, log, clock, live=False), wiring.make_detector(config, log, clock)
    # The wall clock here: what is recorded lies in the past, whatever the replay's own time is.
    attribution = wiring.make_attribution(config)
    await attribution.open(log)
    runner = PullRunner(passing, "replay", log, WallClock(), poll_interval_s=0.05, attribution=attribution)
    stop = asyncio.Event()
    all_read = asyncio.Event()
    works = [part.run(stop) for part in (runner, rollup, detector)]
    sending = asyncio.create_task(_send(notifying, all_read))
    tasks = [*(asyncio.create_task(work) for work in works), sending]
    columns = (TextColumn("replaying"), BarColumn(), TextColumn("{task.completed:,} events"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def meanwhile() -> None:
            progress.update(bar, completed=passing.records)
            # Records of an interrupted replay advance time as well; else inputs without data would delay it.
            clock.observe(_received(rollup))

        await until(passing.done.is_set, tasks, meanwhile)
        await settle(rollup, tasks, meanwhile)
        # One more bucket and its grace, so that the last one closes; or the last that is scored later.
        end = max(_received(rollup), _scored_until(rollup))
        clock.observe(end + config.detector.bucket_s + config.detector.grace_s + 1)
        await settle(rollup, tasks)
        await settle(detector, tasks)
    stop.set()
    await asyncio.gather(*tasks[:-1])
    # Nothing else comes: alerts that wait for a shared message need not wait.
    clock.observe(clock.now() + config.actions.telling.group_wait_seconds + 1)
    all_read.set()
    await sending


def _received(rollup: Worker) -> float:
    """The latest receipt the rollup has read; 0 before the first."""
    return max((state.time for state in rollup.states.values() if isinstance(state, Rollup)), default=0.0)


def _scored_until(rollup: Worker) -> float:
    """The end of the last record that waits to be scored; 0 where none does."""
    return max((state.scored_until for state in rollup.states.values() if isinstance(state, Rollup)), default=0.0)


async def settle(
    worker: Worker, tasks: list[asyncio.Task[None]], meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Wait until the worker, owning all its partitions, has answered everything that is on the log now."""
    since: int | None = None

    def settled() -> bool:
        nonlocal since
        if not worker.owns_all:  # also while partitions move in between
            since = None
            return False
        since = worker.rounds if since is None else since
        return worker.rounds >= since + 2

    await until(settled, tasks, meanwhile)


async def _send(notifying: ActionsRunner, stop: asyncio.Event) -> None:
    """Send as alerts come, and the rest at the end; an unreachable log is tried again."""
    for wait_s in (*_LOG_RETRIES_S, None):
        try:
            return await _send_once(notifying, stop)
        except TransientError as error:
            if wait_s is None:
                raise
            logger.warning("log out of reach", extra={"error": str(error)})
            await asyncio.sleep(wait_s)


async def _send_once(notifying: ActionsRunner, stop: asyncio.Event) -> None:
    await notifying.open()
    try:
        while not stop.is_set():
            await notifying.step(0.2)
        # The group may still be handing over from a process that was killed: nothing read is not all read.
        give_up_at = time.monotonic() + _HANDOVER_S
        while await notifying.step(0.5) or not notifying.is_up_to_date:
            if time.monotonic() > give_up_at and not notifying.is_up_to_date:
                logger.warning("another process sends the rest", extra={"waited_s": _HANDOVER_S})
                return
    finally:
        await notifying.close()


async def until(done: Callable[[], bool], tasks: list[asyncio.Task[None]], meanwhile: Callable[[], object]) -> None:
    """Wait for `done`; a task that ends before is a failure and is raised."""
    while not done():
        meanwhile()
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"{task.get_name()} ended before the replay did")
        await asyncio.sleep(0.02)
