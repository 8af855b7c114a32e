"""The log in one SQLite file: durable, crash-safe and without a server, for one machine.

Write-ahead logging with synchronous=FULL: when `append` or `commit` returned, the data survive a kill and a power cut.
Every topic has one partition. Several processes may append and scan (the command line does); a group has one reader at
a time, held by a file lock that the operating system frees when the process ends, however it ends.

On a full disk what says how to end a lease must still be written. A daemon keeps a spare file beside the log for that
(`keep_spare`). When the disk is full it is cut, a slice for each write that needs room, so that another program that
goes on writing gets a slice at most; until there is room for all of it again only what the actions need is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message, OnAssign, OnRevoke, Positions, Reader, TopicPartition
from curb.stream.log.topics import ACTIONS, COMMANDS, STATE, TOPICS

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (topic TEXT PRIMARY KEY, next_offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    topic TEXT NOT NULL, offset INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (topic, offset));
CREATE TABLE IF NOT EXISTS latest (topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (topic, key));
CREATE TABLE IF NOT EXISTS positions (reader_group TEXT NOT NULL, topic TEXT NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (reader_group, topic)) WITHOUT ROWID;
"""
#: How often a waiting reader looks for messages of other processes (seconds); those of its own process wake it at once.
_POLL_S = 0.25
_SCAN_PAGE = 500
#: Bytes of the spare file. By hand: a hundred ledger entries with their pages of the write-ahead log.
_SPARE_BYTES = 4 << 20
#: Bytes cut from the spare file for one write; twice as many when that was in vain. By hand: a ledger entry with its
#: pages is a quarter of it.
_SLICE_BYTES = 128 << 10
#: Group of the runner of actions, whose positions are needed as its records are.
_ACTIONS_GROUP = "curb-actions"
#: Messages that clean-up deletes in one step, so that others write in between. By hand: milliseconds.
_PRUNED_AT_ONCE = 1000
#: Bytes of the file through which SQLite's readers share their index, at least.
_SHARED_BYTES = 32 << 10
#: Seconds that a message may be dated ahead of the clock before clean-up takes its date for an error.
_AHEAD_S = 86400.0
#: Names of SQLite's errors that say the disk is full; the others are what it says where it cannot make its files.
_FULL, _NO_ROOM = ("SQLITE_FULL",), ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_CANTOPEN", "SQLITE_IOERR_WRITE")


