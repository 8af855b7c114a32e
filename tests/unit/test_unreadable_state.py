"""Values under known keys of curb.state that cannot be read: dead letters, and the rest of the memory is there."""

from __future__ import annotations

import msgspec
import pytest

from curb.actions.ledger.inbox_state import (
    ALERT_PREFIX,
    APPROVALS_PREFIX,
    COMMANDS_KEY,
    HALTED_KEY,
    SNOOZE_PREFIX,
    UNDO_PREFIX,
    AlertFact,
    state_message,
)
from curb.actions.ledger.memory import KEPT_PREFIX, Memory
from curb.stream.log.protocol import Message
from curb.stream.log.topics import DEAD_LETTER, STATE
from curb.stream.records.spend import DeadLetter
from tests.fakes.alerts import T0, an_alert, an_entry
from tests.fakes.memory_log import MemoryLog


async def _loaded(*messages: Message) -> tuple[Memory, list[DeadLetter]]:
    log = MemoryLog()
    await log.append(messages)
    memory = Memory(log)
    await memory.load(T0)
    letters = [msgspec.json.decode(each.value, type=DeadLetter) async for each in log.scan(DEAD_LETTER)]
    return memory, letters


@pytest.mark.parametrize("value", [b"{", b"\xff", b'{"type":"of_2030"}', b'"text"'])
@pytest.mark.parametrize("prefix", [ALERT_PREFIX, UNDO_PREFIX, APPROVALS_PREFIX, SNOOZE_PREFIX, KEPT_PREFIX])
async def test_one_value_is_a_dead_letter_and_its_neighbours_are_read(prefix: bytes, value: bytes) -> None:
    alert = an_alert()
    good = state_message(ALERT_PREFIX + alert.alert_id.encode(), AlertFact(alert, alert.tier))
    memory, letters = await _loaded(good, Message(STATE, value, key=prefix + b"q"))
    assert list(memory.inbox.alerts) == [alert.alert_id]
    assert [letter.location for letter in letters] == [f"curb.state key {(prefix + b'q').decode()}"]


async def test_of_the_entries_of_an_action_those_that_can_be_read_count() -> None:
    kept = msgspec.json.encode([an_entry(1, "planned"), an_entry(1, "applied")])
    value = kept[:-1] + b',{"type":"of_2030"}]'
    memory, letters = await _loaded(Message(STATE, value, key=KEPT_PREFIX + b"i1"))
    state = memory.ledger.action("i1")
    assert state is not None
    assert state.is_held
    assert [letter.reason for letter in letters] == ["unknown_type"]


async def test_a_kill_switch_that_cannot_be_read_is_pressed() -> None:
    memory, letters = await _loaded(Message(STATE, b"{", key=HALTED_KEY), Message(STATE, b"{", key=COMMANDS_KEY))
    assert memory.inbox.halted is not None
    assert "cannot be read" in memory.inbox.halted.args["reason"]
    assert len(letters) == 2


async def test_keys_of_others_are_passed_over() -> None:
    others = [Message(STATE, b"{", key=key) for key in (b"actions/of-2030", b"somebody/else", b"\xff")]
    memory, letters = await _loaded(*others)
    assert (memory.inbox.halted, letters) == (None, [])
