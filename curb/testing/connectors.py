"""The promises of connectors, as tests that run on any kind: write a bench for the kind, then run every promise on it.

    @pytest.mark.parametrize("promise", PULL_PROMISES)
    async def test_my_kind(promise: PullPromise, tmp_path: Path) -> None:
        await promise(MyBench, tmp_path)

A broken promise is an AssertionError that names the kind and what went wrong.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from curb.connectors.connector import (
    Batch,
    Checkable,
    Connector,
    Context,
    Door,
    Pull,
    Push,
    PushWithBackfill,
    Receiver,
    open_source,
)
from curb.connectors.intake.inbox import PlainDoor
from curb.connectors.kinds import KINDS
from curb.connectors.pricing.book import PriceBook
from curb.connectors.validate import validate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.dead_letters import REASONS
from curb.stream.records.spend import DeadLetter, SpendRecord
from curb.testing.faults import RETRY_AFTER_S, FaultyProxy

#: Steps after which a pass that still says `more` is taken for endless.
_MAX_STEPS = 2000
_READ_TIMEOUT_S = 60.0


class PullBench(ABC):
    """A kind that is read, and an upstream of it on this machine. A promise makes a new bench for each of its runs."""

    #: When reading starts (epoch seconds), how often it catches up, and the seconds in between.
    now: float = 1_750_000_030.0
    passes: int = 2
    pass_s: float = 60.0
    #: False for what is no HTTP, such as files: no proxy stands in front of it.
    http: bool = True
    #: Files below `state_dir` that check() may write, because the upstream bills every call.
    check_may_write: tuple[str, ...] = ()

    @abstractmethod
    def serve(self, directory: Path) -> AbstractAsyncContextManager[str]:
        """Start the upstream; its URL, or its path below `directory`."""

    @abstractmethod
    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        """The entry of `connectors` that reads the upstream at `address`, waiting `timeout_s` for an answer."""

    @abstractmethod
    def fill(self, number: int, at: float) -> float:
        """Give the upstream what is new in pass `number`, which is read at `at`; the sum of `measure` that is due."""

    @abstractmethod
    def spoil(self, at: float) -> None:
        """Put one row that cannot be read among the others, such as a negative amount."""

    def measure(self, record: SpendRecord) -> float:
        """The figure of a record that is summed."""
        return record.effective_cost

    def repeat_pages(self) -> bool:
        """Let each page give a part of the one before it again; False where the upstream has no pages."""
        return False

    def halve(self) -> Callable[[], None] | None:
        """Cut the newest file in half; what makes it whole again. None where half an answer is up to the proxy."""
        return None


PullPromise = Callable[[type[PullBench], Path], Awaitable[None]]


class _Reading:
    """Reads as the daemon does: through any number of processes, each of which knows the last cursor."""

    def __init__(self, bench: PullBench, proxy: FaultyProxy, entry: dict[str, Any], context: Context) -> None:
        self.bench, self.proxy, self.entry, self.context = bench, proxy, entry, context
        self.name = f"kind {entry['kind']}"
        self.cursor: str | None = None
        self.records: dict[str, SpendRecord] = {}
        self.dead: list[DeadLetter] = []
        self.steps = self.errors = 0
        self.due = 0.0
        self._connector: Connector | None = None

    @property
    def connector(self) -> Connector:
        if self._connector is None:
            self._connector = _pulled(self.entry, self.context)
        return self._connector

    async def restart(self) -> None:
        """The process ends; the next one knows what the cursor says."""
        if self._connector is not None:
            await self._connector.close()
        self._connector = None

    async def read(self) -> Batch:
        """One read, checked at the door of the log. Raises TransientError or PermanentError."""
        try:
            batch = await asyncio.wait_for(self.connector.read(self.cursor), _READ_TIMEOUT_S)
        except (TransientError, PermanentError):
            raise
        except Exception as error:
            raise AssertionError(
                f"{self.name}: read() raised {type(error).__name__}: {error}; only TransientError and PermanentError "
                "say what the runner shall do"
            ) from error
        _hold(isinstance(batch.cursor, str), f"{self.name}: the cursor of a batch is a string, not {batch.cursor!r}")
        return validate(batch, source=str(self.entry["name"]), at=self.context.clock.now())

    def append(self, batch: Batch) -> None:
        """The batch is on the log: a repeated id counts once."""
        for record in batch.records:
            self.records.setdefault(record.id, record)
        self.dead += [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead]

    async def catch_up(self, rng: random.Random | None = None) -> None:
        """Read until there is no more; with `rng` the process is killed now and then, before or after the cursor."""
        more = True
        while more:
            self.steps += 1
            _hold(self.steps < _MAX_STEPS, f"{self.name}: still says `more` after {_MAX_STEPS} reads")
            if self.errors > 60:
                self.proxy.chance = 0.0
            try:
                batch = await self.read()
            except (TransientError, PermanentError):
                if rng is None:
                    raise
                self.errors += 1
                continue
            self.append(batch)
            if rng is not None and rng.random() < 0.25:  # killed after the append, before the cursor was saved
                await self.restart()
                continue
            self.cursor, more = batch.cursor, batch.more
            if rng is not None and rng.random() < 0.25:
                await self.restart()

    async def passes(self, rng: random.Random | None = None, *, spoil: bool = False) -> None:
        """Every pass of the bench, each read to its end."""
        clock = self.context.clock
        assert isinstance(clock, ManualClock)
        for number in range(self.bench.passes):
            if number:
                await clock.advance(self.bench.pass_s)
            self.due += self.bench.fill(number, clock.now())
            if spoil and number == self.bench.passes - 1:
                self.bench.spoil(clock.now())
            await self.catch_up(rng)

    def hold_total(self, when: str) -> None:
        """What is due arrived, once."""
        total = sum(self.bench.measure(record) for record in self.records.values())
        wrong = "lost" if total < self.due else "doubled"
        _hold(
            abs(total - self.due) <= 1e-6 * max(1.0, abs(self.due)),
            f"{self.name}: {when}, {abs(total - self.due):g} of {self.due:g} was {wrong}",
        )


@asynccontextmanager
async def _reading(
    bench: PullBench, directory: Path, *, seed: int = 0, timeout_s: float = 30.0
) -> AsyncIterator[_Reading]:
    directory.mkdir(parents=True, exist_ok=True)
    async with bench.serve(directory) as address, aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        proxy = FaultyProxy(address, random.Random(seed))
        async with proxy.serve() if bench.http else nullcontext(address) as reachable:
            context = Context(ManualClock(bench.now), http, PriceBook.load(), directory / "state")
            reading = _Reading(bench, proxy, bench.config(reachable, timeout_s), context)
            try:
                yield reading
            finally:
                await reading.restart()


async def everything_arrives(bench: type[PullBench], directory: Path) -> None:
    """Without faults, what the upstream holds arrives once, in more than one batch and without dead letters."""
    async with _reading(bench(), directory) as reading:
        await reading.passes()
        reading.hold_total("with no fault at all")
        _hold(reading.due > 0, f"{reading.name}: fill() of its bench gives nothing")
        _hold(len(reading.records) >= 5, f"{reading.name}: fill() of its bench gives fewer than five records")
        _hold(reading.steps >= 2, f"{reading.name}: its bench is read in one step, so no restart can be tried")
        _hold(not reading.dead, f"{reading.name}: dead letters without a bad row: {reading.dead[:1]}")


async def the_same_cursor_gives_the_same_records(bench: type[PullBench], directory: Path) -> None:
    """A batch that is read again, by another process, holds at least the same ids and amounts."""
    async with _reading(bench(), directory) as reading:
        clock = reading.context.clock
        assert isinstance(clock, ManualClock)
        for number in range(reading.bench.passes):
            if number:
                await clock.advance(reading.bench.pass_s)
            reading.due += reading.bench.fill(number, clock.now())
            more = True
            while more:
                first = await reading.read()
                await reading.restart()
                again = await reading.read()
                amounts = {record.id: record.effective_cost for record in again.records}
                changed = [each.id for each in first.records if amounts.get(each.id) != each.effective_cost]
                _hold(not changed, f"{reading.name}: read again from the same cursor, {changed[:1]} differs or is gone")
                reading.append(again)
                reading.cursor, more = again.cursor, again.more
                reading.steps += 1
                _hold(reading.steps < _MAX_STEPS, f"{reading.name}: still says `more` after {_MAX_STEPS} reads")
        reading.hold_total("with every batch read twice")


async def restarts_and_faults_lose_and_double_nothing(bench: type[PullBench], directory: Path) -> None:
    """Killed at any step and refused, cut off and misled at any request, it ends at the same total."""
    for seed in range(3):
        async with _reading(bench(), directory / str(seed), seed=seed) as reading:
            reading.proxy.chance = 0.2
            await reading.passes(random.Random(seed))
            reading.hold_total(f"after faults and restarts (seed {seed})")
            _hold(not reading.dead, f"{reading.name}: a fault became a dead letter: {reading.dead[:1]}")


async def faults_are_classified(bench: type[PullBench], directory: Path) -> None:
    """429, 5xx, a time-out, a reset and half an answer are TransientError, a refused key is PermanentError."""
    if not bench.http:
        return
    for fault in ("429", "500", "503", "slow", "reset", "half", "401", "page"):
        kind: tuple[type[Exception], ...] = (PermanentError,) if fault == "401" else (TransientError,)
        kind = (TransientError, PermanentError) if fault == "page" else kind
        timeout_s = 0.3 if fault == "slow" else 30.0
        async with _reading(bench(), directory / fault, timeout_s=timeout_s) as reading:
            reading.due += reading.bench.fill(0, reading.context.clock.now())
            reading.proxy.always = fault
            try:
                await reading.read()
            except kind as error:
                wait_s = getattr(error, "retry_after", None)
                kept = fault != "429" or wait_s == RETRY_AFTER_S
                _hold(kept, f"{reading.name}: Retry-After {RETRY_AFTER_S:g} became {wait_s}")
            except (TransientError, PermanentError) as error:
                raise AssertionError(f"{reading.name}: {fault} became {type(error).__name__}: {error}") from error
            else:
                raise AssertionError(f"{reading.name}: read() says nothing of {fault}")


async def half_a_file_is_not_read(bench: type[PullBench], directory: Path) -> None:
    """A file that is not whole yet is a TransientError, or is read as far as it goes; whole, everything arrives."""
    async with _reading(bench(), directory) as reading:
        reading.due += reading.bench.fill(0, reading.context.clock.now())
        restore = reading.bench.halve()
        if restore is None:
            return
        try:
            await reading.catch_up()
        except TransientError:
            pass
        except PermanentError as error:
            raise AssertionError(f"{reading.name}: half a file became a PermanentError: {error}") from error
        restore()
        await reading.catch_up()
        total, due = sum(map(reading.bench.measure, reading.records.values())), reading.due
        _hold(abs(total - due) <= 1e-6 * due, f"{reading.name}: after half a file, {total:g} of {due:g} arrived")


async def repeated_pages_count_once(bench: type[PullBench], directory: Path) -> None:
    """A page that gives a part of the one before it again doubles nothing."""
    async with _reading(bench(), directory) as reading:
        if reading.bench.repeat_pages():
            await reading.passes()
            reading.hold_total("with pages that repeat a part of the one before")


async def a_bad_row_is_a_dead_letter_and_its_neighbours_survive(bench: type[PullBench], directory: Path) -> None:
    """What cannot be read is kept as a dead letter with reason and place; the rest arrives."""
    async with _reading(bench(), directory) as reading:
        await reading.passes(spoil=True)
        _hold(bool(reading.dead), f"{reading.name}: a row that cannot be read left no dead letter")
        _hold_letters(reading.name, reading.dead)
        reading.hold_total("beside a row that cannot be read")


async def a_check_changes_nothing(bench: type[PullBench], directory: Path) -> None:
    """check() writes no file and moves nothing: what is read after it is complete."""
    async with _reading(bench(), directory) as reading:
        state, connector = reading.context.state_dir, reading.connector
        if not isinstance(connector, Checkable):
            return
        for number in range(2):
            checks = await connector.check()
            _hold(bool(checks), f"{reading.name}: check() tried nothing")
            _hold(all(each.what for each in checks), f"{reading.name}: a check does not say what was tried")
            written = [path.name for path in state.rglob("*") if path.name not in reading.bench.check_may_write]
            _hold(not written, f"{reading.name}: check() wrote {written}")
            reading.due = 0.0 if number else reading.due
        await reading.restart()
        await reading.passes()
        reading.hold_total("after two checks")


async def close_may_be_repeated(bench: type[PullBench], directory: Path) -> None:
    """close() works before the first read, after it, and twice."""
    async with _reading(bench(), directory) as reading:
        unread = reading.connector
        await unread.close()
        await unread.close()
        await reading.restart()
        reading.due += reading.bench.fill(0, reading.context.clock.now())
        await reading.read()
        used = reading.connector
        await used.close()
        await used.close()


PULL_PROMISES: tuple[PullPromise, ...] = (
    everything_arrives,
    the_same_cursor_gives_the_same_records,
    restarts_and_faults_lose_and_double_nothing,
    faults_are_classified,
    half_a_file_is_not_read,
    repeated_pages_count_once,
    a_bad_row_is_a_dead_letter_and_its_neighbours_survive,
    a_check_changes_nothing,
    close_may_be_repeated,
)


class PushBench(ABC):
    """A kind that is pushed to, and bodies of its senders."""

    now: float = 1_750_000_030.0
    #: Behind `/v1/ingest/NAME/`, and the content type, for kinds that have several.
    path: str = ""
    content_type: str = "application/json"

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The entry of `connectors`."""

    @abstractmethod
    def body(self, count: int) -> bytes:
        """A body of `count` events, a minute old at `now`."""

    @abstractmethod
    def spoiled(self, count: int) -> bytes:
        """The same body with one event more that cannot be read, not the last."""


