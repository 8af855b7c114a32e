"""Alerts and ledger entries for tests, with every field set to something sensible."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.actions.target import TargetRate
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS
from curb.stream.records.spend import Alert, Baseline, Command, LedgerEntry, Plan

T0 = 1_750_000_000.0
#: Back to what the subject of `an_alert` did before.
NORMAL = TargetRate("shave", requests_per_minute=20.0, usd_per_hour=12.0, why="its normal level (p95)")


def an_alert(**changes: Any) -> Alert:
    alert = Alert(
        fingerprint="f1",
        alert_id="a1",
        revision=1,
        status="firing",
        kind="runaway",
        tier="page",
        scope="key",
        tags={"team": "search", "project": "rank", "api_key": "k1"},
        fired_at=T0,
        updated_at=T0,
        started_at=T0 - 300,
        expected_usd=1.0,
        actual_usd=20.0,
        excess_usd=19.0,
        usd_per_hour=240.0,
        expected_usd_per_hour=12.0,
        requests_per_minute=400.0,
        dollars_at_risk=1900.0,
        score=9.0,
        channel="dollars/30min",
        baseline=Baseline(expected_usd_per_hour=12.0, requests_per_minute_p95=20.0, known_days=10.0),
        explanation="Requests rose 20-fold on one key.",
    )
    return msgspec.structs.replace(alert, **changes)


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
