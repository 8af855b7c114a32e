"""The rule for models that no price book knows: one notice per model and day, with the tokens at stake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from curb.detector.state import wording as explain
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved, revised
from curb.stream.records.spend import Alert, PricingHole
from curb.stream.time import DAY_S


class Unpriced(msgspec.Struct):
    """What a model without a price has used since it was first seen."""

    source: str
    reason: str
    last_seen: float
    requests: int = 0
    tokens: int = 0
    gpu_hours: float = 0.0
    fallback_usd: float = 0.0
    alert: Alert | None = None


class PricingAlerts:
    """An alert per unpriced model: revised once a day at most, over a day after the model was last seen."""

    def __init__(self) -> None:
        self._models: dict[str, Unpriced] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return [unpriced.alert for unpriced in self._models.values() if unpriced.alert is not None]

    def note(self, hole: PricingHole) -> None:
        """Count a hole; the next bucket that closes reports it."""
        unpriced = self._models.setdefault(hole.model, Unpriced(hole.source, hole.reason, hole.at))
        unpriced.last_seen = max(unpriced.last_seen, hole.at)
        unpriced.requests += hole.requests
        unpriced.tokens += hole.tokens
        unpriced.gpu_hours += hole.gpu_hours
        unpriced.fallback_usd += hole.fallback_usd

    def close(self, at: float) -> list[Alert]:
        """New revisions at `at`, when a bucket closes."""
        revisions = []
        for model, unpriced in sorted(self._models.items()):
            alert = unpriced.alert
            if alert is None:
                unpriced.alert = _open(model, unpriced, at)
            elif at - unpriced.last_seen >= DAY_S:
                del self._models[model]
                revisions.append(resolved(alert, at))
                continue
            elif at - alert.updated_at >= DAY_S and unpriced.last_seen > alert.updated_at:
                unpriced.alert = revised(alert, at, **_figures(model, unpriced))
            if unpriced.alert is not None and unpriced.alert is not alert:
                revisions.append(unpriced.alert)
        return revisions

    def dump(self) -> dict[str, Unpriced]:
        """What `load` takes."""
        return self._models

    def load(self, models: Mapping[str, Unpriced]) -> None:
        """Take over what `dump` gave."""
        self._models = dict(models)


def _open(model: str, unpriced: Unpriced, at: float) -> Alert:
    fingerprint = fingerprint_of("pricing", model)
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, at),
        revision=1,
        status="firing",
        kind="pricing",
        tier="notice",
        scope="model",
        tags={"model": model},
        fired_at=at,
        updated_at=at,
        started_at=min(at, unpriced.last_seen),
        expected_usd=0.0,
        excess_usd=0.0,
        usd_per_hour=0.0,
        expected_usd_per_hour=0.0,
        score=0.0,
        channel=f"pricing/{unpriced.reason}",
        **_figures(model, unpriced),
    )


def _figures(model: str, unpriced: Unpriced) -> dict[str, Any]:
    usd = unpriced.fallback_usd
    if unpriced.gpu_hours > 0:
        words = explain.gpu_pricing(model, unpriced.source, unpriced.gpu_hours, usd)
    else:
        words = explain.pricing(model, unpriced.source, unpriced.requests, unpriced.tokens, usd)
    return {"actual_usd": usd, "dollars_at_risk": usd, "explanation": words}
