"""Lines of the commands topic: each reader takes its own, and what nobody can mean is refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.actions.ledger.inbox_state import Inbox, read_messages
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, DEAD_LETTER
from curb.stream.records.knowledge import knowledge_message, read_commands, read_knowledge, refusal
from curb.stream.records.spend import Annotation, BudgetIncrease, Command, Feedback, Knowledge, PlannedActivity, Silence

PLAN = PlannedActivity(id="p", at=1000.0, tags={"team": "a"}, start=2000.0, end=3000.0, max_usd=5.0)
TOLD: list[Knowledge] = [
    PLAN,
    Annotation(id="n", at=1000.0, kind="deploy", tags={}),
    Feedback(id="f", at=1000.0, alert_id="x-1", verdict="real"),
    Silence(id="s", at=1000.0, matchers={"team": "*"}, until=2000.0),
    BudgetIncrease(id="b", at=1000.0, budget="team", match={}, amount_usd=5.0, expires_at=2000.0),
]
HALT = Command(id="h", kind="halt", at=1.0, by="ana")


def test_each_reader_takes_its_own() -> None:
    value, bad = encode_lines([HALT, *TOLD]), list[Any]()
    assert read_commands(value, lambda *each: bad.append(each)) == [HALT]
    assert read_knowledge(value, lambda *each: bad.append(each)) == TOLD
    assert not bad


@pytest.mark.parametrize(
    ("line", "told_by"),
    [
        (b"{", "commands"),
        (b"[]", "commands"),
        (b'{"type": 3}', "commands"),
        (b'{"id": "1"}', "commands"),
        (b'{"type": "gossip", "id": "1"}', "knowledge"),
        (b'{"type": "silence", "id": "1"}', "knowledge"),
        (knowledge_message(msgspec.structs.replace(PLAN, end=1.0)).value, "knowledge"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_once(line: bytes, told_by: str) -> None:
    bad: list[str] = []
    value = encode_lines([HALT]) + line
    read_commands(value, lambda number, *_: bad.append(f"commands {number}"))
    read_knowledge(value, lambda number, *_: bad.append(f"knowledge {number}"))
    assert bad == [f"{told_by} 1"]


def test_actions_pass_over_what_is_not_theirs() -> None:
    found = read_messages([Message(COMMANDS, encode_lines([*TOLD, HALT]), partition=0)], Inbox(), now=1.0)
    assert not [each for each in found if each.topic == DEAD_LETTER]
    facts = Inbox({each.key: each.value for each in found})
    assert facts.halted == HALT


@pytest.mark.parametrize("record", TOLD)
def test_sound_records_pass(record: Knowledge) -> None:
    assert refusal(record) is None


@pytest.mark.parametrize(
    ("record", "changes", "why"),
    [
        (0, {"end": 2000.0}, "end is not after start"),
        (0, {"tags": {}}, "tags is empty"),
        (0, {"max_usd": -1.0}, "max_usd"),
        (0, {"max_usd": float("nan")}, "max_usd"),
        (0, {"start": float("inf")}, "start"),
        (0, {"at": 5e9}, "at is no time"),
        (0, {"id": ""}, "id is empty"),
        (0, {"tags": {"team": "x" * 300}}, "tags has"),
        (1, {"text": "x" * 2001}, "text is longer"),
        (2, {"alert_id": ""}, "alert_id"),
        (3, {"matchers": {}}, "matchers is empty"),
        (3, {"until": 0.0}, "until"),
        (4, {"budget": ""}, "budget"),
        (4, {"amount_usd": float("inf")}, "amount_usd"),
    ],
)
def test_what_nobody_can_mean_is_refused(record: int, changes: dict[str, Any], why: str) -> None:
    found = refusal(msgspec.structs.replace(TOLD[record], **changes))
    assert found is not None
    assert why in found
