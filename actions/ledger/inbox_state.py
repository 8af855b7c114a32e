"""The inbox of the runner: alerts, halt, undo, approvals, snoozes; kept in curb.state with the positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from curb.stream.log.codec import UNREADABLE, decode_lines, encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS, STATE
from curb.stream.records.dead_letters import dead_letter, reason_for
from curb.stream.records.knowledge import read_commands
from curb.stream.records.spend import TIER_RANK, Alert, Baseline, Command, Tier

ALERT_PREFIX = b"actions/alerts/"
UNDO_PREFIX = b"actions/undo/"
EXTEND_PREFIX = b"actions/extend/"
APPROVALS_PREFIX = b"actions/answers/"
SNOOZE_PREFIX = b"actions/snooze/"
PROPOSE_PREFIX = b"actions/propose/"
ALLOWED_PREFIX = b"actions/ceilings/allowed/"
RAISED_PREFIX = b"actions/ceilings/raised/"
HALTED_KEY = b"actions/halted"
COMMANDS_KEY = b"actions/commands"
#: Command ids remembered, so that a repeated command does nothing. By hand: far more than people send in a day.
_REMEMBERED_COMMANDS = 1000
#: Answers kept per action until they are dealt with. By hand: more than the people who may approve.
_MOST_APPROVALS = 20


class Original(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the subject was when the incident started: before Curb reduced anything."""

    usd_per_hour: float
    expected_usd_per_hour: float
    requests_per_minute: float | None = None
    baseline: Baseline | None = None


class AlertFact(msgspec.Struct, frozen=True):
    """The newest revision of one incident and the highest tier it ever had (a lower tier sends no second message)."""

    alert: Alert
    top_tier: Tier
    #: Of the first revision that was read; None in what an older version of Curb wrote.
    original: Original | None = None

    def at_firing(self) -> Alert:
        """The newest revision with the rates of the first: a target rate never follows from a reduced rate."""
        if self.original is None:
            return self.alert
        return msgspec.structs.replace(
            self.alert,
            usd_per_hour=self.original.usd_per_hour,
            expected_usd_per_hour=self.original.expected_usd_per_hour,
            requests_per_minute=self.original.requests_per_minute,
            baseline=self.original.baseline or self.alert.baseline,
        )


class HonestMinute(msgspec.Struct, frozen=True):
    """A minute that a person has called honest, so that a ceiling is above it before the day is over."""

    per_minute: float
    at: float
    by: str


class Inbox:
    """The latest value per key under `actions/` of curb.state, decoded."""

    def __init__(self, table: Mapping[bytes, bytes] | None = None) -> None:
        self.alerts: dict[str, AlertFact] = {}
        self.undo_requests: dict[str, Command] = {}
        #: The newest wish for a longer lease, by action id.
        self.extensions: dict[str, Command] = {}
        #: Approvals and denials per action id, in the order in which they were given.
        self.approvals: dict[str, list[Command]] = {}
        self.snoozes: dict[str, Command] = {}
        #: What is to be proposed for approval, by "alert/action"; the newest counts.
        self.proposals: dict[str, Command] = {}
        #: What a person has said about the ceilings of each policy, by its digest; and who may need more, by
        #: fingerprint.
        self.allowed: dict[str, Command] = {}
        self.raised: dict[str, HonestMinute] = {}
        self.halted: Command | None = None
        #: When a halt was lifted last, by this machine's clock: what was before it freezes nothing.
        self.resumed_at = 0.0
        self.command_ids: tuple[str, ...] = ()
        #: Values that cannot be read, by key, and why: of a later version of Curb, or damaged.
        self.unreadable: dict[bytes, str] = {}
        for key, value in (table or {}).items():
            try:
                self.set(key, value)
            except UNREADABLE as error:
                self.unreadable[key] = str(error)
                if key == HALTED_KEY:  # nobody knows that it is lifted
                    why = "the kill switch on the log cannot be read"
                    self.halted = Command(id="unreadable", kind="halt", at=0.0, by="curb", args={"reason": why})

    def set(self, key: bytes, value: bytes) -> None:
        """Take in one key; an empty value deletes it. Keys of others are passed over."""
        if key.startswith(ALERT_PREFIX):
            _put(self.alerts, key[len(ALERT_PREFIX) :].decode(), value, AlertFact)
        elif key.startswith(UNDO_PREFIX):
            _put(self.undo_requests, key[len(UNDO_PREFIX) :].decode(), value, Command)
        elif key.startswith(EXTEND_PREFIX):
            _put(self.extensions, key[len(EXTEND_PREFIX) :].decode(), value, Command)
        elif key.startswith(APPROVALS_PREFIX):
            _put(self.approvals, key[len(APPROVALS_PREFIX) :].decode(), value, list[Command])
        elif key.startswith(SNOOZE_PREFIX):
            _put(self.snoozes, key[len(SNOOZE_PREFIX) :].decode(), value, Command)
        elif key.startswith(PROPOSE_PREFIX):
            _put(self.proposals, key[len(PROPOSE_PREFIX) :].decode(), value, Command)
        elif key.startswith(ALLOWED_PREFIX):
            _put(self.allowed, key[len(ALLOWED_PREFIX) :].decode(), value, Command)
        elif key.startswith(RAISED_PREFIX):
            _put(self.raised, key[len(RAISED_PREFIX) :].decode(), value, HonestMinute)
        elif key == HALTED_KEY:
            command = msgspec.json.decode(value, type=Command) if value else None
            self.halted = command if command is not None and command.kind == "halt" else None
            self.resumed_at = command.at if command is not None and command.kind == "resume" else 0.0
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

    def snoozed_until(self, alert_id: str) -> float | None:
        """Until when (epoch seconds) an alert is snoozed; None: it is not."""
        command = self.snoozes.get(alert_id)
        return None if command is None else _until(command)


