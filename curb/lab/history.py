"""The log as arrays: dollars per hour of every set of tags, samples of GPUs, and alerts with people's verdicts."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from curb import wiring
from curb.config.file import FIGURE_PARTS, CurbConfig, load_file
from curb.detector.forecast.days import DailySpend
from curb.detector.rollup.dedupe import RecentIds
from curb.detector.rollup.raw_records import EARLIEST_TIME, LATEST_TIME, MARK
from curb.detector.state.scopes import Source
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import (
    INTAKE_REPORT,
    UNTAGGED,
    Alert,
    CostRecord,
    GpuRecord,
    LedgerEntry,
    SpendRecord,
    UsageRecord,
)
from curb.stream.time import DAY_S, HOUR_S, moment
from curb.views.alerts_and_actions import LogView

Floats = NDArray[np.float64]
Tags = tuple[tuple[str, str], ...]
T = TypeVar("T")
#: Seconds that one charge may cover: a commitment of three years. By hand; each hour of it takes memory.
_LONGEST_S = 3 * 366 * DAY_S

_TOPICS: tuple[tuple[str, Source, type[SpendRecord]], ...] = (
    (USAGE, "usage", UsageRecord),
    (GPU, "gpu", GpuRecord),
    (COSTS, "costs", CostRecord),
)
#: Fields of the record that stand for a tag which it does not carry.
_FIELDS = {"model": "request_model", "service": "service_name", "provider": "provider_name", "source": "source"}


class LoggedAlert(NamedTuple):
    """An alert in its newest revision, the newest verdict of a person ("" for none), and its ledger."""

    alert: Alert
    verdict: str
    ledger: list[LedgerEntry]


@dataclass(frozen=True)
class HourlySums:
    """One set of tags, an array of shape (hours,) each. `busy` is percent times samples of GPUs; else 0."""

    usd: Floats
    requests: Floats
    busy: Floats
    samples: Floats


@dataclass(frozen=True)
class History:
    """What the log holds of a span of whole hours."""

    config: CurbConfig
    #: Start of the first hour, epoch seconds.
    start: int
    hours: int
    sums: Mapping[tuple[Source, Tags], HourlySums]
    alerts: list[LoggedAlert]

    @property
    def zone(self) -> ZoneInfo:
        """The business time zone of the configuration."""
        return ZoneInfo(self.config.detector.time_zone)

    @property
    def days(self) -> float:
        return self.hours / 24

    @property
    def times(self) -> NDArray[np.datetime64]:
        """The start of every hour as local time without a zone, shape (hours,): what charts draw."""
        local = [moment(at).astimezone(self.zone).replace(tzinfo=None) for at in self._starts()]
        return np.array(local, dtype="datetime64[s]")

    def _starts(self) -> list[int]:
        return [self.start + HOUR_S * hour for hour in range(self.hours)]

    def total(self, kind: Source = "usage", **tags: str) -> Floats:
        """Dollars per hour of everything of a kind that has all `tags`, shape (hours,)."""
        found = (each.usd for name, own, each in self._matching(kind, tags))
        return np.asarray(sum(found, np.zeros(self.hours)))

    def by(self, *names: str, kind: Source = "usage", **tags: str) -> dict[str, Floats]:
        """Dollars per hour for each value of the tags `names`, most expensive first; several are joined by " / "."""
        sums: dict[str, Floats] = defaultdict(lambda: np.zeros(self.hours))
        for own, _, each in self._matching(kind, tags):
            values = dict(own)
            sums[" / ".join(values.get(name, UNTAGGED) for name in names)] += each.usd
        return dict(sorted(sums.items(), key=lambda item: -float(item[1].sum())))

    def _matching(self, kind: Source, tags: Mapping[str, str]) -> list[tuple[Tags, Source, HourlySums]]:
        return [
            (own, source, each)
            for (source, own), each in self.sums.items()
            if source == kind and tags.items() <= dict(own).items()
        ]

    def daily(self, usd: Floats) -> DailySpend:
        """Dollars per local day of an array of hours; the last day only where it is whole."""
        local = [moment(at).astimezone(self.zone).date().toordinal() for at in self._starts()]
        epoch = moment(0).date().toordinal()
        numbers = np.array(local) - epoch
        first, last = int(numbers[0]), int(numbers[-1])
        days: Floats = np.bincount(numbers - first, weights=usd, minlength=last - first + 1).astype(np.float64)
        whole = moment(self.start + self.hours * HOUR_S).astimezone(self.zone)
        if whole.hour or whole.minute:
            days = days[:-1]
        return DailySpend(first, days)


def from_log(config: Path | str = "curb.yaml", days: float | None = None) -> History:
    """The last `days` of the log that a configuration names, or all of it; the daemon may be up or down.

    Needs no secret but the log's. Memory: 32 bytes for each hour of each set of tags. Raises ConfigErrors for a wrong
    configuration, TransientError and PermanentError for a log that cannot be read, ValueError where it holds no spend.
    """
    loaded = load_file(Path(config), FIGURE_PARTS)
    return wait_for(_read(loaded, -math.inf if days is None else WallClock().now() - days * DAY_S))


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in a thread of its own: a notebook has a running event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _read(config: CurbConfig, since: float) -> History:
    hours: dict[tuple[Source, Tags], dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0] * 4))
    async with wiring.open_log(config, WallClock()) as log:
        for topic, kind, schema in _TOPICS:
            await _add_up(log, topic, kind, schema, since, config.detector.max_future_s, hours)
        view = await LogView().load(log)
    known = [hour for each in hours.values() for hour in each]
    if not known:
        raise ValueError("the log holds no spend in this span; see curb backfill, or lab.example() for one to try")
    first, count = min(known), max(known) - min(known) + 1
    alerts = [
        LoggedAlert(alert, said[-1].verdict if (said := view.feedback.get(name)) else "", view.entries_of(name))
        for name, alert in view.alerts.items()
        if alert.fired_at >= since
    ]
    sums = {key: _dense(each, first, count) for key, each in hours.items()}
    return History(config, first * HOUR_S, count, sums, sorted(alerts, key=lambda each: each.alert.fired_at))


async def _add_up(
    log: Log,
    topic: str,
    kind: Source,
    schema: type[SpendRecord],
    since: float,
    max_future_s: float,
    hours: dict[tuple[Source, Tags], dict[int, list[float]]],
) -> None:
    ids = RecentIds.for_ever()
    async for message in log.scan(topic):
        if message.value.startswith(INTAKE_REPORT):
            continue
        records = [
            record
            for record in decode_lines(message.value, schema, lambda *_: None)
            if record.charge_period_start >= since and _counts(record, max_future_s)
        ]
        records = [each for each in records if not (isinstance(each, CostRecord) and each.delta == MARK)]
        fresh = ids.first_seen([record.id for record in records]) if records else None
        for at, record in enumerate(records):
            if fresh is None or fresh[at]:
                _add(hours[kind, _tags(record)], record)


def _counts(record: SpendRecord, max_future_s: float) -> bool:
    """False for what the rollup counts nowhere either: no sum, or a time that is an error."""
    latest = min(record.received_at + max_future_s, LATEST_TIME)
    return math.isfinite(record.effective_cost) and EARLIEST_TIME <= record.charge_period_start <= latest


def _tags(record: SpendRecord) -> Tags:
    fields = {tag: value for tag, field in _FIELDS.items() if (value := getattr(record, field, ""))}
    return tuple(sorted((fields | record.tags).items()))


def _add(hours: dict[int, list[float]], record: SpendRecord) -> None:
    """A charge counts in the hours that it covers, evenly; in those of its first `_LONGEST_S` where it covers more."""
    start = record.charge_period_start
    end = max(start, min(record.charge_period_end, start + _LONGEST_S))
    first, last = int(start // HOUR_S), int(max(start, math.nextafter(end, start)) // HOUR_S)
    busy = record.gpu_utilization if isinstance(record, GpuRecord) else None
    for hour in range(first, last + 1):
        share = 1.0
        if last > first:
            share = (min(end, (hour + 1) * HOUR_S) - max(start, hour * HOUR_S)) / (end - start)
        sums = hours[hour]
        sums[0] += record.effective_cost * share
        sums[1] += record.requests * share
        if busy is not None:
            sums[2] += busy * share
            sums[3] += share


def _dense(hours: Mapping[int, list[float]], first: int, count: int) -> HourlySums:
    columns = np.zeros((4, count))
    for hour, amounts in hours.items():
        columns[:, hour - first] = amounts
    return HourlySums(*columns)
