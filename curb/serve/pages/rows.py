"""Rows of pages: actions as people read them, and links to series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from curb.actions.notify import wording
from curb.stream.records.spend import LedgerEntry
from curb.views.alerts_and_actions import LogView

#: Characters of a value. By hand: a line of a phone.
_LONGEST_VALUE = 60


class ActionRow(NamedTuple):
    """The newest entry of an action; `worth` is what it would save, where it is not done yet."""

    entry: LedgerEntry
    worth: str
    #: Such as "rpm 600 → 20".
    changes: list[str]
    #: Whether there is a page of its alert.
    known: bool


def action_row(entry: LedgerEntry, view: LogView) -> ActionRow:
    """An action with what its alert says of its worth."""
    alert = view.alerts.get(entry.alert_id)
    waits = entry.state in ("proposed", "shadow")
    worth = wording.worth(entry, alert) if waits and alert is not None else ""
    plan = entry.plan
    changes = [f"{name} {_value(plan.before.get(name))} → {_value(value)}" for name, value in plan.after.items()]
    return ActionRow(entry, worth, changes, alert is not None)


def newest_of(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The newest entry of each action, the action that began last first."""
    newest: dict[str, LedgerEntry] = {}
    for entry in entries:
        newest[entry.action_id] = entry
    return list(reversed(newest.values()))


def series_href(scope: str, tags: Mapping[str, str]) -> str:
    """The address of the page of a series."""
    return "/series/one?" + urlencode([("scope", scope), *(("tag", f"{key}={value}") for key, value in tags.items())])


def _value(value: Any) -> str:
    return "none" if value is None else wording.clean(str(value), _LONGEST_VALUE)
