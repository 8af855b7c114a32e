"""What the runner has been told: firing alerts, halt, requests to undo. Kept in curb.state beside the positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from stream.codec import decode_lines, encode
from stream.commands import read_commands
from stream.dead_letters import dead_letter
from stream.log import Message
from stream.records import Alert, Command, Tier
from stream.topics import ALERTS, COMMANDS, STATE

ALERT_PREFIX = b"actions/alerts/"
UNDO_PREFIX = b"actions/undo/"
HALTED_KEY = b"actions/halted"
COMMANDS_KEY = b"actions/commands"
#: Command ids remembered, so that one that is sent again does nothing.
_REMEMBERED_COMMANDS = 1000
_RANK: dict[Tier, int] = {"digest": 0, "notice": 1, "page": 2}


class AlertFact(msgspec.Struct, frozen=True):
    """The newest revision of one incident and the highest tier it ever had (a message is not told twice for less)."""

    alert: Alert
    top_tier: Tier


class Facts:
    """The latest value per key under `actions/` of curb.state, decoded."""

    def __init__(self, table: Mapping[bytes, bytes] | None = None) -> None:
        self.alerts: dict[str, AlertFact] = {}
        self.undo_requests: dict[str, Command] = {}
        self.halted: Command | None = None
        self.command_ids: tuple[str, ...] = ()
        for key, value in (table or {}).items():
            self.set(key, value)

    def set(self, key: bytes, value: bytes) -> None:
        """Take in one key; an empty value deletes it. Keys of others are passed over."""
        if key.startswith(ALERT_PREFIX):
            _put(self.alerts, key[len(ALERT_PREFIX) :].decode(), value, AlertFact)
        elif key.startswith(UNDO_PREFIX):
            _put(self.undo_requests, key[len(UNDO_PREFIX) :].decode(), value, Command)
        elif key == HALTED_KEY:
            self.halted = msgspec.json.decode(value, type=Command) if value else None
        elif key == COMMANDS_KEY:
            self.command_ids = msgspec.json.decode(value, type=tuple[str, ...]) if value else ()

    def firing(self) -> list[Alert]:
        """Alerts that fire now, the most expensive first."""
        alerts = [fact.alert for fact in self.alerts.values() if fact.alert.status == "firing"]
        return sorted(alerts, key=lambda alert: -alert.dollars_at_risk)

    def is_firing(self, alert_id: str) -> bool:
        """False also for an alert that nobody remembers: absence counts as resolved."""
        fact = self.alerts.get(alert_id)
        return fact is not None and fact.alert.status == "firing"


def _put(into: dict[str, Any], name: str, value: bytes, kind: type[Any]) -> None:
    if value:
        into[name] = msgspec.json.decode(value, type=kind)
    else:
        into.pop(name, None)


def state_message(key: bytes, record: Any | None) -> Message:
    """What to append to curb.state to set `key`; None deletes it."""
    return Message(STATE, b"" if record is None else encode(record), key=key)


def read_messages(messages: Iterable[Message], facts: Facts, *, now: float) -> list[Message]:
    """New facts in messages from curb.alerts and curb.commands, as messages to commit together with the positions.

    `facts` is only read. Several messages about one key become one. What cannot be read becomes a dead letter.
    """
    draft: dict[bytes, Any] = {}
    dead: list[Message] = []
    ids = list(facts.command_ids)
    for message in messages:
        if message.topic == ALERTS:
            for alert in decode_lines(message.value, Alert, _on_bad(dead, message, now)):
                _note_alert(alert, facts, draft)
        elif message.topic == COMMANDS:
            for command in read_commands(message.value, _on_bad(dead, message, now)):
                if command.id not in ids:
                    ids.append(command.id)
                    _note_command(command, draft)
    if len(ids) > len(facts.command_ids):
        draft[COMMANDS_KEY] = ids[-_REMEMBERED_COMMANDS:]
    return [*(state_message(key, record) for key, record in draft.items()), *dead]


def _note_alert(alert: Alert, facts: Facts, draft: dict[bytes, Any]) -> None:
    key = ALERT_PREFIX + alert.alert_id.encode()
    known: AlertFact | None = draft.get(key) or facts.alerts.get(alert.alert_id)
    if known is None:
        draft[key] = AlertFact(alert, alert.tier)
    elif alert.revision > known.alert.revision:
        draft[key] = AlertFact(alert, max(known.top_tier, alert.tier, key=_RANK.__getitem__))


def _note_command(command: Command, draft: dict[bytes, Any]) -> None:
    if command.kind == "halt":
        draft[HALTED_KEY] = command
    elif command.kind == "resume":
        draft[HALTED_KEY] = None
    elif action_id := command.args.get("action_id"):
        draft[UNDO_PREFIX + action_id.encode()] = command


def _on_bad(dead: list[Message], message: Message, now: float) -> Callable[[int, bytes, str], None]:
    def on_bad(number: int, line: bytes, why: str) -> None:
        location = f"{message.topic}/{message.partition}/{message.offset}:{number}"
        dead.append(dead_letter(message.topic, "invalid", why, location=location, content=line, at=now))

    return on_bad