def _until(command: Command) -> float | None:
    try:
        until = float(command.args.get("until", ""))
    except ValueError:
        return None
    return until if math.isfinite(until) else None


def _put(into: dict[str, Any], name: str, value: bytes, kind: Any) -> None:
    if value:
        into[name] = msgspec.json.decode(value, type=kind)
    else:
        into.pop(name, None)


def freeze_message(why: str, now: float) -> Message:
    """What to append so that Curb is halted by itself, until a person lifts it."""
    return state_message(
        HALTED_KEY, Command(id=f"freeze-{now:.0f}", kind="halt", at=now, by="curb", args={"reason": why})
    )


def state_message(key: bytes, record: Any | None) -> Message:
    """What to append to curb.state to set `key`; None deletes it."""
    return Message(STATE, b"" if record is None else encode(record), key=key)


def read_messages(messages: Iterable[Message], inbox: Inbox, *, now: float) -> list[Message]:
    """New facts in messages from curb.alerts and curb.commands, as messages to commit together with the positions.

    `facts` is only read. Several messages about one key become one. What cannot be read becomes a dead letter.
    """
    draft: dict[bytes, Any] = {}
    dead: list[Message] = []
    ids = list(inbox.command_ids)
    for message in messages:
        if message.topic == ALERTS:
            for alert in decode_lines(message.value, Alert, _on_bad(dead, message, now)):
                _note_alert(alert, inbox, draft)
        elif message.topic == COMMANDS:
            for command in read_commands(message.value, _on_bad(dead, message, now)):
                if command.id not in ids:
                    ids.append(command.id)
                    _note_command(command, inbox, draft, now=now)
    if len(ids) > len(inbox.command_ids):
        draft[COMMANDS_KEY] = ids[-_REMEMBERED_COMMANDS:]
    return [*(state_message(key, record) for key, record in draft.items()), *dead]


def _note_alert(alert: Alert, inbox: Inbox, draft: dict[bytes, Any]) -> None:
    key = ALERT_PREFIX + alert.alert_id.encode()
    known: AlertFact | None = draft.get(key) or inbox.alerts.get(alert.alert_id)
    if known is None:
        draft[key] = AlertFact(alert, alert.tier, _original(alert))
    elif alert.revision > known.alert.revision:
        top_tier = max(known.top_tier, alert.tier, key=TIER_RANK.__getitem__)
        # A budget may have been at a lower threshold for days: its rates are those at the threshold crossed now.
        has_risen = alert.tier_since is not None and alert.tier_since != known.alert.tier_since
        draft[key] = AlertFact(alert, top_tier, _original(alert) if has_risen else known.original)


def _original(alert: Alert) -> Original:
    rates = (alert.usd_per_hour, alert.expected_usd_per_hour, alert.requests_per_minute, alert.baseline)
    return Original(*rates)


def _note_command(command: Command, inbox: Inbox, draft: dict[bytes, Any], *, now: float) -> None:
    if command.kind == "halt":
        draft[HALTED_KEY] = command
    elif command.kind == "resume":
        draft[HALTED_KEY] = msgspec.structs.replace(command, at=now)
    elif command.kind == "snooze":
        if (alert_id := command.args.get("alert_id")) and _until(command) is not None:
            draft[SNOOZE_PREFIX + alert_id.encode()] = command
    elif command.kind == "propose":
        alert_id, action = command.args.get("alert_id", ""), command.args.get("action", "")
        known = ALERT_PREFIX + alert_id.encode() in draft or alert_id in inbox.alerts
        if known and action:
            draft[PROPOSE_PREFIX + f"{alert_id}/{action}".encode()] = command
    elif action_id := command.args.get("action_id"):
        if command.kind in ("undo", "leave"):
            draft[UNDO_PREFIX + action_id.encode()] = command
        elif command.kind == "extend":
            draft[EXTEND_PREFIX + action_id.encode()] = command
        else:
            key = APPROVALS_PREFIX + action_id.encode()
            draft[key] = [*draft.get(key, inbox.approvals.get(action_id, [])), command][:_MOST_APPROVALS]


def _on_bad(dead: list[Message], message: Message, now: float) -> Callable[[int, bytes, str], None]:
    def on_bad(number: int, line: bytes, why: str) -> None:
        location = f"{message.topic}/{message.partition}/{message.offset}:{number}"
        dead.append(dead_letter(message.topic, reason_for(why), why, location=location, content=line, at=now))

    return on_bad
