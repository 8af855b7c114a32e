"""Sums raw records of one input partition into partial sums per series and bucket, each event once.

Partial sums are kept until the next flush. Whenever receipt time passes the end of a bucket's grace, they are written
with a tick before later records are counted, so whether a record is late does not depend on the times of flushes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.dedupe import RecentIds
from curb.detector.rollup.raw_records import (
    EARLIEST_TIME,
    LATEST_TIME,
    HotCost,
    HotRecord,
    RollupSettings,
    letter_for,
    read,
    reason_against,
)
from curb.detector.rollup.sums import distinct_buckets, sum_by_series_and_bucket
from curb.detector.rollup.tag_table import SeriesTable
from curb.detector.rollup.writer import PartialLines
from curb.stream import metrics
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import PricingHole, SpendTick

#: Topic → the word for its records in a scope's `sources`.
_SOURCES = {USAGE: "usage", COSTS: "costs", GPU: "gpu"}
#: Records read before they become columns of numbers, and rows of columns before they are summed without a flush:
#: 300,000 rows take about 30 MB. Chosen by hand.
_BATCH, _MAX_ROWS = 1000, 300_000


class _Snapshot(msgspec.Struct):
    """All state of a rollup between a flush and the next message."""

    received_at: float
    ticked_at: float
    ids: tuple[list[str], list[str], float]
    table: dict[str, Any]
    untold: float = 0.0


class Rollup:
    """The state of one partition of a raw topic; a `PartitionState`.

    `partitions` is the number of partitions of the spend topic; `name` identifies this input; `live`
    is False where the clock is not the wall clock.
    """

    def __init__(
        self, settings: RollupSettings, topic: str, partitions: int, name: str = "", *, live: bool = True
    ) -> None:
        self._settings, self._partitions, self._name, self._live = settings, partitions, name, live
        source = _SOURCES[topic]
        self._billing, self._metrics = topic == COSTS, topic == GPU
        self._kind: type[HotRecord] = HotCost if self._billing else HotRecord
        scopes = [scope for scope in settings.scopes if source in scope.sources]
        self._table = SeriesTable(scopes, settings.guard, partitions)
        self._ids = RecentIds(settings.dedupe)
        self._received_at = 0.0
        self._edge = 0
        # The first tick after a start announces this input, so that scoring waits for it.
        self._ticked_at, self._announced, self._was_live = 0.0, False, False
        # Pending records, their times of receipt, the combinations of their tags, and the message of each run.
        self._records: list[HotRecord] = []
        self._receipts: list[float] = []
        self._combinations: list[int] = []
        self._origins: list[tuple[int, Message]] = []
        self._chunks: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self._rows = 0
        #: Dollars that no tick has reported yet.
        self._unreported = 0.0
        self._holes: dict[str, PricingHole] = {}
        self._counted = Counter[str]()

    @property
    def time(self) -> float:
        """The latest receipt so far, epoch seconds."""
        return self._received_at

    def process(self, message: Message) -> Sequence[Message]:
        """Count the records of a message. Returns dead letters, and messages that a passed edge made due."""
        records, outputs = read(message, self._received_at, self._kind)
        if not records:
            return outputs
        received = [record.received_at for record in records]
        latest = max(received)
        if latest > LATEST_TIME:
            outputs += [letter_for(message, each, "in_the_future") for each in records if _beyond(each)]
            records = [each for each in records if not _beyond(each)]
            received = [record.received_at for record in records]
            latest = max(received, default=0.0)
        if self._edge_at(latest) > self._edge:
            start = self._pass_edges(records, received, message, outputs)
            records, received = records[start:], received[start:]
        outputs += self._count(records, received, latest, message)
        if len(self._records) >= _BATCH:
            outputs += self._to_columns()
            if self._rows >= _MAX_ROWS:
                outputs += self._write(self._ticked_at)
        return outputs

    def flush(self, now: float | None) -> Sequence[Message]:
        """Pending sums, with a tick for `now` or, while there is more to read, for the latest receipt."""
        outputs = self._write(self._received_at) if now is None else self._write(now, live=self._live)
        metrics.EVENTS_ROLLED_UP.inc(self._counted["events"])
        metrics.EVENTS_DUPLICATE.inc(self._counted["duplicates"])
        self._counted.clear()
        for scope, count in self._table.take_folded().items():
            metrics.SERIES_FOLDED.labels(scope=scope).inc(count)
        return outputs

    def snapshot(self) -> bytes:
        """The state, right after a flush."""
        state = _Snapshot(self._received_at, self._ticked_at, self._ids.dump(), self._table.dump(), self._unreported)
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        self._received_at, self._ticked_at, self._unreported = state.received_at, state.ticked_at, state.untold
        self._edge = self._edge_at(state.received_at) if state.received_at else 0
        self._ids.load(*state.ids)
        self._table.load(**state.table)

    def _edge_at(self, time: float) -> int:
        """Number of buckets that have ended with their grace at `time`."""
        return int((time - self._settings.grace_s) // self._settings.bucket_s)

    def _pass_edges(
        self, records: list[HotRecord], received: list[float], message: Message, outputs: list[Message]
    ) -> int:
        """Count all but the last run of records between two edges, with a tick per edge; returns the run's start."""
        start = 0
        for at, time in enumerate(received):
            edge = self._edge_at(time)
            if edge <= self._edge:
                continue
            if self._edge:
                outputs += self._count(
                    records[start:at], received[start:at], max(received[start:at], default=0.0), message
                )
                outputs += self._write(time)
                start = at
            self._edge = edge
        return start

    def _count(self, records: list[HotRecord], received: list[float], latest: float, message: Message) -> list[Message]:
        """Keep the records that are new, received until `latest`. Returns dead letters."""
        if not records:
            return []
        self._received_at = max(self._received_at, latest)
        new = self._ids.first_seen([record.id for record in records], self._received_at)
        if new is not None:
            self._counted["duplicates"] += len(records) - sum(new)
            records, received = list(compress(records, new)), list(compress(received, new))
        letters = []
        if self._table.crowded:
            letters = self._to_columns()
            self._table.forget_combinations()
        self._origins.append((len(self._records), message))
        self._records += records
        self._receipts += received
        self._combinations += self._table.combinations([bytes(record.tags) for record in records], received)
        cost_sources = [record.cost_source for record in records]
        if any(cost_sources) and "fallback" in cost_sources:
            self._note_holes(records)
        return letters

    def _note_holes(self, records: list[HotRecord]) -> None:
        for record in records:
            if record.cost_source != "fallback":
                continue
            hole = self._holes.setdefault(
                record.request_model,
                PricingHole(model=record.request_model, source=record.source, reason="unknown_model", at=0.0),
            )
            hole.at = max(hole.at, record.received_at)
            hole.requests += record.requests
            hole.tokens += record.input_tokens + record.output_tokens
            hole.gpu_hours += record.gpu_seconds / 3600
            hole.fallback_usd += record.effective_cost

    def _to_columns(self) -> list[Message]:
        """Turn pending records into columns of numbers. Returns dead letters for those that cannot be counted."""
        records, count = self._records, len(self._records)
        if not count:
            return []
        combinations = np.fromiter(self._combinations, np.int64, count)
        start = np.fromiter([each.charge_period_start for each in records], np.float64, count)
        received = np.fromiter(self._receipts, np.float64, count)
        values = np.zeros((9 if self._metrics else 7 if self._billing else 6, count))
        values[0] = np.fromiter([each.effective_cost for each in records], np.float64, count)
        _fill(values[1], [each.requests for each in records])
        _fill(values[2], [each.errors for each in records])
        _fill(values[3], [each.users for each in records])
        _fill(values[4], [each.input_tokens for each in records])
        _fill(values[5], [each.output_tokens for each in records])
        if self._metrics:
            _fill_metrics(values[6:], records)
        elif self._billing:
            scored = [isinstance(each, HotCost) and each.scored for each in records]
            values[6] = np.where(scored, 0.0, values[0])
        settings = self._settings
        age = received - start
        good = (age <= settings.max_age_days * 86400) & (age >= -settings.max_future_s) & (combinations >= 0)
        good &= (start >= EARLIEST_TIME) & np.isfinite(values[0]) & ((values[0] >= 0) | self._billing)
        letters: list[Message] = []
        if not good.all():
            letters = [self._letter(int(at)) for at in np.flatnonzero(~good)]
            combinations, start, values = combinations[good], start[good], values[:, good]
        self._counted["events"] += len(start)
        bucket = (start // settings.bucket_s).astype(np.int64) * settings.bucket_s
        self._chunks.append((self._table.rows(combinations), bucket, values))
        self._rows += len(start)
        self._unreported += float(values[0].sum())
        self._records, self._receipts, self._combinations, self._origins = [], [], [], []
        return letters

    def _letter(self, at: int) -> Message:
        record = self._records[at]
        _, message = self._origins[bisect_right(self._origins, at, key=lambda origin: origin[0]) - 1]
        if self._combinations[at] < 0:
            return letter_for(message, record, "wrong_type")
        return letter_for(message, record, reason_against(record, self._billing, self._settings))

    def _write(self, time: float, *, live: bool = False) -> list[Message]:
        """Pending sums as messages, followed by a tick if time has passed an edge."""
        letters = self._to_columns()
        lines = PartialLines(self._partitions, self._name)
        if self._rows and self._table.scopes:
            rows, bucket, values = self._chunks[0]
            if len(self._chunks) > 1:
                rows = np.concatenate([chunk[0] for chunk in self._chunks])
                bucket = np.concatenate([chunk[1] for chunk in self._chunks])
                values = np.concatenate([chunk[2] for chunk in self._chunks], axis=1)
            buckets = distinct_buckets(bucket)
            for at in range(len(self._table.scopes)):
                lines.add_sums(sum_by_series_and_bucket(rows[:, at], buckets, values), self._table.series)
        self._chunks, self._rows = [], 0
        for model, hole in self._holes.items():
            lines.add(crc32(model.encode()) % self._partitions, hole)
        self._holes = {}
        moved = self._edge_at(time) > self._edge_at(self._ticked_at)
        if moved or not self._announced or (live and not self._was_live):
            self._ticked_at, self._announced, self._was_live = max(time, self._ticked_at), True, live
            lines.add_tick(SpendTick(at=self._ticked_at, source=self._name, live=live, effective_cost=self._unreported))
            self._unreported = 0.0
        return letters + lines.messages()


def _beyond(record: HotRecord) -> bool:
    return record.received_at > LATEST_TIME


def _fill_metrics(rows: NDArray[np.float64], records: list[HotRecord]) -> None:
    """Fill rows with 1 per sample, its percent and its GiB; sums of them give the mean."""
    count = len(records)
    percent = np.fromiter([np.nan if r.gpu_utilization is None else r.gpu_utilization for r in records], float, count)
    memory = np.fromiter([r.memory_used or 0.0 for r in records], float, count)
    sampled = np.isfinite(percent) & np.isfinite(memory)
    rows[0] = sampled
    rows[1] = np.where(sampled, np.clip(percent, 0.0, 100.0), 0.0)
    rows[2] = np.where(sampled, np.maximum(memory, 0.0), 0.0)


def _fill(row: NDArray[np.float64], counts: list[int]) -> None:
    """Fill a row; most sources leave most counts at zero, or at one request."""
    if counts.count(counts[0]) == len(counts):
        row[...] = counts[0]
    else:
        row[...] = np.fromiter(counts, np.int64, len(counts))
