"""An alert and a target rate to try an action or a notifier with."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert, Baseline

#: When it fired, epoch seconds.
T0 = 1_750_000_000.0
#: Back to what the subject of `an_alert` did before.
NORMAL = TargetRate("shave", requests_per_minute=20.0, usd_per_hour=12.0, why="its normal level (p95)")


def an_alert(**changes: Any) -> Alert:
    """A page about one API key that burns twenty times the expected; `changes` replace fields of it."""
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
        channel="example",
        baseline=Baseline(expected_usd_per_hour=12.0, requests_per_minute_p95=20.0, known_days=10.0),
        explanation="Requests rose 20-fold on one key.",
    )
    return msgspec.structs.replace(alert, **changes)
