"""Sums raw records of one input partition into partial sums per series and bucket, each event once.

Partial sums are kept until the next flush. Whenever receipt time passes the end of a bucket's grace, they are written
with a tick before later records are counted, so whether a record is late does not depend on the times of flushes.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.rollup.dedupe import RecentIds, SavedIds
from curb.detector.rollup.judged import Judged
from curb.detector.rollup.loop_calls import LoopCalls
from curb.detector.rollup.past_rows import cover, is_past, periods
from curb.detector.rollup.raw_records import (
    EARLIEST_TIME,
    LATEST_TIME,
    MARK,
    HotCost,
    HotRecord,
    RollupSettings,
    fill,
    fill_metrics,
    is_beyond,
    letter_for,
    read,
    read_intake,
    reason_against,
)
from curb.detector.rollup.spread import Pieces, Rows, Waiting, coarse, pieces
from curb.detector.rollup.sums import COMMON, distinct_buckets, sum_by_series_and_bucket
from curb.detector.rollup.tag_table import SeriesTable
from curb.detector.rollup.tallies import SCORED_WITHIN_S, Tallies, Timed, owner
from curb.detector.rollup.timing import ON_TIME, RecentTimes, Source, SourceTimes
from curb.detector.rollup.writer import PartialLines
from curb.detector.state.amounts import PAST_S, Purpose
from curb.detector.state.columns import Bools, Floats, Packed, pack, unpack
from curb.detector.state.scopes import Source as Kind
from curb.stream import metrics
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.dead_letters import Reason
from curb.stream.records.spend import NOT_USAGE, PricingHole, ScopeTally, SpendTick

logger = logging.getLogger(__name__)
#: Topic → the word for its records in a scope's `sources`.
_SOURCES: dict[str, Kind] = {USAGE: "usage", COSTS: "costs", GPU: "gpu"}
#: Records read before they become columns of numbers, and rows of columns before they are summed without a flush:
#: 300,000 rows take about 30 MB. Chosen by hand.
_BATCH, _MAX_ROWS = 1000, 300_000
#: Seconds of a slot of the fast lane, see `detector.fast.lane.SLOT_S`; and the age up to which a record is in time for
#: it. By hand: requests of a minute are, rows of a minute that are dated to their start are not.
_SLOT_S, _RECENT_S = 5, 55.0
#: Folded values that are named in an alert. By hand: a sentence stays short.
_NAMED = 3


class Chunk(NamedTuple):
    """Rows to be summed: numbers of series (rows, scopes), buckets, values (columns, rows), which stand for events."""

    series: NDArray[np.int64]
    bucket: NDArray[np.int64]
    values: Floats
    events: Bools | None = None
    #: The start of the slot of each row and its receipt, where the fast lane judges them.
    slot: NDArray[np.int64] | None = None
    received: Floats | None = None


class _Snapshot(msgspec.Struct):
    """All state of a rollup between a flush and the next message."""

    received_at: float
    ticked_at: float
    table: dict[str, Any]
    untold: float = 0.0
    recent: SavedIds | None = None
    #: Of earlier versions: ids in two generations, and since when.
    ids: tuple[list[str], list[str], float] | None = None
    sources: dict[str, Source] = {}
    #: Records that are scored later, with the names of the scopes whose series they name.
    waiting: dict[str, Packed] = {}
    scopes: list[str] = []
    #: Length, phase and grace of the buckets, seconds.
    buckets: tuple[int, int, float] | None = None


class Rollup:
    """The state of one partition of a raw topic; a `PartitionState`.

    `partitions` is the number of partitions of the spend topic; `name` identifies this input; `live`
    is False where the clock is not the wall clock. Ids are kept in files in `ids_directory`, or in memory. `overlap_s`
    is how far back a source may send again what it sent: with less than that in mind, the window of ids warns.
    """

    def __init__(
        self,
        settings: RollupSettings,
        topic: str,
        partitions: int,
        name: str = "",
        *,
        live: bool = True,
        ids_directory: Path | None = None,
        overlap_s: float = 0.0,
    ) -> None:
        self._settings, self._partitions, self._name, self._live = settings, partitions, name, live
        source = _SOURCES[topic]
        self._billing, self._metrics = topic == COSTS, topic == GPU
        self._kind: type[HotRecord] = HotCost if self._billing else HotRecord
        scopes = [scope for scope in settings.scopes if source in scope.sources]
        self._table = SeriesTable(scopes, settings.guard, partitions, settings.names)
        self._tallies = Tallies(source, [scope.name for scope in scopes])
        self._ids = RecentIds(settings.dedupe, name, ids_directory)
        self._overlap_s, self._short = overlap_s, False
        # Bills say themselves what of them is new.
        self._times = None if self._billing else SourceTimes(settings.bucket_s, settings.grace_s, settings.max_delay_s)
        #: Of records as they come, without bills and without what was read from a source's past.
        self.recent_times = RecentTimes()
        # Slots are of keys and who else spends; others are judged by their buckets.
        in_slots = settings.fast.enabled and source == "usage" and not any(each % _SLOT_S for each in settings.buckets)
        self._in_slots = [in_slots and scope.role == "principal" and scope.detect for scope in scopes]
        self._calls = LoopCalls(scopes, settings.bucket_s)
        self._waiting = Waiting(max(1, len(scopes)), self._columns, settings.bucket_s, samples=self._metrics)
        self._received_at = 0.0
        self._edge = 0
        # The first tick after a start announces this input, so that scoring waits for it.
        self._ticked_at, self._announced, self._was_live = 0.0, False, False
        # Pending records, their times of receipt, the combinations of their tags, and the message of each run.
        self._records: list[HotRecord] = []
        self._receipts: list[float] = []
        self._combinations: list[int] = []
        self._origins: list[tuple[int, Message]] = []
        self._chunks: list[Chunk] = []
        #: Of records that are scored at another time: what counts in totals alone.
        self._counted_chunks: list[Chunk] = []
        #: Of records of the past, by the seconds that each covers.
        self._past_chunks: dict[int, list[Chunk]] = {}
        #: What is judged alone.
        self._judged_chunks: list[Chunk] = []
        self._rows = 0
        #: Dollars that no tick has reported yet.
        self._unreported = 0.0
        self.judged = Judged()
        self._holes: dict[str, PricingHole] = {}
        self._counted = Counter[str]()

    @property
    def time(self) -> float:
        """The latest receipt so far, epoch seconds."""
        return self._received_at

    @property
    def scored_until(self) -> float:
        """The end of the last record that waits to be scored, epoch seconds; 0 where none waits."""
        return end + self._settings.phase_s if (end := self._waiting.end) else 0.0

    def largest_folded(self, count: int = 5) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Per scope with folded series: tags and dollars (at most, since the start) of the largest of them."""
        return self._table.largest_folded(count)

    def process(self, message: Message) -> Sequence[Message]:
        """Count the records of a message. Returns dead letters, and messages that a passed edge made due."""
        reports, letters = read_intake(message, self._received_at)
        for report in reports:
            self._tallies.intake(report)
        if reports or letters:
            return letters
        records, outputs = read(message, self._received_at, self._kind, self._refused)
        if self._billing:
            records = [each for each in records if not _is_mark(each)]
        if not records:
            return outputs
        received = [record.received_at for record in records]
        latest = max(received)
        if latest > LATEST_TIME:
            outputs += [letter_for(message, each, "in_the_future") for each in records if is_beyond(each)]
            for each in filter(is_beyond, records):
                self._tallies.refused(each.source, self._received_at, "in_the_future", each.effective_cost)
            records = [each for each in records if not is_beyond(each)]
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
        self._watch_window()
        for scope, count in self._table.take_folded().items():
            metrics.SERIES_FOLDED.labels(scope=scope).inc(count)
        return outputs

    def snapshot(self) -> bytes:
        """The state, right after a flush."""
        state = _Snapshot(
            self._received_at,
            self._ticked_at,
            self._table.dump(),
            self._unreported,
            recent=self._ids.dump(),
            sources=self._times.dump() if self._times is not None else {},
            waiting=pack(self._waiting.dump()),
            scopes=[scope.name for scope in self._table.scopes],
            buckets=self._buckets,
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        self._received_at, self._ticked_at, self._unreported = state.received_at, state.ticked_at, state.untold
        self._edge = self._edge_at(state.received_at) if state.received_at else 0
        if state.recent is not None:
            self._ids.load(state.recent, state.received_at)
        elif state.ids is not None:
            young, old, _ = state.ids
            self._ids.load_ids(old + young, state.received_at)
        self._table.load(**state.table)
        if self._times is not None and state.buckets in (None, self._buckets):  # else they were late for others
            self._times.load(state.sources)
        # With other scopes the numbers name other series: what waited is counted and will not be scored.
        if state.waiting and state.scopes == [scope.name for scope in self._table.scopes]:
            self._waiting.load(unpack(state.waiting))

    def _refused(self, message: Message, reason: Reason) -> None:
        self._tallies.refused(message.key.decode(errors="replace"), self._received_at, reason)

    @property
    def _buckets(self) -> tuple[int, int, float]:
        return self._settings.bucket_s, self._settings.phase_s, self._settings.grace_s

    @property
    def _columns(self) -> int:
        """Rows of values, see `sums.COMMON`."""
        return COMMON + (3 if self._metrics else 1 + len(NOT_USAGE) if self._billing else 0)

    def _edge_at(self, time: float) -> int:
        """Number of buckets that have ended with their grace at `time`."""
        return int((time - self._settings.phase_s - self._settings.grace_s) // self._settings.bucket_s)

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
                if self._times is not None:
                    self._times.pass_edge(time)
            self._edge = edge
        return start

    def _watch_window(self) -> None:
        """Report how far back ids are known; warn once when that is less than a source may repeat."""
        if not self._received_at:  # nothing came yet
            return
        window_s = self._ids.window_s(self._received_at)
        metrics.DEDUPE_WINDOW.labels(input=self._name).set(window_s)
        short = window_s < self._overlap_s
        metrics.DEDUPE_SHORT.labels(input=self._name).set(short)
        if short and not self._short:
            extra = {"input": self._name, "window_s": round(window_s), "overlap_s": round(self._overlap_s)}
            logger.warning("ids are forgotten before a source repeats them: events may count twice", extra=extra)
        self._short = short

    def _count(self, records: list[HotRecord], received: list[float], latest: float, message: Message) -> list[Message]:
        """Keep the records, received until `latest`. Returns dead letters."""
        if not records:
            return []
        self._received_at = max(self._received_at, latest)
        letters: list[Message] = []
        if self._ids.is_due(self._received_at):
            letters += self._to_columns()
            self._ids.begin_slice(self._received_at)
        self._ids.offer(len(records))
        if self._table.crowded:
            letters += self._to_columns()
            self._table.forget_combinations()
        self._origins.append((len(self._records), message))
        self._records += records
        self._receipts += received
        self._combinations += self._table.combinations([bytes(record.tags) for record in records], received)
        return letters

    def _drop_duplicates(self) -> None:
        """Keep the pending records whose id is new."""
        new = self._ids.first_seen([record.id for record in self._records])
        if new is None:
            return
        kept = new.tolist()
        before = np.concatenate([[0], np.cumsum(new)])
        self._counted["duplicates"] += len(kept) - int(before[-1])
        again = (~new).tolist()
        self._tallies.repeated(list(compress(self._records, again)), np.array(self._receipts)[~new])
        self._origins = [(int(before[at]), message) for at, message in self._origins]
        self._records = list(compress(self._records, kept))
        self._receipts = list(compress(self._receipts, kept))
        self._combinations = list(compress(self._combinations, kept))

    def _note_holes(self) -> None:
        cost_sources = [record.cost_source for record in self._records]
        if not any(cost_sources) or "fallback" not in cost_sources:
            return
        for record in self._records:
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
        if self._records:
            self._drop_duplicates()
            self._note_holes()
        records, count = self._records, len(self._records)
        if not count:
            self._origins = []
            return []
        combinations = np.fromiter(self._combinations, np.int64, count)
        start = np.fromiter([each.charge_period_start for each in records], np.float64, count)
        received = np.fromiter(self._receipts, np.float64, count)
        values = np.zeros((self._columns, count))
        values[0] = np.fromiter([each.effective_cost for each in records], np.float64, count)
        fill(values[1], [each.requests for each in records])
        fill(values[2], [each.errors for each in records])
        fill(values[3], [each.users for each in records])
        fill(values[4], [each.input_tokens for each in records])
        fill(values[5], [each.output_tokens for each in records])
        metered = (values[0] != 0) | (values[4] + values[5] > 0)
        fill(values[7], [each.refused for each in records])
        values[6] = np.where(metered, 0.0, np.maximum(values[1] - values[2], 0.0))
        if self._metrics:
            fill_metrics(values[COMMON:], records)
        elif self._billing:
            scored = [isinstance(each, HotCost) and each.scored for each in records]
            values[COMMON] = np.where(scored, 0.0, values[0])
            parts = [each.part if isinstance(each, HotCost) else "" for each in records]
            for row, part in zip(values[COMMON + 1 :], NOT_USAGE, strict=True):
                row[...] = np.where([each == part for each in parts], values[0], 0.0)
        good = self._acceptable(start, received) & (combinations >= 0)
        good &= np.isfinite(values[0]) & ((values[0] >= 0) | self._billing)
        letters: list[Message] = []
        if not good.all():
            letters = [self._letter(int(at)) for at in np.flatnonzero(~good)]
            combinations, start, values = combinations[good], start[good], values[:, good]
            received, records = received[good], list(compress(records, good.tolist()))
        self._table.weigh(combinations, values[0])
        self._counted["events"] += len(start)
        self._unreported += float(values[0].sum())
        # From here until sums are written, times are those before the phase, and buckets begin at multiples.
        phase_s = self._settings.phase_s
        rows = Rows(self._table.rows(combinations), start - phase_s, np.zeros(len(start)), values)
        self._add_rows(rows, received - phase_s, records)
        self._records, self._receipts, self._combinations, self._origins = [], [], [], []
        return letters

    def _add_rows(self, rows: Rows, received: Floats, records: list[HotRecord]) -> None:
        """Take in records as columns: those of sources that are on time as they are, the others to be scored later."""
        (bucket_s, phase_s), grace_s = self._settings.buckets, self._settings.grace_s
        self._rows += len(rows.start)
        self._calls.add(records, rows.series)
        delay, duration = self._timing(rows.start, received, records)
        late = self._late(rows.start + delay, duration, received)
        past = is_past(rows.start, received, delay + duration, bucket_s + grace_s, records)
        if past.any() and not self._billing:
            late[[record.backfilled for record in records]] = 0.0
            self._add_past(rows, past, duration, records)
        else:
            past[:] = False
        self.judged = self.judged.add(rows.values[0], rows.values[0] * late)
        # Budgets and the reconciliation judge bills, whenever they come.
        in_time = received - (rows.start + delay + np.maximum(duration, bucket_s) + grace_s) <= SCORED_WITHIN_S
        missed = np.where(in_time | self._billing, 0.0, late)
        came, timed = received + phase_s, Timed(delay, late, missed)
        self._tallies.counted(records, rows.start + phase_s, came, rows.values, timed)
        if rows.series.shape[1]:
            self._tallies.scopes(rows.series, rows.values[0], came, self._table.series)
        if past.any():
            self._add_timely(rows.where(~past), received[~past], delay[~past], duration[~past])
        else:
            self._add_timely(rows, received, delay, duration)

    def _add_timely(self, rows: Rows, received: Floats, delay: Floats, duration: Floats) -> None:
        """Take in records that are scored in their bucket, or later by the delay of their source."""
        bucket_s = self._settings.bucket_s
        bucket = (rows.start // bucket_s).astype(np.int64) * bucket_s
        moved = (delay > 0) | (rows.start + duration > bucket + bucket_s)
        if moved.any():
            later = rows.where(moved)._replace(duration=duration[moved])
            cut = pieces(later, np.full(len(later.start), -np.inf), np.inf, bucket_s, samples=self._metrics)
            self._counted_chunks.append(Chunk(cut.series, cut.bucket, cut.values, cut.first))
            self._waiting.add(coarse(later._replace(start=later.start + delay[moved]), delay[moved], bucket_s))
            rows, bucket, received, duration = rows.where(~moved), bucket[~moved], received[~moved], duration[~moved]
        if len(bucket):
            self._keep(rows, bucket, received, duration)

    def _keep(self, rows: Rows, bucket: NDArray[np.int64], received: Floats, duration: Floats) -> None:
        """Keep rows of sources that are on time to be summed, with the slots of those the fast lane judges."""
        recent = (received - rows.start <= _RECENT_S) & (duration == 0)
        if not (any(self._in_slots) and recent.any()):
            self._chunks.append(Chunk(rows.series, bucket, rows.values))
            return
        slot = (rows.start // _SLOT_S).astype(np.int64) * _SLOT_S
        self._chunks.append(
            Chunk(rows.series[recent], bucket[recent], rows.values[:, recent], None, slot[recent], received[recent])
        )
        if not recent.all():
            self._chunks.append(Chunk(rows.series[~recent], bucket[~recent], rows.values[:, ~recent]))

    def _add_past(self, rows: Rows, past: Bools, duration: Floats, records: list[HotRecord]) -> None:
        """Take in records that nobody waits for, as sums of the time that each covers."""
        of = rows.where(past)
        kept = list(compress(records, past.tolist()))
        of = of._replace(duration=periods(of.start + self._settings.phase_s, duration[past], kept))
        for covers_s, cut in cover(of, self._settings.bucket_s, samples=self._metrics):
            chunk = Chunk(cut.series, cut.bucket, cut.values, cut.first if covers_s else None)
            (self._past_chunks.setdefault(covers_s, []) if covers_s else self._chunks).append(chunk)

    def _judge(self, due: Pieces) -> None:
        """What the next message has beside what counts: it is judged, and adds to no total."""
        self._judged_chunks.append(Chunk(due.series, due.bucket, due.values, due.first))

    def _late(self, start: Floats, duration: Floats, received: Floats) -> Floats:
        """The share of each record, 0 to 1, whose buckets had closed when it came."""
        bucket_s = self._settings.bucket_s
        closed = np.floor((received - self._settings.grace_s) / bucket_s) * bucket_s
        late: Floats = np.clip((closed - start) / np.maximum(duration, bucket_s), 0.0, 1.0)
        # A moment, and a record within one bucket, is late or is not.
        whole = np.floor(start / bucket_s) * bucket_s + bucket_s >= start + duration
        return np.where(whole, np.floor(start / bucket_s) * bucket_s < closed, late)

    def _timing(self, start: Floats, received: Floats, records: list[HotRecord]) -> tuple[Floats, Floats]:
        """Delay and duration of each record, seconds, by its source; notes when they came."""
        delay, duration = np.zeros(len(start)), np.zeros(len(start))
        if self._times is None or not records:
            return delay, duration
        sources = [record.source for record in records]
        one = sources.count(sources[0]) == len(sources)
        for source in sources[:1] if one else sorted(set(sources)):
            of: Any = slice(None) if one else np.flatnonzero([each == source for each in sources])
            self._observe(source, start[of], received[of], records if one else [records[at] for at in of])
            timing = self._times.of(source)
            if timing != ON_TIME:
                delay[of], duration[of] = timing
        return delay, duration

    def _observe(self, source: str, start: Floats, received: Floats, records: list[HotRecord]) -> None:
        """Note when a source's records came; a source's past says nothing about it."""
        assert self._times is not None
        if (received - start).max() > PAST_S and any(record.backfilled for record in records):
            new = np.array([not record.backfilled for record in records])
            start, received = start[new], received[new]
        if len(start):
            self._times.observe(source, start, received)
            self.recent_times.add(start + self._settings.phase_s, received + self._settings.phase_s)

    def _letter(self, at: int) -> Message:
        record = self._records[at]
        _, message = self._origins[bisect_right(self._origins, at, key=lambda origin: origin[0]) - 1]
        if self._combinations[at] < 0:
            reason: Reason = "wrong_type"
        else:
            reason = reason_against(record, self._billing, self._settings)
        self._tallies.refused(record.source, self._receipts[at], reason, record.effective_cost)
        return letter_for(message, record, reason)

    def _write(self, time: float, *, live: bool = False) -> list[Message]:
        """Pending sums as messages, followed by a tick if time has passed an edge."""
        letters = self._to_columns()
        known_at, time = self._moment(time)
        lines = PartialLines(self._partitions, self._name, self._received_at)
        slotted = [chunk for chunk in self._chunks if chunk.slot is not None]
        self._add_sums(lines, [chunk for chunk in self._chunks if chunk.slot is None], "all")
        self._add_sums(lines, slotted, "all", without=self._in_slots)
        self._add_slots(lines, slotted)
        self._calls.write(lines, self._table.series)
        self._add_sums(lines, self._counted_chunks, "counted")
        for covers_s, chunks in sorted(self._past_chunks.items()):
            self._add_sums(lines, chunks, "all", covers_s)
        due = self._waiting.take(self._edge_at(max(time, self._ticked_at)) * self._settings.bucket_s)
        if due is not None:
            self._judge(due)
        self._add_sums(lines, self._judged_chunks, "scored")
        self._chunks, self._counted_chunks, self._judged_chunks, self._rows = [], [], [], 0
        self._past_chunks = {}
        for model, hole in self._holes.items():
            lines.add(crc32(model.encode()) % self._partitions, hole)
        self._holes = {}
        self._add_tallies(lines)
        moved = self._edge_at(time) > self._edge_at(self._ticked_at)
        if moved or not self._announced or (live and not self._was_live):
            self._ticked_at, self._announced, self._was_live = max(time, self._ticked_at), True, live
            lines.add_tick(self._tick(known_at, live=live))
            self._unreported = 0.0
        return letters + lines.messages() + self._table.names.take()

    def _add_tallies(self, lines: PartialLines) -> None:
        for tally in self._tallies.take():
            if isinstance(tally, ScopeTally) and tally.folded:
                largest = self._table.largest_folded(_NAMED).get(tally.scope, [])
                tally.largest = [(" / ".join(tags.values()), usd) for tags, usd in largest]
            lines.add(owner(tally, self._partitions), tally)

    def _moment(self, time: float) -> tuple[float, float]:
        """When a tick was known, 0 where that is its time; and how far what is charged is known at `time`."""
        return 0.0, time

    def _tick(self, known_at: float, *, live: bool) -> SpendTick:
        return SpendTick(
            at=self._ticked_at, source=self._name, live=live, effective_cost=self._unreported, known_at=known_at
        )

    def _acceptable(self, start: Floats, received: Floats) -> Bools:
        """Whether each record may be so old, or so far ahead."""
        settings, age = self._settings, received - start
        good: Bools = (age <= settings.max_age_days * 86400) & (age >= -settings.max_future_s)
        return good & (start >= EARLIEST_TIME)

    def _add_slots(self, lines: PartialLines, chunks: list[Chunk]) -> None:
        """The sums of the scopes that the fast lane judges, by slot."""
        if not chunks:
            return
        series = np.concatenate([chunk.series for chunk in chunks])
        values = np.concatenate([chunk.values for chunk in chunks], axis=1)
        slots = distinct_buckets(np.concatenate([chunk.slot for chunk in chunks if chunk.slot is not None]))
        latest = np.zeros(len(slots.starts))
        np.maximum.at(latest, slots.at, np.concatenate([c.received for c in chunks if c.received is not None]))
        phase_s = self._settings.phase_s
        received = dict(zip((slots.starts + phase_s).tolist(), (latest + phase_s).tolist(), strict=True))
        for at in np.flatnonzero(self._in_slots).tolist():
            sums = sum_by_series_and_bucket(series[:, at], slots, values)
            sums = sums._replace(bucket=sums.bucket + phase_s)
            lines.add_slots(sums, self._table.series, self._settings.bucket_s, phase_s, received)

    def _add_sums(
        self,
        lines: PartialLines,
        chunks: list[Chunk],
        purpose: Purpose,
        covers_s: int = 0,
        without: Sequence[bool] | None = None,
    ) -> None:
        if not chunks or not self._table.scopes:
            return
        series, bucket, values, events = chunks[0][:4]
        if len(chunks) > 1:
            series = np.concatenate([chunk.series for chunk in chunks])
            bucket = np.concatenate([chunk.bucket for chunk in chunks])
            values = np.concatenate([chunk.values for chunk in chunks], axis=1)
            marks = [chunk.events for chunk in chunks if chunk.events is not None]
            events = np.concatenate(marks) if marks else None
        buckets = distinct_buckets(bucket)
        for at in range(len(self._table.scopes)):
            if without is not None and without[at]:
                continue
            sums = sum_by_series_and_bucket(series[:, at], buckets, values, events)
            sums = sums._replace(bucket=sums.bucket + self._settings.phase_s)
            lines.add_sums(sums, self._table.series, purpose, covers_s)


def _is_mark(record: HotRecord) -> bool:
    """True for what says how far a bill is complete; it charges nothing."""
    return isinstance(record, HotCost) and record.delta == MARK
