"""Alerts and ledger entries for tests, with every field set to something sensible."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS
from curb.stream.records.spend import Alert, Command, LedgerEntry, Plan
from curb.testing.alerts import NORMAL, T0, an_alert

__all__ = ["NORMAL", "T0", "a_plan", "alert_message", "an_alert", "an_entry", "command_message"]


def alert_message(alert: Alert) -> Message:
    return Message(ALERTS, encode(alert), key=alert.fingerprint.encode())


def command_message(kind: str, at: float, *, id: str = "", by: str = "ana", **args: str) -> Message:
    command = Command(id=id or f"{kind}-{at}", kind=kind, at=at, by=by, args=args)  # type: ignore[arg-type]
    return Message(COMMANDS, encode(command), key=command.id.encode())


def a_plan(target: str = "gate/k1", action: str = "gate", **changes: Any) -> Plan:
    """From 600 requests per minute to 9."""
    plan = Plan(action=action, target=target, summary="limit", before={"rpm": 600}, after={"rpm": 9})
    return msgspec.structs.replace(plan, **changes)


def an_entry(number: int = 1, state: str = "applied", **changes: Any) -> LedgerEntry:
    """Of action `i<number>`, about an alert and a target of its own."""
    plan = changes.pop("plan", None) or a_plan(f"gate/x{number}")
    entry = LedgerEntry(
        action_id=f"i{number}",
        state=state,  # type: ignore[arg-type]
        at=T0,
        alert_id=f"other{number}",
        fingerprint="f",
        plan=plan,
        tags={"team": "ads"},
    )
    return msgspec.structs.replace(entry, **changes)
