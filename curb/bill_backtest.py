"""`curb backtest` on a bill: its deliveries in order of time, through the configured connector, lane and budgets."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from curb import wiring
from curb.config.file import CurbConfig
from curb.connectors.connector import Batch, Connector, ConnectorConfig, Context, Pull
from curb.connectors.intake.append import mark
from curb.connectors.validate import validate
from curb.detector.incidents.causes import ENOUGH
from curb.detector.pipeline import Pipeline
from curb.evaluate.backtest import AlertLife, Backtest
from curb.stream.clock import EventClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import UNTAGGED, CostRecord
from curb.stream.time import DAY_S, HOUR_S

#: The name of a folder that holds a delivery: its time, with dashes where file systems allow no colons.
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)[-:](\d\d)[-:](\d\d)Z")
#: Seconds between a delivery's files being written and being read. Chosen by hand: nobody reads what is being written.
_WRITTEN_S = 60.0


class BillFolder(NamedTuple):
    """A folder with what a vendor wrote at one time, epoch seconds."""

    at: float
    path: Path


def deliveries(directory: Path) -> list[BillFolder]:
    """The deliveries in a directory, oldest first; none where it holds no folder named by a time."""
    found = [(match, each) for each in directory.iterdir() if each.is_dir() and (match := _NAME.fullmatch(each.name))]
    return sorted(BillFolder(_time(match), each) for match, each in found)


def _time(name: re.Match[str]) -> float:
    day, *clock = name.groups()
    return datetime.fromisoformat(f"{day}T{':'.join(clock)}").replace(tzinfo=UTC).timestamp()


def run_bill_backtest(directory: Path, out: Path, config: CurbConfig, console: Console) -> Backtest:
    """Read every delivery, write one line per alert to `out`, and print what was read and what was not judged.

    Raises ValueError for a configuration without exactly one bill. A delivery that cannot be read is passed over, as
    by the daemon, and named at the end.
    """
    bills = [each for each in config.connectors if each.reads_bills and "url" in type(each).model_fields]
    if len(bills) != 1:
        raise ValueError(f"deliveries need exactly one connector that reads a bill in files, not {len(bills)}: see -c")
    result, found = Backtest(bucket_s=HOUR_S), deliveries(directory)
    replay = _BillReplay(config, bills[0], result, found[0].at)
    result.pipeline = replay.pipeline
    started = time.perf_counter()
    columns = (TextColumn("back-test"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(found))
        asyncio.run(replay.run(found, lambda: progress.advance(task)))
    result.seconds = time.perf_counter() - started
    with out.open("wb") as file:
        for life in result.alerts.values():
            file.write(msgspec.json.encode({**life.row(), "tags": _tags(life)}) + b"\n")
    console.print(f"{len(found)} deliveries, {result.events:,} changes of the bill in {result.seconds:.1f} s")
    for sentence in replay.trouble:
        console.print(f"not read at {sentence}", style="yellow", markup=False, soft_wrap=True)
    if result.left_out:
        console.print(result.left_out_words, style="yellow", markup=False, soft_wrap=True)
    for source, until in replay.pipeline.shard.bills_judged_until.items():
        day = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M")
        console.print(f"{source} is complete, and judged, until {day} UTC", highlight=False)
    console.print(f"{len(result.alerts)} alerts written to {out}")
    return result


class _BillReplay:
    """Reads one bill's deliveries through its connector, with a clock that stands at each of them."""

    def __init__(self, config: CurbConfig, bill: ConnectorConfig, result: Backtest, start: float) -> None:
        self._config, self._bill, self._result = config, bill, result
        self._clock = EventClock(start)
        # There is no usage: minutes of silence need not be judged one by one.
        self.pipeline = Pipeline(config.detector.model_copy(update={"bucket_s": HOUR_S}))
        self._attribution = wiring.make_attribution(config)
        self._connector: Connector | None = None
        self._cursor: str | None = None
        #: What kept deliveries from being read, a sentence each.
        self.trouble: list[str] = []

    async def run(self, found: list[BillFolder], report: Callable[[], None]) -> None:
        """Read all deliveries, oldest first; time passes by the hour between them, and a day after the last."""
        with tempfile.TemporaryDirectory(prefix="curb-bills-") as name:
            current, state = Path(name) / "bill", Path(name) / "state"
            async with aiohttp.ClientSession() as http:
                context = Context(self._clock, http, wiring.load_prices(self._config.prices), state)
                ends = [*(each.at for each in found[1:]), found[-1].at + DAY_S]
                for delivery, until in zip(found, ends, strict=True):
                    self._clock.observe(delivery.at)
                    _lay(delivery, current)
                    self._connector = self._connector or _connector(self._bill, current, context)
                    await self._read(self._connector)
                    for moment in _hours(delivery.at, until):
                        self.pipeline.tick(moment)
                        self._result.collect(self.pipeline)
                    report()
                if self._connector is not None:
                    await self._connector.close()

    async def _read(self, connector: Connector) -> None:
        """Take in what a delivery brings."""
        source, at, more = self._bill.name, self._clock.now(), True
        while more:
            try:
                batch: Batch = await connector.read(self._cursor)
            except (TransientError, PermanentError) as error:
                self.trouble.append(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}: {error}")
                return
            for alert in batch.alerts:
                self._result.follow(alert)
            batch = validate(batch, source=source, at=at)
            records, before = self._attribution.apply(batch.records, source=source, at=at)
            self._attribution.appended(before)
            self._result.events += len(records)
            self._result.leave_out(batch.dead)
            costs = [record for record in records if isinstance(record, CostRecord)]
            if batch.complete_until is not None and not batch.more:
                costs.append(mark(batch.complete_until, source=source, at=at))
            self.pipeline.feed(encode_lines(costs), COSTS, source)
            self._cursor, more = batch.cursor, batch.more


def _lay(delivery: BillFolder, current: Path) -> None:
    """Put the files of a delivery where the vendor would: over those of the same name, beside the others."""
    for each in sorted(delivery.path.rglob("*")):
        if each.is_file():
            to = current / each.relative_to(delivery.path)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(each, to)
            os.utime(to, (delivery.at - _WRITTEN_S,) * 2)


def _connector(bill: ConnectorConfig, current: Path, context: Context) -> Connector:
    """The configured connector, which reads `current` instead of where the vendor writes."""
    here = bill.model_copy(update={"url": _place(str(getattr(bill, "url", "")), current)})
    source = here.build(context)
    assert isinstance(source, Pull)  # bills are read
    return source.connector


def _place(url: str, current: Path) -> str:
    """Where in `current` lies what `url` names: the longest end of its path that is there, or the whole."""
    parts = [part for part in url.partition("://")[2 if "://" in url else 0].split("/") if part]
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        if any(current.glob(end)):
            return str(current / end)
    return str(current)


def _hours(start: float, end: float) -> Iterator[float]:
    """Moments an hour apart, from a second after `start` until `end`."""
    moment = start + 1
    while moment < end:
        yield moment
        moment += HOUR_S


def _tags(life: AlertLife) -> dict[str, str]:
    """The tags of an alert, with those of its cause while it fired: what is over has no spend to look at."""
    cause = life.firing.causes[0] if life.firing.causes else None
    finer = cause.tags if cause is not None and cause.share >= ENOUGH else {}
    return {**life.last.tags, **{tag: value for tag, value in finer.items() if value != UNTAGGED}}
