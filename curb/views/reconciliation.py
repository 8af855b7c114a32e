"""Reconciliations as plain data, for the API, the dashboard and `curb reconcile`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from curb.detector.reconcile.reconciler import ReconcileSettings, expected
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.time import iso


def reconciliation_rows(found: Iterable[Reconciliation], settings: ReconcileSettings) -> list[dict[str, Any]]:
    """One row per record, with the expected bill for `open_usd` unless the settings hide it."""
    shown = []
    for record in found:
        row = {**msgspec.to_builtins(record), "from": iso(record.period_start), "until": iso(record.period_end)}
        outlook = expected(record) if settings.apply == "shown" and record.open_usd > 0 else None
        if outlook is not None:
            row |= dict(
                zip(("expected_bill_usd", "expected_bill_low_usd", "expected_bill_high_usd"), outlook, strict=True)
            )
        shown.append(row)
    return shown
