"""What the runner shows: its memory as plain data for the console and the HTTP API."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.actions.ledger.ledger import ActionState
from curb.actions.ledger.memory import Book
from curb.actions.settings import ActionsSettings

_RECENT = 50


def view(book: Book, settings: ActionsSettings, problems: dict[str, str]) -> dict[str, Any]:
    """Keys: active, mode, halted (None or by, at, reason), open, proposed, recent (newest first), firing, problems."""
    halted = book.facts.halted
    states = sorted(book.ledger.actions(), key=lambda state: state.last.at, reverse=True)
    return {
        "active": book.active,
        "mode": settings.mode,
        "halted": None
        if halted is None
        else {"by": halted.by, "at": halted.at, "reason": halted.args.get("reason", "")},
        "open": [_row(state) for state in states if state.is_open or state.is_stuck],
        "proposed": [_row(state) for state in states if state.is_pending],
        "recent": [_row(state) for state in states[:_RECENT]],
        "firing": [alert.alert_id for alert in book.facts.firing()],
        "problems": dict(problems),
    }


def _row(state: ActionState) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(state.last)
    row["applied_at"] = state.applied_at
    return row
