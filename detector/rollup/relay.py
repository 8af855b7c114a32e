"""Copies people's knowledge from the commands topic to every partition of the spend topic, in the order of time.

Scoring is a function of the spend topic alone, so knowledge reaches it there, with ticks as from every other input.
The bucket in which a record takes effect depends on when it was made, not on when a process read or wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from curb.detector.rollup.raw_records import RollupSettings
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.dead_letters import dead_letter, reason_for
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import SpendTick

#: Bytes of a message at most: brokers accept 1 MB by default.
_MAX_BYTES = 500_000


class _Snapshot(msgspec.Struct):
    """All state of a relay between a flush and the next message."""

    time: float
    ticked_at: float


class CommandRelay:
    """The state of the commands topic; a `PartitionState`.

    `partitions` is the number of partitions of the spend topic; `name` identifies this input; `live`
    is False where the clock is not the wall clock. Records come nearly in the order of time: a record that is older
    than its predecessors takes effect with them.
    """

    def __init__(self, settings: RollupSettings, partitions: int, name: str = "", *, live: bool = True) -> None:
        self._settings, self._partitions, self._name, self._live = settings, partitions, name, live
        self._time = 0.0
        # The first tick after a start announces this input, so that scoring waits for it.
        self._ticked_at, self._announced, self._was_live = 0.0, False, False
        self._lines: list[bytes] = []

    @property
    def time(self) -> float:
        """Time of the latest record so far, epoch seconds."""
        return self._time

    def process(self, message: Message) -> Sequence[Message]:
        """Read knowledge and skip commands. Returns dead letters, and messages that a passed edge made due."""
        outputs: list[Message] = []

        def on_bad(number: int, line: bytes, why: str) -> None:
            location = f"{message.topic}/{message.partition or 0}/{message.offset}#{number}"
            outputs.append(dead_letter("relay", reason_for(why), why, location=location, content=line, at=self._time))

        for record in read_knowledge(message.value, on_bad):
            if self._edge_at(record.at) > self._edge_at(self._time):
                outputs += self._write(record.at)
            self._time = max(self._time, record.at)
            self._lines.append(encode(record))
        return outputs

    def flush(self, now: float | None) -> Sequence[Message]:
        """Pending lines, with a tick for `now` or, while there is more to read, for the latest record."""
        return self._write(self._time) if now is None else self._write(now, live=self._live)

    def snapshot(self) -> bytes:
        """The state, right after a flush."""
        return msgspec.msgpack.encode(_Snapshot(self._time, self._ticked_at))

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        self._time, self._ticked_at = state.time, state.ticked_at

    def _edge_at(self, time: float) -> int:
        """Number of buckets that have ended with their grace at `time`."""
        return int((time - self._settings.grace_s) // self._settings.bucket_s)

    def _write(self, time: float, *, live: bool = False) -> list[Message]:
        """Pending lines to every partition, followed by a tick if time has passed an edge."""
        lines, self._lines = self._lines, []
        moved = self._edge_at(time) > self._edge_at(self._ticked_at)
        if moved or not self._announced or (live and not self._was_live):
            self._ticked_at, self._announced, self._was_live = max(time, self._ticked_at), True, live
            lines.append(encode(SpendTick(at=self._ticked_at, source=self._name, live=live)))
        key, values = self._name.encode(), list(_values(lines))
        return [
            Message(SPEND, value, key=key, partition=partition)
            for partition in range(self._partitions)
            for value in values
        ]


def _values(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines as values of messages that every broker accepts."""
    start = size = 0
    for at, line in enumerate(lines):
        if at > start and size + len(line) >= _MAX_BYTES:
            yield b"\n".join(lines[start:at])
            start, size = at, 0
        size += len(line) + 1
    if lines:
        yield b"\n".join(lines[start:])