PushPromise = Callable[[type[PushBench], Path], Awaitable[None]]


def _parse(bench: PushBench, directory: Path, body: bytes) -> tuple[str, Batch]:
    """The name of the kind and what a new process makes of the body."""
    entry = bench.config()
    name = f"kind {entry['kind']}"
    # Nothing is asked of anybody while a body is parsed.
    http: Any = None
    context = Context(ManualClock(bench.now), http, PriceBook.load(), directory / "state")
    match open_source(KINDS.config(entry["kind"]).model_validate(entry), context):
        case Push(source) | PushWithBackfill(Push(source), _):
            door: Door | None = (
                source.door(bench.path, bench.content_type) if isinstance(source, Receiver) else PlainDoor(source)
            )
        case Pull():
            raise AssertionError(f"{name}: its bench is a PushBench, and it is read")
    _hold(door is not None, f"{name}: has no path {bench.path!r}")
    assert door is not None
    try:
        batch = door.parse(body, location="body", at=bench.now)
    except Exception as error:
        raise AssertionError(
            f"{name}: parse() raised {type(error).__name__}: {error}; bad content never does"
        ) from error
    _hold(isinstance(batch, Batch), f"{name}: parse() gives {type(batch).__name__}, no Batch; it is no `async def`")
    return name, validate(batch, source=str(entry["name"]), at=bench.now)


