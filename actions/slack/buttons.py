"""Buttons below a message: only those that make sense now and that somebody may press; what a press carries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import msgspec
from pydantic import Field, StringConstraints

from curb.actions.notify import wording
from curb.actions.notify.protocol import Notice
from curb.actions.slack.text import Block, plain
from curb.stream.records.spend import LedgerEntry
from curb.stream.settings import Settings

#: What a person can ask for in Slack.
Verb = Literal["approve", "deny", "undo", "snooze", "planned", "not_an_anomaly", "halt", "resume", "status"]
VERBS: tuple[Verb, ...] = get_args(Verb)
UserId = Annotated[str, StringConstraints(pattern=r"^[UW][A-Z0-9]{6,20}$")]
_Users = tuple[UserId, ...]
#: Begins the action_id of every button, and the callback_id of every dialog, of ours.
PREFIX = "curb."
#: Characters of a confirmation and of a label. By definition of Slack.
_CONFIRM_MAX, _LABEL_MAX = 300, 75
#: Actions with buttons; `curb actions` lists all. By hand: a message stays readable.
_MOST_ACTIONS = 4
#: What is no spend cannot be an anomaly of spend, nor planned.
_NO_SPEND = frozenset({"budget", "pricing", "feed", "ceiling"})
_LABELS: dict[Verb, str] = {
    "approve": "Approve",
    "deny": "Deny",
    "undo": "Undo",
    "planned": "Planned activity…",
    "not_an_anomaly": "Not an anomaly",
    "halt": "Halt Curb",
}
_STYLES: dict[Verb, str] = {"approve": "primary", "halt": "danger"}


class May(Settings):
    """Slack user ids per verb, such as U0123456789. Nobody may do what is left out, and there is no button for it."""

    approve: _Users = Field(default=(), description="Say yes to an action that waits for it.")
    deny: _Users = Field(default=(), description="Say no to an action that waits.")
    undo: _Users = Field(default=(), description="Take back what Curb did.")
    snooze: _Users = Field(default=(), description="Quiet one alert for a time.")
    planned: _Users = Field(default=(), description="Announce work that will cost more.")
    not_an_anomaly: _Users = Field(default=(), description="Say that an alert was none.")
    halt: _Users = Field(default=(), description="Stop all new actions at once.")
    resume: _Users = Field(default=(), description="Let Curb act again after a halt.")
    status: _Users = Field(default=(), description="Ask for the status with /curb status.")

    def users(self, verb: Verb) -> tuple[str, ...]:
        """Who may do it."""
        found: tuple[str, ...] = getattr(self, verb)
        return found


class Press(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a button carries: what is asked, about what, and which state of it the person saw."""

    verb: Verb
    notifier: str
    alert_id: str
    action_id: str = ""
    seen: str = ""


class Buttons:
    """The buttons of one notifier."""

    def __init__(self, notifier: str, may: May, snooze_hours: float) -> None:
        self._notifier, self._may = notifier, may
        self._labels = _LABELS | {"snooze": f"Snooze {wording.minutes(snooze_hours * 60.0)}"}

    def of(self, notice: Notice) -> list[Block]:
        """A row per action that waits or is in force, then a row about the alert itself."""
        rows = [self._action_row(entry, notice) for entry in wording.newest_per_action(notice)]
        shown = [row for row in rows if row][-_MOST_ACTIONS:]
        shown.append(self._alert_row(notice))
        return [{"type": "actions", "elements": row} for row in shown if row]

    def _action_row(self, entry: LedgerEntry, notice: Notice) -> list[Block]:
        seen = f"{entry.state}@{entry.at:.3f}"
        press = Press("undo", self._notifier, entry.alert_id, entry.action_id, seen)
        if wording.waits(entry) and notice.alert_of(entry).status == "firing":
            return [
                *self._button("approve", press, _approval(entry, notice)),
                *self._button("deny", press),
            ]
        if wording.in_force(entry):
            words = f"{wording.step(entry)}. The limit goes back to what it was; the spend may come back too."
            return self._button("undo", press, words)
        return []

    def _alert_row(self, notice: Notice) -> list[Block]:
        press = Press("snooze", self._notifier, notice.alert.alert_id, seen=notice.key)
        row: list[Block] = []
        is_spend = notice.alert.kind not in _NO_SPEND
        if notice.is_firing and notice.snoozed_until is None:
            row += self._button("snooze", press)
        if notice.is_firing and is_spend:
            row += self._button("planned", press)
        if is_spend:
            row += self._button("not_an_anomaly", press)
        if notice.is_firing and notice.ledger:
            row += self._button("halt", press, "Curb begins nothing new until somebody resumes it. Leases still end.")
        return row

    def _button(self, verb: Verb, press: Press, confirm: str = "") -> list[Block]:
        if not self._may.users(verb):
            return []
        press = msgspec.structs.replace(press, verb=verb)
        button: dict[str, Any] = {
            "type": "button",
            "action_id": f"{PREFIX}{verb}" + (f".{press.action_id}" if press.action_id else ""),
            "text": plain(self._labels[verb], _LABEL_MAX),
            "value": msgspec.json.encode(press).decode(),
        }
        if verb in _STYLES:
            button["style"] = _STYLES[verb]
        if confirm:
            button["confirm"] = {
                "title": plain(self._labels[verb] + "?", 100),
                "text": plain(confirm, _CONFIRM_MAX),
                "confirm": plain(self._labels[verb], 30),
                "deny": plain("Cancel", 30),
            }
        return [button]


def _approval(entry: LedgerEntry, notice: Notice) -> str:
    words = [wording.clean(entry.plan.summary, 120), wording.clean(entry.plan.warning, 100)]
    if not entry.plan.reversible:
        words.insert(0, "This cannot be undone.")
    if worth := wording.worth(entry, notice.alert_of(entry)):
        words.append(f"It {worth}.")
    return " ".join(word if word.endswith(".") else f"{word}." for word in words if word)
