"""The rule for series never seen before: statistics know nothing of them, so a sum of dollars decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector import explain
from detector.alerts import alert_id_of, fingerprint_of, is_news, resolved, revised
from detector.closed import ClosedBucket
from detector.columns import Column, Columns
from detector.series import SeriesRegistry
from detector.settings import DetectorSettings
from stream.records import Alert

_DAY_S = 86400


class Newcomer(msgspec.Struct):
    """The newest revision of an alert, what was spent since the first sight, and how long it has been calm."""

    alert: Alert
    spent_usd: float
    calm_s: float = 0.0


class NewPrincipalAlerts:
    """A page, once, when a newcomer spends more than the limit within its first 24 hours.

    It ends when the newcomer is calm or old enough for the statistics. While the stream itself is in its warm-up
    everyone is new and the rule says nothing; planned work has series of its own and is no principal.
    """

    def __init__(self, settings: DetectorSettings, registry: SeriesRegistry) -> None:
        self._settings, self._alerts, self._registry = settings, settings.alerts, registry
        self._columns = Columns({"spent_usd": Column(), "told": Column(dtype=np.bool_)}, 64)
        self._newcomers: dict[int, Newcomer] = {}

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return [newcomer.alert for newcomer in self._newcomers.values()]

    def firing_series(self) -> set[int]:
        """Series with an alert that fires."""
        return set(self._newcomers)

    def close(self, bucket: ClosedBucket, stream_since: float, muted: set[int]) -> list[Alert]:
        """New revisions after a bucket; series in `muted` have another alert and open none here."""
        self._columns.grow(len(bucket.cost))
        spent, told, registry = self._columns["spent_usd"], self._columns["told"], self._registry
        first_seen = registry["first_seen"]
        young = bucket.start < first_seen + _DAY_S
        spent[young] += bucket.cost[young]
        over = young & (spent > self._alerts.new_principal_usd) & ~told & registry["detect"] & ~registry["planned"]
        over &= first_seen - stream_since >= self._settings.warmup_s
        revisions = [self._update(i, newcomer, bucket) for i, newcomer in sorted(self._newcomers.items())]
        revisions += [self._open(i, bucket) for i in np.flatnonzero(over).tolist() if i not in muted]
        return [alert for alert in revisions if alert is not None]

    def _open(self, i: int, bucket: ClosedBucket) -> Alert:
        self._columns["told"][i] = True
        scope, tags = self._registry.scopes[i], self._registry.tags[i]
        fingerprint = fingerprint_of("new_principal", scope, sorted(tags.items()))
        spent_usd = float(self._columns["spent_usd"][i])
        alert = Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, bucket.at),
            revision=1,
            status="firing",
            kind="new_principal",
            tier="page",
            scope=scope,
            tags=tags,
            fired_at=bucket.at,
            updated_at=bucket.at,
            started_at=float(self._registry["first_seen"][i]),
            expected_usd=0.0,
            expected_usd_per_hour=0.0,
            channel="new_principal/24h",
            **self._figures(i, bucket, spent_usd),
        )
        self._newcomers[i] = Newcomer(alert, spent_usd)
        return alert

    def _update(self, i: int, newcomer: Newcomer, bucket: ClosedBucket) -> Alert | None:
        alert, step_s = newcomer.alert, bucket.end - bucket.start
        newcomer.spent_usd += float(bucket.cost[i])
        rate = float(bucket.scores.rate[i])
        newcomer.calm_s = 0.0 if rate > self._alerts.calm_usd_per_hour else newcomer.calm_s + step_s
        grown_up = bucket.end - self._registry["first_seen"][i] >= max(_DAY_S, self._settings.warmup_s)
        if newcomer.calm_s >= self._alerts.calm_s or grown_up:
            del self._newcomers[i]
            return resolved(alert, bucket.at, **self._figures(i, bucket, newcomer.spent_usd))
        if not is_news(alert, bucket.at, rate, self._alerts.update_every_s):
            return None
        newcomer.alert = revised(alert, bucket.at, **self._figures(i, bucket, newcomer.spent_usd))
        return newcomer.alert

    def _figures(self, i: int, bucket: ClosedBucket, spent_usd: float) -> dict[str, Any]:
        rate, limit_usd = float(bucket.scores.rate[i]), self._alerts.new_principal_usd
        who = explain.subject(self._registry.scopes[i], self._registry.tags[i])
        age_s = bucket.end - float(self._registry["first_seen"][i])
        return {
            "actual_usd": spent_usd,
            "excess_usd": spent_usd,
            "usd_per_hour": rate,
            "requests_per_minute": bucket.requests_per_minute(i),
            "dollars_at_risk": spent_usd + rate * self._alerts.response_page_s / 3600,
            "score": spent_usd / limit_usd,
            "explanation": explain.new_principal(who, rate, spent_usd, age_s, limit_usd),
        }

    def dump(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"newcomers": self._newcomers, "arrays": self._columns.dump("principal")}

    def load(self, newcomers: Mapping[int, Newcomer], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._newcomers = dict(newcomers)
        self._columns.load("principal", arrays)
