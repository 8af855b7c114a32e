"""Successive snapshots of a bill → signed deltas, each on the log once, whatever crashes in between.

A kind is a SnapshotConnector. Its `_next` is called when everything taken so far is on the log:

    ... find a snapshot with restater.version(snapshot.period) != snapshot.version ...
    restater.take(charges, snapshot)                     # reads the charges to their end, or changes nothing
    return restater.resume(cursor) or restater.idle(cursor)

What was taken is known at once, and its deltas wait in a journal of one transaction with it. `resume` gives the
journal page by page, the same records with the same ids as often as the cursor asks for them, and forgets it when the
cursor says that all of it is on the log. So the log and its cursor decide, and a journal is never taken back: its
records may be on the log although the cursor was not saved.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import msgspec

from curb.connectors.bills.charges import Charge, Snapshot
from curb.connectors.bills.feed_alert import FeedAlert, next_alert
from curb.connectors.bills.guard import Refusal
from curb.connectors.bills.restate_store import Delta, Judge, RestateStore
from curb.connectors.connector import Batch, Check, Context
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import CostRecord
from curb.stream.time import iso, utc

logger = logging.getLogger(__name__)
PAGE_RECORDS = 10_000
#: Misdated deliveries that are named in notes.
_SHOWN = 3


class _Cursor(msgspec.Struct, omit_defaults=True):
    """How much of what was taken is on the log. Short: the amounts are in the store."""

    #: Which store; another one knows nothing of what this cursor stands for.
    store: str = ""
    generation: int = 0
    #: Deltas of `generation` that are on the log; None when all are.
    sent: int | None = None
    #: Number of the newest revision of the feed alert that is on the log.
    alert: int = 0
    #: Billing period → dollars (effective, billed) on the log, newest periods last.
    usd: dict[str, tuple[float, float]] = {}


class Restater:
    """The state of one source: the amount of every key when it was last reported.

    `path` is the SQLite file, made when it is not there. `default_lag_s` is how long after its end a charge period is
    taken for complete until the source's own lag is learned.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        clock: Clock,
        *,
        default_lag_s: float = 2 * 86_400.0,
        page_records: int = PAGE_RECORDS,
    ) -> None:
        self._store = RestateStore(path, default_lag_s)
        self._source, self._clock, self._page_records = source, clock, page_records

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @property
    def complete_until(self) -> float | None:
        """Charge periods that ended by then (epoch seconds) are complete; later ones may still fill up.

        Compare only these with one another. None until the first snapshot.
        """
        return self._store.complete_until

    @property
    def lag_s(self) -> float:
        """From the end of a charge period until it is taken for complete, as learned."""
        return self._store.lag.lag_s

    @property
    def misdated(self) -> dict[str, float]:
        """Billing period → the time its delivery bears (epoch seconds), where that is before usage that it holds.

        Such a delivery is taken as made at the end of its last usage.
        """
        return self._store.misdated

    def version(self, period: str) -> str | None:
        """The version of the snapshot of `period` that was taken last."""
        return self._store.version(period)

    def total(self, period: str) -> tuple[float, float]:
        """Effective and billed dollars of `period` as last taken."""
        return self._store.total(period)

    @property
    def export(self) -> str:
        """Which of several exports is read; empty before the first."""
        return self._store.export

    @export.setter
    def export(self, name: str) -> None:
        if name != self._store.export:
            self._store.export = name

    @property
    def refusals(self) -> list[Refusal]:
        """What was refused and not taken since."""
        return [Refusal(period, version, why) for period, (version, why) in self._store.refused().items()]

    def refuse(self, refusal: Refusal) -> None:
        """Remember a delivery that is not taken; the alert names it from the next batch on."""
        self._store.refuse(*refusal)
        logger.error("delivery refused", extra={"connector": self._source, **refusal._asdict()})

    def forgive(self, period: str) -> None:
        """A delivery of it was taken, or what was refused is gone."""
        self._store.forgive(period)

    def take(self, charges: Iterable[Charge], snapshot: Snapshot, judge: Judge | None = None) -> None:
        """Compare a snapshot with what was known and remember it, in one transaction.

        Charges of the same key are added up. Keys that the snapshot covers and does not have amount to zero from now
        on. What iterating over `charges` raises is raised, and nothing has changed then. Only after `resume` gave None.

        Raises Refused, with nothing changed, when `judge` refuses it.

        A delta is `new_usage` when its charge period was not complete at the last snapshot of the same billing period
        (or there was none), else `late` for a new key and `restatement` for a known key.
        """
        lost = self._store.lost_total(snapshot.period)
        changes = self._store.take(charges, snapshot, taken_at=self._clock.now(), lost=lost, judge=judge)
        extra = {"connector": self._source, "period": snapshot.period, "changes": changes}
        logger.info("bill taken", extra=extra)
        if (dated := self.misdated.get(snapshot.period)) is not None:
            logger.warning("delivery is dated before usage that it holds", extra={**extra, "dated": iso(dated)})
        if lost is not None:
            logger.error("state file was lost: this period's difference is reported as one restatement", extra=extra)

    def resume(self, cursor: str | None) -> Batch | None:
        """The next page of what was taken and, by this cursor, is not on the log; None when all of it is.

        Raises PermanentError when the cursor is not one of these.
        """
        at = _decode(cursor)
        if not self._store.settle(at.store, at.generation, at.sent, at.usd):
            logger.error("state file does not fit the cursor: periods are compared with the cursor's totals only")
        pending = self._store.pending
        if pending is None:
            return None
        same = at.store == self._store.name and at.generation == pending.generation
        sent = (at.sent or 0) if same else 0
        deltas = self._store.deltas(sent, self._page_records)
        before = at.usd.get(pending.period, pending.told) if sent else pending.told
        sent += len(deltas)
        more = sent < pending.count
        usd = self._store.usd_after(before, deltas)
        after = _Cursor(self._store.name, pending.generation, sent if more else None, at.alert, usd)
        records = [self._record(delta, pending.generation, pending.taken_at, more=more) for delta in deltas]
        return self._batch(records, after, more=True)

    def idle(self, cursor: str | None) -> Batch:
        """The batch of a read that found nothing new."""
        return self._batch([], _Cursor(self._store.name) if cursor is None else _decode(cursor), more=False)

    def _batch(self, records: list[CostRecord], after: _Cursor, *, more: bool) -> Batch:
        feed, now = self._store.kept("feed", FeedAlert) or FeedAlert(), self._clock.now()
        state = next_alert(feed, self._source, self.refusals, now)
        if state != feed:
            self._store.keep("feed", state)
        alerts = [state.alert] if state.alert is not None and state.number != after.alert else []
        if alerts:
            after = msgspec.structs.replace(after, alert=state.number)
        cursor = msgspec.json.encode(after).decode()
        until = self._store.complete_until
        if until is not None:
            metrics.COST_COMPLETE_UNTIL.labels(connector=self._source).set(until)
        return Batch(records, cursor, more=more, complete_until=until, alerts=alerts)

    def _record(self, delta: Delta, generation: int, taken_at: float, *, more: bool) -> CostRecord:
        of = delta.dimensions
        return CostRecord(
            id=f"{self._source}/{self._store.name}/{generation}/{delta.number}",
            charge_period_start=float(delta.start),
            charge_period_end=float(delta.start + delta.seconds),
            received_at=taken_at,
            effective_cost=delta.effective_cost,
            billed_cost=delta.billed_cost,
            billing_currency=of.billing_currency,
            charge_category=of.charge_category,
            service_name=of.service_name,
            sub_account_id=of.sub_account_id,
            resource_id=of.resource_id,
            provider_name=of.provider_name,
            region_id=of.region_id,
            usage_type=of.usage_type,
            charge_kind=of.charge_kind,
            commitment_discount_status=of.commitment_discount_status,
            complete_until=None if more else self._store.complete_until,
            tags=dict(of.tags),
            source=self._source,
            delta=delta.label,
        )