class EmbeddedLog:
    """`Log` on `directory`/log.sqlite3; the directory is made when missing."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-log")
        self._connection: sqlite3.Connection | None = None
        self._appended = asyncio.Event()
        self._spare = directory / "spare"
        #: Whether a spare file was kept by this process, or found.
        self._has_spare = False

    async def open(self) -> None:
        """Open it, also on a full disk if a daemon has kept a spare file there; nothing is written to an existing
        log."""
        await self._call(self._open)

    def _open(self) -> None:
        self._has_spare = self._spare.exists()
        self._with_room(self._connect, _NO_ROOM)

    def _connect(self) -> None:
        # Usage, alerts and plans are for this user alone, whichever command writes first.
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / "log.sqlite3"
        if not path.exists():
            path.touch(mode=0o600)  # its journal takes over its rights
        connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA wal_autocheckpoint=4000")
            connection.executescript(_SCHEMA)
        except BaseException:  # not a database, or locked: the caller may try again
            connection.close()
            raise
        self._connection = connection

    async def append(self, messages: Sequence[Message]) -> None:
        if messages:
            await self._call(lambda: self._write(messages, None, {}))
            self._wake()

    async def reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Reader:
        reader = _EmbeddedReader(self, group, topics, on_revoke)
        try:
            await reader.start(on_assign)
        except BaseException:
            reader.release()
            raise
        return reader

    async def table(self, topic: str) -> dict[bytes, bytes]:
        rows = await self._call(
            lambda: self._db.execute("SELECT key, value FROM latest WHERE topic = ?", (topic,)).fetchall()
        )
        return dict(rows)

    async def scan(self, topic: str, start: Positions | None = None) -> AsyncIterator[Message]:
        end = await self._call(lambda: self._end(topic))
        offset = 0 if start is None else start.get(TopicPartition(topic, 0), end)
        while offset < end:
            page = await self._call(lambda start=offset: self._select(topic, start, end, _SCAN_PAGE))  # type: ignore[misc]
            if not page:
                return
            for message in page:
                yield message
            offset = page[-1].offset + 1

    def partitions(self, topic: str) -> int:
        return 1

    async def prune(self, older_than: float) -> int:
        """Delete messages appended before `older_than` that every group has read (or that no group reads);
        returns how many."""
        deleted = 0
        for topic in await self._call(self._topics):
            while count := await self._call(lambda topic=topic: self._prune(topic, older_than)):  # type: ignore[misc]
                deleted += count
        await self._call(self._shrink)
        return deleted

    async def rewrite(
        self,
        change: Callable[[Message], Message | None],
        appends: Sequence[Message],
        progress: Callable[[str, int], None],
        *,
        dry_run: bool = False,
    ) -> None:
        """Replace the key and value of every message for which `change` returns another one, append to compacted
        topics, and leave nothing of what was there in the file. Nobody may read or write meanwhile.

        Raises PermanentError while a group has a reader. `progress` gets each topic and how many messages were seen.
        A kill in the middle leaves the log as it was; after a kill behind that, call it again.
        """
        locks = [_lock(path, path.stem) for path in sorted(self.directory.glob("*.lock"))]
        try:
            await self._call(lambda: self._rewrite(change, appends, progress, dry_run=dry_run))
        finally:
            for descriptor in locks:
                os.close(descriptor)

    async def keep_spare(self) -> bool:
        """Keep a file from which room is made when the disk is full; False while there is no room for it."""
        return await self._call(self._keep_spare)

    async def forget(self, group: str) -> None:
        """Drop the positions of a group that no longer reads, so that `prune` does not wait for it."""
        await self._call(lambda: self._db.execute("DELETE FROM positions WHERE reader_group = ?", (group,)))

    async def close(self) -> None:
        if self._connection is not None:
            await self._call(self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=True)

    # --- on the log's own thread --------------------------------------------------------------------------------------

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise PermanentError("the log is not open")
        return self._connection

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            raise TransientError(f"embedded log in {self.directory}: {self._said(error)}") from error
        except sqlite3.DatabaseError as error:
            raise PermanentError(f"embedded log in {self.directory}: {error}") from error

    def _wake(self) -> None:
        self._appended.set()
        self._appended = asyncio.Event()

    def _end(self, topic: str) -> int:
        row = self._db.execute("SELECT next_offset FROM topics WHERE topic = ?", (topic,)).fetchone()
        return int(row[0]) if row else 0

    def _select(self, topic: str, start: int, end: int | None, limit: int) -> list[Message]:
        rows = self._db.execute(
            "SELECT value, key, offset FROM messages WHERE topic = ? AND offset >= ? AND offset < ?"
            " ORDER BY offset LIMIT ?",
            (topic, start, end if end is not None else 1 << 62, limit),
        )
        return [Message(topic, value, key, 0, offset) for value, key, offset in rows]

    def _write(self, messages: Sequence[Message], group: str | None, positions: Positions) -> None:
        if group == _ACTIONS_GROUP or _is_essential(messages):
            self._with_room(lambda: self._write_once(messages, group, positions), _FULL)
            return
        if self._has_spare and not self._keep_spare():
            raise TransientError(f"embedded log in {self.directory}: {_DISK_FULL}; only actions are written")
        self._write_once(messages, group, positions)

    def _with_room(self, write: Callable[[], None], full: Sequence[str]) -> None:
        """Do it, where there is no room with more and more of the spare file."""
        slice_bytes = _SLICE_BYTES
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname not in full or not self._cut_spare(slice_bytes):
                    raise
            slice_bytes *= 2

    def _write_once(self, messages: Sequence[Message], group: str | None, positions: Positions) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(messages)
            for (topic, _), offset in positions.items():
                db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (group, topic, offset))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk has ended it already
                db.execute("ROLLBACK")
            raise

    def _rewrite(
        self,
        change: Callable[[Message], Message | None],
        appends: Sequence[Message],
        progress: Callable[[str, int], None],
        *,
        dry_run: bool,
    ) -> None:
        db = self._db
        db.execute("PRAGMA secure_delete=ON")
        db.execute("BEGIN IMMEDIATE")
        try:
            for topic in self._topics():
                self._rewrite_topic(topic, change, progress, dry_run=dry_run)
            for message in () if dry_run else appends:
                self._put(message)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if not dry_run:
            progress("compacting the file", 0)
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _rewrite_topic(
        self,
        topic: str,
        change: Callable[[Message], Message | None],
        progress: Callable[[str, int], None],
        *,
        dry_run: bool,
    ) -> None:
        offset, seen = 0, 0
        while page := self._select(topic, offset, None, _SCAN_PAGE):
            for message in page:
                changed = change(message)
                if changed is not None and not dry_run:
                    self._db.execute(
                        "UPDATE messages SET key = ?, value = ? WHERE topic = ? AND offset = ?",
                        (changed.key, changed.value, topic, message.offset),
                    )
            offset, seen = page[-1].offset + 1, seen + len(page)
            progress(topic, seen)

    def _keep_spare(self) -> bool:
        if self._spare_bytes() >= _SPARE_BYTES:
            self._has_spare = True
            return True
        if shutil.disk_usage(self.directory).free < 4 * _SPARE_BYTES:
            return False
        try:
            with self._spare.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _SPARE_BYTES)
        except OSError:
            return False
        self._has_spare = True
        return True

    def _spare_bytes(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._spare.stat().st_size
        return 0

    def _cut_spare(self, slice_bytes: int) -> bool:
        """Make so much room; False where nothing is left of the spare file."""
        left = self._spare_bytes()
        if left:
            os.truncate(self._spare, max(0, left - slice_bytes))
        return left > 0

    def _said(self, error: sqlite3.OperationalError) -> str:
        """What is wrong, in words that say what to do."""
        name = error.sqlite_errorname
        if name in _FULL or (name in _NO_ROOM and self._is_full()):
            return f"{_DISK_FULL} ({error})"
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return f"another program, such as a backup, holds the lock ({error})"
        return f"{error} ({name})"

    def _is_full(self) -> bool:
        """Whether SQLite has no room for the file through which its readers share their index."""
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.directory).free < _SHARED_BYTES
        return False

    def _insert(self, messages: Sequence[Message]) -> None:
        now, ends = self._clock.now(), dict[str, int]()
        rows = []
        for message in messages:
            spec = TOPICS.get(message.topic)
            if spec is not None and spec.compacted:
                self._put(message)
                continue
            offset = ends.get(message.topic)
            if offset is None:
                offset = self._end(message.topic)
            rows.append((message.topic, offset, message.key, message.value, now))
            ends[message.topic] = offset + 1
        self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", rows)
        self._db.executemany("INSERT OR REPLACE INTO topics VALUES (?, ?)", ends.items())

    def _put(self, message: Message) -> None:
        if message.value:
            self._db.execute(
                "INSERT OR REPLACE INTO latest VALUES (?, ?, ?)", (message.topic, message.key, message.value)
            )
        else:
            self._db.execute("DELETE FROM latest WHERE topic = ? AND key = ?", (message.topic, message.key))

    def _topics(self) -> list[str]:
        return [topic for (topic,) in self._db.execute("SELECT topic FROM topics").fetchall()]

    def _prune(self, topic: str, older_than: float) -> int:
        """Delete the first messages of a topic, up to the last of them that is old; returns how many."""
        (read,) = self._db.execute("SELECT min(next_offset) FROM positions WHERE topic = ?", (topic,)).fetchone()
        rows = self._db.execute(
            "SELECT offset, at FROM messages WHERE topic = ? AND offset < ? ORDER BY offset LIMIT ?",
            (topic, 1 << 62 if read is None else read, _PRUNED_AT_ONCE),
        ).fetchall()
        # A clock that was set wrong dates messages ahead: they go with what is behind them, or where all are.
        ahead = self._clock.now() + _AHEAD_S
        last = max((offset for offset, at in rows if at < older_than or at > ahead), default=None)
        if last is None:
            return 0
        return self._db.execute("DELETE FROM messages WHERE topic = ? AND offset <= ?", (topic, last)).rowcount

    def _shrink(self) -> None:
        """Write back the write-ahead log, as far as nobody else reads it; the pages that were freed are used again."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


