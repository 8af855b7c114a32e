"""The dialog in which a person announces planned activity for the spend of one alert."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from curb.actions.notify import wording
from curb.actions.slack import slash as slack_slash
from curb.actions.slack.buttons import PREFIX
from curb.actions.slack.requests import Filled
from curb.actions.slack.text import Block, plain, section
from curb.stream.records.spend import Alert

CALLBACK = f"{PREFIX}planned"
#: Characters of a title and of a label. By definition of Slack.
_TITLE_MAX, _LABEL_MAX = 24, 75
#: Hours that a plan is proposed for. By hand: a working day.
_HOURS = 8.0
#: Characters of a reason. By hand: a paragraph.
_LONGEST_REASON = 500


class Meant(NamedTuple):
    """What the dialog says."""

    alert_id: str
    until: float
    max_usd: float
    reason: str


class RefusedError(ValueError):
    """What was filled in cannot be meant: `errors` by the name of the field."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = errors


class _About(msgspec.Struct):
    """Travels in the dialog: the alert and the notifier that the button stood under."""

    alert_id: str
    notifier: str


def view(alert: Alert, notifier: str, now: float) -> dict[str, Any]:
    """What views.open takes. The amounts suggested are what the alert burns now, for eight hours."""
    suggested = max(1.0, math.ceil(wording.excess_rate(alert) * _HOURS))
    return {
        "type": "modal",
        "callback_id": CALLBACK,
        "private_metadata": msgspec.json.encode(_About(alert.alert_id, notifier)).decode(),
        "title": plain("Planned activity", _TITLE_MAX),
        "submit": plain("Announce", _TITLE_MAX),
        "close": plain("Cancel", _TITLE_MAX),
        "blocks": [
            section(
                f"What is expected of {wording.subject(alert)} rises by what you allow; nothing is muted, "
                "and more than that still alerts."
            ),
            _input(
                "until", "Until", {"type": "datetimepicker", "initial_date_time": int(now + _HOURS * 3600.0) // 60 * 60}
            ),
            _input(
                "max_usd",
                "It may cost so many dollars over the usual, in all",
                {"type": "plain_text_input", "initial_value": f"{suggested:.0f}", "max_length": 20},
            ),
            _input("reason", "What it is", {"type": "plain_text_input", "max_length": _LONGEST_REASON}, optional=True),
        ],
    }


def about(filled: Filled) -> tuple[str, str]:
    """Alert id and notifier of a dialog of ours. Raises RefusedError."""
    try:
        found = msgspec.json.decode(filled.metadata.encode(), type=_About)
    except msgspec.DecodeError:
        raise RefusedError({"until": "this dialog is not one of Curb's"}) from None
    return found.alert_id, found.notifier


def meant(filled: Filled, now: float) -> Meant:
    """What a person filled in. Raises RefusedError with the fields that are wrong."""
    alert_id, _ = about(filled)
    errors: dict[str, str] = {}
    until = max_usd = 0.0
    try:
        until = float(filled.values.get("until", ""))
        if not now < until <= now + 31 * 86400:
            errors["until"] = "a time within the next 31 days"
    except ValueError:
        errors["until"] = "a time is needed"
    try:
        max_usd = slack_slash.dollars(filled.values.get("max_usd", ""))
    except slack_slash.SlashError as error:
        errors["max_usd"] = str(error)
    if errors:
        raise RefusedError(errors)
    reason = wording.clean(filled.values.get("reason", ""), _LONGEST_REASON).strip()
    return Meant(alert_id, until, max_usd, reason)


def _input(name: str, label: str, element: Block, *, optional: bool = False) -> Block:
    """The block and the field in it have the same name; errors are shown by block."""
    return {
        "type": "input",
        "block_id": name,
        "label": plain(label, _LABEL_MAX),
        "optional": optional,
        "element": {"action_id": name, **element},
    }
