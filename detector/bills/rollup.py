"""Sums bills into hours for judging, one source at a time, beside the rollup that counts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.bills.derived import BUCKET_S, bill_settings, usage_settings
from curb.detector.bills.parts import BillParts
from curb.detector.rollup.raw_records import EARLIEST_TIME, MARK, HotCost, HotRecord, read
from curb.detector.rollup.rollup import Chunk, Rollup
from curb.detector.rollup.spread import Rows, pieces
from curb.detector.rollup.writer import PartialLines
from curb.detector.settings import DetectorSettings
from curb.detector.shard import BILLS
from curb.detector.state.amounts import Purpose
from curb.detector.state.scopes import partition_of
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, DEAD_LETTER, SPEND
from curb.stream.records.spend import UNTAGGED, BillPart, SpendTick
from curb.stream.time import DAY_S

#: Seconds after its end that an hour of a source that never says what is complete counts as such: as long as its
#: connector would wait. Chosen by hand: providers are done within two days.
_ASSUMED_S = 2.0 * DAY_S
#: Seconds after its first record until a source that says nothing of what is complete will never say it:
#: a first load takes minutes. Chosen by hand.
_PATIENCE_S = 6 * 3600.0
#: Parts in one message. By hand: half a megabyte.
_PARTS = 2000
#: Seconds before and after receipt that something may be charged: what is further away is a mistake. Chosen by hand:
#: commitments last for three years at most.
_FURTHEST_S = 3 * 366.0 * DAY_S


class CostsRollup(Rollup):
    """The bills in one partition of curb.costs: each counts in totals and budgets, and is summed for its own lane."""

    def __init__(
        self,
        settings: DetectorSettings,
        partitions: int,
        name: str = COSTS,
        *,
        live: bool = True,
        inputs: int = 1,
        ids_directory: Path | None = None,
        overlap_s: float = 0.0,
    ) -> None:
        """As a `Rollup`; `inputs` is the number of partitions of curb.costs."""
        super().__init__(
            usage_settings(settings),
            COSTS,
            partitions,
            name,
            live=live,
            ids_directory=ids_directory,
            overlap_s=overlap_s,
        )
        self._bill_settings = bill_settings(settings)
        self._inputs = inputs
        self._bills: dict[str, BillRollup] = {}

    def process(self, message: Message) -> Sequence[Message]:
        """Count the records of a message, and sum its usage for the lane of its source."""
        counted = super().process(message)
        source = message.key.decode(errors="replace") or self._name
        if self._bill_settings is None:
            return counted
        return [*counted, *self._bill(source, message.partition or 0).process(message)]

    def flush(self, now: float | None) -> Sequence[Message]:
        """Pending sums and ticks of all."""
        return [*super().flush(now), *(each for bill in self._bills.values() for each in bill.flush(now))]

    def snapshot(self) -> bytes:
        """The state, right after a flush."""
        bills = {
            source: _SavedBill(
                bill.name,
                bill.first_at,
                bill.complete_until,
                bill.finest_s,
                bill.snapshot(),
                sorted(bill.parts.covered),
            )
            for source, bill in self._bills.items()
        }
        return msgspec.msgpack.encode(_Saved(super().snapshot(), bills))

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`, also that of a version without lanes."""
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.ValidationError:
            saved = _Saved(data)
        super().restore(saved.counted)
        for source, of in saved.bills.items():
            if self._bill_settings is not None:
                bill = self._bills[source] = self._new(of.name)
                bill.restore(of.sums)
                bill.first_at, bill.complete_until, bill.finest_s = of.first_at, of.complete_until, of.finest_s
                bill.parts.covered = set(of.covered)

    def _acceptable(self, start: NDArray[np.float64], received: NDArray[np.float64]) -> NDArray[np.bool_]:
        return _near(start, received)

    def _bill(self, source: str, partition: int) -> BillRollup:
        bill = self._bills.get(source)
        if bill is None:
            bill = self._bills[source] = self._new(f"{BILLS}{source}/{partition}")
        return bill

    def _new(self, name: str) -> BillRollup:
        assert self._bill_settings is not None
        return BillRollup(self._bill_settings, self._partitions, name, live=self._live, inputs=self._inputs)


class _SavedBill(msgspec.Struct):
    """State of a `BillRollup`."""

    name: str
    first_at: float
    complete_until: float
    finest_s: float
    sums: bytes
    covered: list[tuple[str, str, str, str]] = []


class _Saved(msgspec.Struct):
    """State of a `CostsRollup`."""

    counted: bytes
    bills: dict[str, _SavedBill] = {}


