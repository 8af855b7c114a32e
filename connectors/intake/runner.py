"""Drives one pull connector: read, append, save the cursor; backs off on errors and never dies of them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from curb.connectors.connector import Connector, Noted
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.attribution import Attribution
from curb.connectors.intake.health import Health
from curb.connectors.validate import DEFAULT_LIMITS, IntakeLimits
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, place_of
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import CURSORS
from curb.stream.records.spend import CostRecord, SpendRecord
from curb.stream.retry import RetryPolicy

T = TypeVar("T")
logger = logging.getLogger(__name__)
_POLICY = RetryPolicy(first_s=1.0, cap_s=60.0)
#: Seconds after its period from which a row of a source's first read is its past: sources that report by the hour come
#: within one. By hand.
_PAST_S = 3600.0


class PullRunner:
    """One connector, read until `stop` is set. The cursor is kept in `curb.cursors` under the connector's name.

    `last_success` is when a read last returned and everything it gave was on the log (epoch seconds), or None.
    With `first_read_is_past`, old rows of the first read, before there is a cursor, are taken as history.
    """

    def __init__(
        self,
        connector: Connector,
        name: str,
        log: Log,
        clock: Clock,
        *,
        poll_interval_s: float = 5.0,
        read_timeout_s: float = 120.0,
        permanent_wait_s: float = 300.0,
        policy: RetryPolicy = _POLICY,
        limits: IntakeLimits = DEFAULT_LIMITS,
        attribution: Attribution | None = None,
        rng: random.Random | None = None,
        first_read_is_past: bool = False,
    ) -> None:
        self.name = name
        self.last_success: float | None = None
        self.health = Health()
        self._connector, self._log, self._clock = connector, log, clock
        self._poll_interval_s, self._read_timeout_s = poll_interval_s, read_timeout_s
        self._permanent_wait_s, self._policy, self._limits = permanent_wait_s, policy, limits
        self._attribution = attribution
        self._rng = rng or random.Random()
        self._cursor: str | None = None
        #: How far its bill is complete, as last reported.
        self._marked: float | None = None
        self._loaded = False
        #: Whether what is read now may have been there before Curb was.
        self._first_read, self._first_read_is_past = False, first_read_is_past
        self._failures = 0

    def notes(self) -> tuple[str, ...]:
        """What its source says of its data, where it says something."""
        return self._connector.notes() if isinstance(self._connector, Noted) else ()

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set, then close the connector.

        A read in flight is given up (nothing of it was written); an append is not.
        """
        try:
            while not stop.is_set():
                wait_s = await self._attempt(stop)
                if wait_s > 0:
                    await _unless(stop, self._clock.sleep(wait_s))
        finally:
            await self._connector.close()

    async def _attempt(self, stop: asyncio.Event) -> float:
        """One step; the seconds to wait before the next."""
        try:
            more = await self.step(stop)
        except PermanentError as error:
            self._count("permanent", error)
            return self._permanent_wait_s
        except (TransientError, TimeoutError) as error:
            self._count("transient", error)
            return self._backoff(getattr(error, "retry_after", None))
        except Exception as error:  # noqa: BLE001 - a defect in one connector must not stop the others
            self._count("unexpected", error)
            return self._backoff(None)
        self._failures = 0
        return 0.0 if more else self._poll_interval_s

    async def step(self, stop: asyncio.Event | None = None) -> bool:
        """Read once, append, then save the cursor; whether there is more to read at once."""
        if not self._loaded:
            self._cursor = await self._load()
            self._loaded, self._first_read = True, self._first_read_is_past and self._cursor is None
        read = asyncio.wait_for(self._connector.read(self._cursor), self._read_timeout_s)
        batch = await _unless(stop or asyncio.Event(), read)
        if batch is None:
            return False
        if self._first_read:
            _mark_past(batch.records)
            self._first_read = batch.more
        now = self._clock.now()
        appended = await append_batch(
            self._log,
            batch,
            source=self.name,
            at=now,
            limits=self._limits,
            attribution=self._attribution,
            marked=self._marked,
        )
        if not batch.more:
            self._marked = batch.complete_until
        if batch.cursor != self._cursor:
            await self._log.append([Message(CURSORS, encode(batch.cursor), key=self.name.encode())])
            self._cursor = batch.cursor
        self.last_success = now
        metrics.CONNECTOR_LAST_SUCCESS.labels(connector=self.name).set(now)
        metrics.RECORDS_READ.labels(connector=self.name).inc(appended.accepted)
        self.health.heard(appended.newest, appended.accepted, appended.dead)
        return batch.more

    @property
    def cursor(self) -> str | None:
        """Where the next read goes on; None before the first."""
        return self._cursor

    async def _load(self) -> str | None:
        value = (await self._log.table(CURSORS)).get(self.name.encode())
        return None if value is None else msgspec.json.decode(value, type=str)

    def _backoff(self, retry_after: float | None) -> float:
        self._failures += 1
        return self._policy.wait(self._failures - 1, retry_after, self._rng)

    def _count(self, kind: str, error: Exception) -> None:
        metrics.CONNECTOR_ERRORS.labels(connector=self.name, kind=kind).inc()
        level = logging.WARNING if kind == "transient" else logging.ERROR
        # The text of an unexpected error may quote content, so only its type and place are logged.
        detail = str(error) if kind != "unexpected" else f"{type(error).__name__} at {place_of(error)}"
        self.health.failed(kind, detail, self._clock.now())
        extra = {"connector": self.name, "kind": kind, "detail": detail}
        logger.log(level, "connector read failed", extra=extra)


def _mark_past(records: Sequence[SpendRecord]) -> None:
    """Mark rows that are old when a source is first read: they teach, and are no sign of a source that is late."""
    for record in records:
        age = record.received_at - max(record.charge_period_start, record.charge_period_end)
        if age > _PAST_S and not isinstance(record, CostRecord):
            record.backfilled = True


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when `stop` was set first; `work` is then cancelled."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, stopped):
            future.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