async def every_event_is_a_record(bench: type[PushBench], directory: Path) -> None:
    """A body of twenty events gives twenty records with ids of their own."""
    name, batch = _parse(bench(), directory, bench().body(20))
    _hold(len({record.id for record in batch.records}) == 20, f"{name}: 20 events gave {len(batch.records)} records")
    _hold(not batch.dead, f"{name}: dead letters without a bad event")


async def the_same_body_gives_the_same_ids(bench: type[PushBench], directory: Path) -> None:
    """A body that is sent again, to the next process, gives the same ids and amounts."""
    body = bench().body(20)
    (name, first), (_, again) = (_parse(bench(), directory, body) for _ in range(2))
    ids = [[(record.id, record.effective_cost) for record in batch.records] for batch in (first, again)]
    _hold(ids[0] == ids[1], f"{name}: the same body gave other ids or amounts the second time")


async def garbage_is_a_dead_letter(bench: type[PushBench], directory: Path) -> None:
    """Whatever is posted, parse() raises nothing and what cannot be read becomes dead letters."""
    whole = bench().body(20)
    for junk in (b"\x00\xff\xfe", b"7", b"null", b'"x"', b"{", b"[" * 100_000, whole[: len(whole) // 2], whole[1:]):
        name, batch = _parse(bench(), directory, junk)
        _hold(bool(batch.dead), f"{name}: {junk[:12]!r} left no dead letter")
        _hold_letters(name, [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead])
    name, batch = _parse(bench(), directory, b"")
    _hold(not batch.records, f"{name}: an empty body gave records")


async def a_bad_event_leaves_its_neighbours(bench: type[PushBench], directory: Path) -> None:
    """One event that cannot be read is one dead letter; the others arrive."""
    name, batch = _parse(bench(), directory, bench().spoiled(20))
    _hold(len({record.id for record in batch.records}) == 20, f"{name}: {len(batch.records)} of 20 events survived")
    _hold(len(batch.dead) == 1, f"{name}: a bad event left {len(batch.dead)} dead letters instead of one")
    _hold_letters(name, [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead])


PUSH_PROMISES: tuple[PushPromise, ...] = (
    every_event_is_a_record,
    the_same_body_gives_the_same_ids,
    garbage_is_a_dead_letter,
    a_bad_event_leaves_its_neighbours,
)


def _pulled(entry: dict[str, Any], context: Context) -> Connector:
    match open_source(KINDS.config(entry["kind"]).model_validate(entry), context):
        case Pull(connector) | PushWithBackfill(_, Pull(connector)):
            return connector
        case Push():
            raise AssertionError(f"kind {entry['kind']}: its bench is a PullBench, and it is pushed to")


def _hold_letters(name: str, dead: list[DeadLetter]) -> None:
    for letter in dead:
        _hold(letter.reason in REASONS, f"{name}: {letter.reason!r} is no reason of a dead letter")
        _hold(bool(letter.location), f"{name}: a dead letter does not say where the row was")


def _hold(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)
