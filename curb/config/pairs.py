"""The pairs of `reconcile` as marks on records, and as a scope of the detector that sums them."""

from __future__ import annotations

from curb.connectors.intake.attribution import TagRule
from curb.detector.reconcile.reconciler import MONEY, PAIR, SCOPE, ReconcileSettings
from curb.detector.settings import DetectorSettings


def marks(settings: ReconcileSettings) -> list[TagRule]:
    """Rules that mark what is estimated and what is billed. Taxes, credits and fees have no estimate beside them."""
    rules = []
    for pair in settings.pairs:
        for money, match in (
            # One connector may bring both.
            ("estimated", {"records": "[ug]*", **pair.estimated}),
            ("billed", {"records": "costs", "charge_category": "Usage", **pair.billed}),
        ):
            rules.append(TagRule(match=match, tags={PAIR: pair.name, MONEY: money}))
    return rules


def with_scope(detector: DetectorSettings, settings: ReconcileSettings) -> DetectorSettings:
    """The detector with the scope of the pairs, where there are any. Raises ValueError when its name is taken."""
    if not settings.pairs:
        return detector
    if any(scope.name == SCOPE.name for scope in detector.scopes):
        raise ValueError(f"the scope {SCOPE.name} is Curb's own while reconcile.pairs are given")
    return detector.model_copy(update={"scopes": (*detector.scopes, SCOPE)})