class BillRollup(Rollup):
    """One source's bill in one partition of curb.costs. Only usage is summed, spread over the period it is for."""

    def __init__(
        self, settings: DetectorSettings, partitions: int, name: str, *, live: bool = True, inputs: int = 1
    ) -> None:
        super().__init__(settings, COSTS, partitions, name, live=live)
        self.name, self._inputs = name, inputs
        #: When its first record was received, epoch seconds.
        self.first_at = 0.0
        #: Seconds of the shortest period for which it charges usage.
        self.finest_s = float(DAY_S)
        #: What was charged until then is known, epoch seconds; 0 before the source said so.
        self.complete_until = 0.0
        self.parts = BillParts()
        #: Usage of whole days that was not written yet.
        self._days: list[Chunk] = []
        self._first_tag = settings.scopes[0].group_by[0]

    def process(self, message: Message) -> Sequence[Message]:
        """Sum the usage of a message; what it says is complete counts after it."""
        records, outputs = read(message, self._received_at, HotCost)
        costs = [each for each in records if isinstance(each, HotCost)]
        usage: list[HotRecord] = [each for each in costs if each.scored and _short(each)]
        received = [each.received_at for each in usage]
        if costs:
            self._received_at = max(self._received_at, *(each.received_at for each in costs))
            self.first_at = self.first_at or self._received_at
        outputs += self._count(usage, received, self._received_at, message)
        for each in costs:
            if each.delta != MARK:
                self.parts.add(each, self.complete_until)
        marks = [each.complete_until for each in costs if each.delta == MARK and each.complete_until]
        if marks:
            self.complete_until = max(self.complete_until, *marks)
            outputs += self._part_messages()
            outputs += self._write(self._received_at, live=self._was_live)
        return _without_letters(outputs)

    def flush(self, now: float | None) -> Sequence[Message]:
        """As that of every rollup."""
        return [*self._part_messages(), *_without_letters(super().flush(now))]

    def _part_messages(self) -> list[Message]:
        """What commitments have to do with, where the series of their provider are."""
        by_partition: dict[int, list[BillPart]] = {}
        for part in self.parts.take(self.name):
            value = getattr(part, self._first_tag, UNTAGGED)
            by_partition.setdefault(partition_of(((self._first_tag, value),), self._partitions), []).append(part)
        return [
            Message(SPEND, encode_lines(parts[at : at + _PARTS]), key=self.name.encode(), partition=partition)
            for partition, parts in sorted(by_partition.items())
            for at in range(0, len(parts), _PARTS)
        ]

    def _add_tallies(self, lines: PartialLines) -> None:
        self._tallies.take()  # what became of the records is said by the rollup that counts them

    def _moment(self, time: float) -> tuple[float, float]:
        self._unreported = 0.0  # counted in totals elsewhere
        assumed = time - _ASSUMED_S if time - self.first_at > _PATIENCE_S else 0.0
        until = self.complete_until or assumed
        # Of a bill by the day, nothing is known of a part of a day.
        return time, until - until % DAY_S if self.finest_s >= DAY_S else until

    def _tick(self, known_at: float, *, live: bool) -> SpendTick:
        return msgspec.structs.replace(super()._tick(known_at, live=live), inputs=self._inputs)

    def _acceptable(self, start: NDArray[np.float64], received: NDArray[np.float64]) -> NDArray[np.bool_]:
        return _near(start, received)

    def _add_rows(self, rows: Rows, received: NDArray[np.float64], records: list[HotRecord]) -> None:
        ends = np.array([each.charge_period_end if isinstance(each, HotCost) else 0.0 for each in records])
        spread = rows._replace(duration=np.maximum(ends - rows.start, 0.0))
        self.finest_s = min(self.finest_s, float(spread.duration.min(initial=DAY_S)))
        self._rows += len(rows.start)
        # A sum of a whole day goes as it is, and the lane spreads it: a line instead of one for each hour.
        whole = (spread.duration == DAY_S) & (rows.start % DAY_S == 0)
        if whole.any():
            of = rows.where(whole)
            self._days.append(Chunk(of.series, of.start.astype(np.int64), of.values))
            spread = spread.where(~whole)
        if whole.all():
            return
        since = np.full(len(spread.start), -np.inf)
        self._judge(pieces(spread, since, np.inf, BUCKET_S, samples=False))

    def _add_sums(
        self,
        lines: PartialLines,
        chunks: list[Chunk],
        purpose: Purpose,
        covers_s: int = 0,
        without: Sequence[bool] | None = None,
    ) -> None:
        super()._add_sums(lines, chunks, purpose, covers_s, without)
        if purpose == "scored":
            super()._add_sums(lines, self._days, purpose, DAY_S)
            self._days = []


def _short(record: HotCost) -> bool:
    """Whether a charge is for a day at most; what is for longer is a fee, and no level of use."""
    return record.charge_period_end - record.charge_period_start <= DAY_S


def _near(start: NDArray[np.float64], received: NDArray[np.float64]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(received - start) <= _FURTHEST_S
    return near & (start >= EARLIEST_TIME)


def _without_letters(messages: Sequence[Message]) -> list[Message]:
    """Without dead letters: the rollup that counts the same records has written them."""
    return [each for each in messages if each.topic != DEAD_LETTER]
