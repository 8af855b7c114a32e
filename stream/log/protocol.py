"""The log: ordered, durable topics; positions of a group move together with what it wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """One ordered sequence of messages."""

    topic: str
    partition: int


class Message(NamedTuple):
    """One message. When appending, `partition` None means "by key" and `offset` is ignored."""

    topic: str
    value: bytes
    key: bytes = b""
    partition: int | None = None
    offset: int = -1


#: The next offset to read, per partition.
Positions = dict[TopicPartition, int]
#: Called with what a reader now owns, before its first message arrives; the place to load state and seek.
OnAssign = Callable[[frozenset[TopicPartition]], Awaitable[None]]
#: Called with the partitions that a reader is about to lose; the place to commit its progress.
OnRevoke = Callable[[frozenset[TopicPartition]], Awaitable[None]]


class Reader(Protocol):
    """Reads topics as one member of a group. Every partition belongs to exactly one member at a time.

    `fetch` waits up to `timeout_s` (wall-clock seconds) for at least one message and returns [] when none came.
    `commit` appends messages and saves positions in one atomic step: after a crash either both happened or neither.
    `positions` is just behind the last message returned by `fetch`; `seek` moves it, inside or outside `on_assign`.
    `lag` names the partitions with messages behind `positions` that are already on the log, and how many (at most;
    a partition that is not in it is read to its end).
    """

    async def fetch(self, max_messages: int = 500, timeout_s: float = 1.0) -> list[Message]: ...

    def positions(self) -> Positions: ...

    def seek(self, positions: Positions) -> None: ...

    async def lag(self) -> dict[TopicPartition, int]: ...

    async def commit(self, appends: Sequence[Message] = ()) -> None: ...

    async def close(self) -> None: ...


class Log(Protocol):
    """Durable topics. `append` returns only when the messages would survive a crash of this process.

    Raises TransientError while the log cannot be reached; nothing of that call may be assumed to be written or not.
    `table` is the latest value per key of a compacted topic, as of now; an empty value deletes the key.
    `scan` yields every message that is on the topic now, oldest first, and ends; with `start` only those of the
    partitions that it names, from these offsets on.
    """

    async def open(self) -> None: ...

    async def append(self, messages: Sequence[Message]) -> None: ...

    async def reader(
        self,
        group: str,
        topics: Sequence[str],
        *,
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
    ) -> Reader: ...

    async def table(self, topic: str) -> dict[bytes, bytes]: ...

    def scan(self, topic: str, start: Positions | None = None) -> AsyncIterator[Message]: ...

    def partitions(self, topic: str) -> int: ...

    async def close(self) -> None: ...