def _decode(cursor: str | None) -> _Cursor:
    if cursor is None:
        return _Cursor()
    try:
        return msgspec.json.decode(cursor, type=_Cursor)
    except msgspec.DecodeError as error:
        raise PermanentError("the saved cursor is not one of this kind of connector; use another name") from error


def misdated_note(name: str, at: float) -> str:
    """The sentence about a delivery that is dated before what it holds."""
    dated = f"{name} is dated {utc(at)}, before usage that it holds"
    return f"{dated}: taken as made at the end of that; copy bills with the time at which they were delivered"


class SnapshotConnector(ABC):
    """A connector over whole periods: a read takes one snapshot, the next ones give its deltas page by page.

    What subclasses define blocks; it runs in a thread, one call at a time.
    """

    def __init__(self, name: str, lag_h: float, context: Context) -> None:
        self._name, self._clock = name, context.clock
        self._path, self._default_lag_s = context.state_dir / f"{name}.sqlite", lag_h * 3600
        self._restater: Restater | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def _next(self, restater: Restater, cursor: str | None) -> Batch:
        """Take a snapshot that is new and give its first page. Raises as `read` does; nothing is then taken."""

    @abstractmethod
    def _check(self) -> list[Check]:
        """As `check`."""

    def _release(self) -> None:
        """Close what reaches the upstream; it may be needed again."""
        return None

    async def read(self, cursor: str | None) -> Batch:
        """One page of deltas. Raises TransientError or PermanentError; nothing of the snapshot is then taken."""
        return await asyncio.to_thread(self._read, cursor)

    def notes(self) -> tuple[str, ...]:
        """How far the bill is known, and deliveries whose time cannot be right."""
        restater = self._restater
        until = None if restater is None else restater.complete_until
        if restater is None or until is None:
            return ()
        found = f"complete up to {utc(until)}: what is billed until then is judged"
        misdated = sorted(restater.misdated.items())
        notes = [misdated_note(name, at) for name, at in misdated[:_SHOWN]]
        if len(misdated) > _SHOWN:
            notes.append(f"{len(misdated) - _SHOWN} more deliveries are dated before usage that they hold")
        return found, *notes

    async def check(self) -> list[Check]:
        return await asyncio.to_thread(self._check)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _read(self, cursor: str | None) -> Batch:
        with self._lock:  # a read that was given up may still be running
            if self._restater is None:
                self._restater = Restater(self._path, self._name, self._clock, default_lag_s=self._default_lag_s)
            pending = self._restater.resume(cursor)
            return pending if pending is not None else self._next(self._restater, cursor)

    def _close(self) -> None:
        with self._lock:
            self._release()
            if self._restater is not None:
                self._restater.close()
            self._restater = None
