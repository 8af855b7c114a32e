"""What Slack sends, as what was asked by whom: presses of buttons, filled-in dialogs and slash commands.

Nothing here trusts the content: a request comes over the socket of our app or with its signature, and still only what
fits the schema is read.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from curb.actions.slack.buttons import PREFIX, Press


class Person(NamedTuple):
    """Who asks: Slack's user id, and the name for people."""

    id: str
    name: str = ""

    @property
    def by(self) -> str:
        """As it stands in records."""
        return f"slack:{self.id}" + (f" ({self.name})" if self.name else "")


class Pressed(NamedTuple):
    """A press of a button of ours."""

    person: Person
    press: Press
    #: Slack's own id of this press, the same when the request is sent again.
    at_ts: str
    channel: str
    #: The message the button is below, for an answer in its thread.
    message_ts: str
    trigger_id: str


class Filled(NamedTuple):
    """A dialog of ours that was sent off; `values` by the name of the field."""

    person: Person
    callback: str
    view_id: str
    metadata: str
    values: dict[str, str]


class Slashed(NamedTuple):
    """A slash command."""

    person: Person
    text: str
    trigger_id: str
    team: str
    channel: str


Asked = Pressed | Filled | Slashed


class UnreadableError(ValueError):
    """No request of ours, or not of the form that Slack sends."""


class _User(msgspec.Struct):
    id: str
    username: str = ""
    name: str = ""


class _Action(msgspec.Struct):
    action_id: str
    value: str = ""
    action_ts: str = ""


class _Id(msgspec.Struct):
    id: str = ""


class _Message(msgspec.Struct):
    ts: str = ""
    thread_ts: str = ""


class _Presses(msgspec.Struct):
    user: _User
    actions: list[_Action]
    channel: _Id = msgspec.field(default_factory=_Id)
    message: _Message = msgspec.field(default_factory=_Message)
    trigger_id: str = ""


class _State(msgspec.Struct):
    values: dict[str, dict[str, dict[str, Any]]] = msgspec.field(default_factory=dict)


class _View(msgspec.Struct):
    id: str
    callback_id: str = ""
    private_metadata: str = ""
    state: _State = msgspec.field(default_factory=_State)


class _Submission(msgspec.Struct):
    user: _User
    view: _View


class _Slash(msgspec.Struct):
    user_id: str
    user_name: str = ""
    text: str = ""
    trigger_id: str = ""
    team_id: str = ""
    channel_id: str = ""


def from_form(body: bytes) -> dict[str, Any]:
    """The payload of a signed request: an interaction is JSON in one field, a slash command a field per value.

    Raises UnreadableError.
    """
    try:
        fields = {name: values[-1] for name, values in parse_qs(body.decode("utf-8"), max_num_fields=100).items()}
        if "payload" not in fields:
            return dict(fields)
        payload = msgspec.json.decode(fields["payload"].encode())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UnreadableError(f"not a request of Slack: {type(error).__name__}") from None
    if not isinstance(payload, dict):
        raise UnreadableError("not a request of Slack: the payload is no object")
    return payload


def read(payload: dict[str, Any]) -> list[Asked]:
    """What a payload asks; [] for what is none of ours. Raises UnreadableError."""
    try:
        kind = payload.get("type")
        if kind == "block_actions":
            return list(_presses(msgspec.convert(payload, _Presses)))
        if kind == "view_submission":
            return _filled(msgspec.convert(payload, _Submission))
        if "command" in payload:
            given = msgspec.convert(payload, _Slash)
            person = _person(given.user_id, given.user_name)
            return [Slashed(person, given.text, given.trigger_id, given.team_id, given.channel_id)]
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UnreadableError(f"not a request of Slack: {error}") from None
    return []


def _presses(given: _Presses) -> list[Asked]:
    person = _person(given.user.id, given.user.username or given.user.name)
    return [
        Pressed(
            person,
            msgspec.json.decode(action.value.encode(), type=Press),
            action.action_ts,
            given.channel.id,
            given.message.thread_ts or given.message.ts,
            given.trigger_id,
        )
        for action in given.actions
        if action.action_id.startswith(PREFIX)
    ]


def _filled(given: _Submission) -> list[Asked]:
    view = given.view
    if not view.callback_id.startswith(PREFIX):
        return []
    person = _person(given.user.id, given.user.username or given.user.name)
    values = {name: _value(field) for fields in view.state.values.values() for name, field in fields.items()}
    return [Filled(person, view.callback_id, view.id, view.private_metadata, values)]


def _value(field: dict[str, Any]) -> str:
    for key in ("value", "selected_date_time"):
        if field.get(key) is not None:
            return str(field[key])
    return ""


def _person(user_id: str, name: str) -> Person:
    kept = "".join(each for each in name if each.isalnum() or each in "._-")
    return Person(user_id, kept[:80])
