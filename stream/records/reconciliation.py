"""The schema of what is on curb.reconciled; as in `stream.records`, fields a reader does not know are ignored."""

from __future__ import annotations

import msgspec


class Reconciliation(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Estimated against billed dollars of one pair of sources in one period; on curb.reconciled, newest per key."""

    v: int = 1
    pair: str
    period_start: float
    period_end: float
    estimated_usd: float
    billed_usd: float
    #: Days with estimates or charges in the period.
    days: int
    #: billed / estimated with its 90 % bounds; None where nothing was estimated, or too few days are known.
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    #: Estimated dollars after the period, which no bill has reached yet.
    open_usd: float = 0.0
    at: float