_DISK_FULL = "the disk is full"


def _is_essential(messages: Sequence[Message]) -> bool:
    """Whether leases depend on it: the ledger, what the runner of actions remembers, commands of people."""
    return any(
        message.topic in (ACTIONS, COMMANDS) or (message.topic == STATE and message.key.startswith(b"actions/"))
        for message in messages
    )


class _EmbeddedReader:
    def __init__(self, log: EmbeddedLog, group: str, topics: Sequence[str], on_revoke: OnRevoke | None) -> None:
        self._log, self._group, self._topics, self._on_revoke = log, group, tuple(topics), on_revoke
        self._positions: Positions = {}
        self._lock_file: int | None = None

    async def start(self, on_assign: OnAssign | None) -> None:
        self._lock_file = _lock(self._log.directory / f"{self._group}.lock", self._group)
        rows = await self._log._call(
            lambda: self._log._db.execute(
                "SELECT topic, next_offset FROM positions WHERE reader_group = ?", (self._group,)
            ).fetchall()
        )
        saved = dict(rows)
        self._positions = {TopicPartition(topic, 0): saved.get(topic, 0) for topic in self._topics}
        if on_assign is not None:
            await on_assign(frozenset(self._positions))

    async def fetch(self, max_messages: int = 500, timeout_s: float = 1.0) -> list[Message]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            appended = self._log._appended
            messages = await self._log._call(lambda: self._next(max_messages))
            if messages:
                for message in messages:
                    self._positions[TopicPartition(message.topic, 0)] = message.offset + 1
                return messages
            wait = min(_POLL_S, deadline - loop.time())
            if wait <= 0:
                return []
            try:
                await asyncio.wait_for(appended.wait(), wait)
            except TimeoutError:
                continue

    def _next(self, max_messages: int) -> list[Message]:
        # An equal share for every topic, so that a busy one cannot starve the others.
        share = max(1, max_messages // len(self._topics))
        messages: list[Message] = []
        for topic in self._topics:
            messages += self._log._select(topic, self._positions[TopicPartition(topic, 0)], None, share)
        return messages

    def positions(self) -> Positions:
        return dict(self._positions)

    def seek(self, positions: Positions) -> None:
        self._positions.update({at: offset for at, offset in positions.items() if at in self._positions})

    async def lag(self) -> dict[TopicPartition, int]:
        ends = await self._log._call(lambda: {topic: self._log._end(topic) for topic in self._topics})
        behind = {at: ends[at.topic] - offset for at, offset in self._positions.items()}
        return {at: count for at, count in behind.items() if count > 0}

    async def commit(self, appends: Sequence[Message] = ()) -> None:
        with metrics.LOG_COMMIT_SECONDS.labels(group=self._group).time():
            positions = self.positions()
            await self._log._call(lambda: self._log._write(appends, self._group, positions))
        if appends:
            self._log._wake()

    async def close(self) -> None:
        if self._lock_file is None:
            return
        try:
            if self._on_revoke is not None:
                await self._on_revoke(frozenset(self._positions))
        finally:
            self.release()

    def release(self) -> None:
        """Free the group for the next reader."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _lock(path: Path, group: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TransientError(f"embedded log: {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise PermanentError(f"another process is already running {group} on {path.parent}") from None
    return descriptor
