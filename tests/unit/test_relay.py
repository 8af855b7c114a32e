"""The relay: what people told reaches every partition once, and takes effect when it was said, however it was cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from curb.config.file import CurbConfig
from curb.detector.rollup.relay import CommandRelay
from curb.detector.settings import DetectorSettings
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import COMMANDS, DEAD_LETTER, SPEND
from curb.stream.records.spend import Annotation, Command, DeadLetter, Knowledge, Silence, SpendMessage, SpendTick
from curb.wiring import make_rollup
from tests.fakes.memory_log import MemoryLog

SETTINGS = DetectorSettings(bucket_s=60, grace_s=30)
T0 = 1_750_032_000.0


def relay(partitions: int = 1, *, live: bool = True) -> CommandRelay:
    return CommandRelay(SETTINGS, partitions, "curb.commands/0", live=live)


def note(name: str, at: float, text: str = "") -> Annotation:
    return Annotation(id=name, at=at, kind="note", tags={"team": "a"}, text=text)


def message(*records: Any, offset: int = 0) -> Message:
    return Message(COMMANDS, encode_lines(records), partition=0, offset=offset)


def lines(messages: Iterable[Message], partition: int = 0) -> list[Any]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    own = [each for each in messages if each.topic == SPEND and each.partition == partition]
    assert all(each.key == b"curb.commands/0" for each in own)
    return [line for each in own for line in decoder.decode_lines(each.value)]


def test_every_partition_is_told_and_time_moves_behind_it() -> None:
    subject, first = relay(partitions=3), note("1", T0 + 10)
    out = [*subject.process(message(first)), *subject.flush(T0 + 200)]
    expected = [
        SpendTick(at=T0 + 10, source="curb.commands/0"),
        first,
        SpendTick(at=T0 + 200, source="curb.commands/0", live=True),
    ]
    assert [lines(out, partition) for partition in range(3)] == [expected] * 3


def test_an_edge_between_two_records_is_told_between_them() -> None:
    subject, records = relay(), [note("1", T0 + 10), note("2", T0 + 20), note("3", T0 + 100)]
    out = [*subject.process(message(*records)), *subject.flush(None)]
    assert [getattr(line, "id", None) or line.at - T0 for line in lines(out)] == [10, "1", "2", 100, "3"]


def test_commands_are_passed_over_and_move_no_time() -> None:
    subject = relay()
    assert not subject.process(message(Command(id="h", kind="halt", at=T0, by="ana")))
    assert subject.time == 0.0


def test_an_input_without_anything_says_that_it_is_there() -> None:
    assert lines(relay().flush(None)) == [SpendTick(at=0.0, source="curb.commands/0")]
    subject = relay()
    assert lines(subject.flush(T0)) == [SpendTick(at=T0, source="curb.commands/0", live=True)]
    assert not subject.flush(T0 + 1)


def test_a_replay_is_never_live() -> None:
    assert not lines(relay(live=False).flush(T0))[0].live


def test_what_cannot_be_meant_is_a_dead_letter() -> None:
    subject = relay()
    bad = Silence(id="s", at=T0, matchers={}, until=T0 + 60)
    out = list(subject.process(message(note("1", T0), bad, note("2", T0), offset=7)))
    letters = [msgspec.json.decode(each.value, type=DeadLetter) for each in out if each.topic == DEAD_LETTER]
    assert [(each.source, each.reason, each.location) for each in letters] == [
        ("relay", "invalid", "curb.commands/0/7#1")
    ]
    assert "matchers is empty" in letters[0].detail
    assert [line.id for line in lines([*out, *subject.flush(None)]) if isinstance(line, Annotation)] == ["1", "2"]


def test_messages_stay_small_enough_for_a_broker() -> None:
    subject, count = relay(), 800
    out = list(subject.process(message(*(note(str(n), T0, "x" * 1500) for n in range(count)))))
    out += subject.flush(None)
    assert len([line for line in lines(out) if isinstance(line, Annotation)]) == count
    assert max(len(each.value) for each in out) <= 500_000


#: Seconds after T0 at which something is said: mostly forward, sometimes back.
_STEPS = st.lists(st.integers(-90, 200), min_size=1, max_size=12)
#: What the worker does behind each record: nothing, flush, or flush, save and restart.
_CUTS = st.lists(st.sampled_from(["", "flush", "restart"]), min_size=12, max_size=12)


@given(_STEPS, _CUTS, st.integers(1, 3))
def test_when_it_takes_effect_does_not_depend_on_flushes_restarts_or_messages(
    steps: list[int], cuts: list[str], size: int
) -> None:
    at, records = T0, list[Knowledge]()
    for number, step in enumerate(steps):
        at += step
        records.append(note(str(number), at))
    whole = relay()
    expected = effects([*whole.process(message(*records)), *whole.flush(None)])
    assert [name for name, _ in expected] == [record.id for record in records]
    subject, out = relay(), list[Message]()
    for start, cut in zip(range(0, len(records), size), cuts, strict=False):
        out += subject.process(message(*records[start : start + size]))
        if cut:
            out += subject.flush(None)
        if cut == "restart":
            saved, subject = subject.snapshot(), relay()
            subject.restore(saved)
            out += subject.flush(None)
    assert effects([*out, *subject.flush(None)]) == expected


def effects(messages: Sequence[Message]) -> list[tuple[str, int]]:
    """What was told, each with the last edge passed before it."""
    found, edge = [], -1
    for line in lines(messages):
        if isinstance(line, SpendTick):
            edge = max(edge, int((line.at - SETTINGS.grace_s) // SETTINGS.bucket_s))
        else:
            found.append((line.id, edge))
    return found


async def test_the_worker_that_sums_spend_also_relays() -> None:
    log, clock, told = MemoryLog(partitions=2), ManualClock(T0 + 1), note("1", T0)
    await log.append([message(told)])
    worker = make_rollup(CurbConfig(commit_interval_s=0.01), log, clock)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    while not worker.caught_up:
        await asyncio.sleep(0)
    stop.set()
    await running
    for partition in range(2):
        own = [each for each in log.messages[TopicPartition(SPEND, partition)] if each.key == b"curb.commands/0"]
        found = lines(own, partition)
        assert [line for line in found if isinstance(line, Annotation)] == [told]
        assert found[-1] == SpendTick(at=T0 + 1, source="curb.commands/0", live=True)
