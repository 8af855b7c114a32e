"""State of one partition on the log: a snapshot with its offset, and the offset up to which outputs are out.

A restart loads the snapshot, replays the messages from its offset to the committed one in silence, and goes on. The log
itself is the delta: nothing but the position is written between two snapshots. A snapshot that cannot be used is made
up for by a longer replay, from the first message that the log still holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from curb.stream.errors import PermanentError
from curb.stream.log.codec import UNREADABLE, encode
from curb.stream.log.protocol import Log, Message, TopicPartition
from curb.stream.log.topics import STATE

#: Kafka's default limit of a message is 1 MiB.
_CHUNK_BYTES = 512 * 1024


class _Head(msgspec.Struct):
    """Written after its chunks, so a head never names a chunk that is not there."""

    offset: int
    chunks: int
    generation: int
    #: What the state says of the layout of its snapshots; empty in those of before this field.
    form: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """The state that a partition resumes from. Without a snapshot, `snapshot` is None and `snapshot_offset` is 0."""

    snapshot: bytes | None
    snapshot_offset: int
    #: Outputs of every message before this offset are on the log.
    committed: int
    generation: int
    form: str = ""
    #: Why there is no snapshot although there was one.
    damage: str = ""


def _key(group: str, at: TopicPartition, what: str) -> bytes:
    return f"{group}/{at.topic}/{at.partition}/{what}".encode()


async def load_checkpoints(
    log: Log, group: str, partitions: frozenset[TopicPartition]
) -> dict[TopicPartition, Checkpoint]:
    """The checkpoints of `group` for `partitions`, read from the state topic in one pass."""
    table = await log.table(STATE)
    return {at: _load(table, group, at) for at in partitions}


def _load(table: dict[bytes, bytes], group: str, at: TopicPartition) -> Checkpoint:
    value = table.get(_key(group, at, "committed"), b"0")
    if not value.isdigit():
        raise PermanentError(
            f"state of {group} for {at.topic}/{at.partition}: {_key(group, at, 'committed')!r} holds no offset; "
            "restore curb.state from a backup"
        )
    committed = int(value)
    head_value = table.get(_key(group, at, "head"))
    if head_value is None:
        return Checkpoint(None, 0, committed, 0)
    try:
        head = msgspec.json.decode(head_value, type=_Head)
    except UNREADABLE as error:
        return Checkpoint(None, 0, committed, 0, damage=f"its head cannot be read: {error}")
    chunks = [table.get(_key(group, at, f"{head.generation % 2}/{i}")) for i in range(head.chunks)]
    there = [chunk for chunk in chunks if chunk is not None]
    if len(there) < len(chunks):
        why = f"{len(chunks) - len(there)} of its {len(chunks)} chunks are missing"
        return Checkpoint(None, 0, committed, head.generation, damage=why)
    return Checkpoint(b"".join(there), head.offset, committed, head.generation, head.form)


def committed_message(group: str, at: TopicPartition, offset: int) -> Message:
    """The record that outputs of everything before `offset` are on the log; append it in the same commit."""
    return Message(STATE, str(offset).encode(), key=_key(group, at, "committed"))


def snapshot_messages(
    group: str, at: TopicPartition, offset: int, snapshot: bytes, generation: int, form: str = ""
) -> list[Message]:
    """The snapshot in pieces. Two generations take turns, so a half-written one never overwrites the last whole one."""
    chunks = [snapshot[i : i + _CHUNK_BYTES] for i in range(0, max(len(snapshot), 1), _CHUNK_BYTES)]
    pieces = [
        Message(STATE, chunk or b"\0", key=_key(group, at, f"{generation % 2}/{i}")) for i, chunk in enumerate(chunks)
    ]
    head = _Head(offset=offset, chunks=len(chunks), generation=generation, form=form)
    return [*pieces, Message(STATE, encode(head), key=_key(group, at, "head"))]


def chunk_keys(table: dict[bytes, bytes]) -> frozenset[bytes]:
    """The keys of the pieces of all snapshots on the state topic."""
    return frozenset(key for key in table if _CHUNK.search(key))


def rewritten_snapshots(table: dict[bytes, bytes], change: Callable[[bytes], bytes]) -> list[Message]:
    """What to append so that every snapshot is `change` of what it is, and the one before it is no more.

    Snapshots that cannot be put together are deleted: their state is made again from the log.
    """
    messages: list[Message] = []
    for key in chunk_keys(table):
        group, topic, partition = _placed(key)
        current = _load(table, group, TopicPartition(topic, partition))
        if current.snapshot is None or int(key.rsplit(b"/", 2)[1]) != current.generation % 2:
            messages.append(Message(STATE, b"", key=key))
    for head in (key for key in table if key.endswith(b"/head") and _PLACE.match(key)):
        group, topic, partition = _placed(head)
        at = TopicPartition(topic, partition)
        found = _load(table, group, at)
        if found.snapshot is None:
            messages.append(Message(STATE, b"", key=head))
        elif (changed := change(found.snapshot)) != found.snapshot:
            pieces = snapshot_messages(group, at, found.snapshot_offset, changed, found.generation, found.form)
            messages += pieces
            own = {piece.key for piece in pieces}
            prefix = _key(group, at, f"{found.generation % 2}/")
            messages += [Message(STATE, b"", key=key) for key in table if key.startswith(prefix) and key not in own]
    return messages


#: A key of a snapshot: group, topic and partition, then the generation's place and the number of a piece, or "head".
_CHUNK = re.compile(rb"^[^/]+/[^/]+/\d+/[01]/\d+$")
_PLACE = re.compile(rb"^([^/]+)/([^/]+)/(\d+)/")


def _placed(key: bytes) -> tuple[str, str, int]:
    """Group, topic and partition in a key of a snapshot."""
    found = _PLACE.match(key)
    assert found is not None
    group, topic, partition = found.groups()
    return group.decode(), topic.decode(), int(partition)
