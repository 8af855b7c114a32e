"""The life of an alert raised by the score: opened, told anew while it burns, resolved, opened again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector import explain
from detector.closed import ClosedBucket
from detector.columns import Column, Columns
from detector.dollars import SILENT, WINDOWS_MIN, DollarsHead
from detector.series import SeriesRegistry
from detector.settings import DetectorSettings
from stream.records import Alert, Tier

#: A burn over this multiple of the expected one belongs to the incident; over the other, it is not calm yet.
_OVER_RATIO, _CALM_RATIO = 1.5, 1.2
#: An excess that pauses for less than this is the same excess.
_PAUSE_S = 900
#: How far under the threshold a score is quiet.
_QUIET_MARGIN = 2.0
_NEWS_SHARE, _NEWS_FLOOR_USD_PER_HOUR = 0.1, 0.1
_RANK: dict[Tier, int] = {"digest": 0, "notice": 1, "page": 2}
WINDOW_NAMES = ("5-minute", "30-minute", "2-hour", "8-hour", "24-hour")
_CHANNELS = tuple(f"dollars/{minutes:g}min" for minutes in WINDOWS_MIN)


def fingerprint_of(*parts: object) -> str:
    """The same 16 hex digits for the same parts, on every machine."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def alert_id_of(fingerprint: str, fired_at: float) -> str:
    """One firing episode of a fingerprint."""
    return f"{fingerprint}-{int(fired_at)}"


def revised(alert: Alert, at: float, **changes: Any) -> Alert:
    """The next revision of an alert."""
    return msgspec.structs.replace(alert, revision=alert.revision + 1, updated_at=at, **changes)


def resolved(alert: Alert, at: float, **changes: Any) -> Alert:
    """The last revision of an episode."""
    return revised(alert, at, status="resolved", resolved_at=at, **changes)


def is_news(alert: Alert, at: float, rate: float, update_every_s: float) -> bool:
    """Whether a burn of `rate` $/h is worth a revision."""
    moved = abs(rate - alert.usd_per_hour)
    return (
        moved > max(_NEWS_SHARE * alert.usd_per_hour, _NEWS_FLOOR_USD_PER_HOUR)
        or at - alert.updated_at >= update_every_s
    )


class Episode(msgspec.Struct):
    """The newest revision of an alert, and for how long it has looked over."""

    alert: Alert
    quiet_s: float = 0.0
    calm_s: float = 0.0

    @property
    def firing(self) -> bool:
        return self.alert.status == "firing"


class RunawayAlerts:
    """Alerts on spend that its own past does not explain, at most one per series."""

    def __init__(self, settings: DetectorSettings, registry: SeriesRegistry, head: DollarsHead) -> None:
        self._settings, self._alerts, self._registry, self._head = settings, settings.alerts, registry, head
        #: By series: firing, or resolved so lately that it may open again.
        self._episodes: dict[int, Episode] = {}
        #: The running excess of each series: since when (-1: none), and exact sums of the closed buckets since.
        self._excess = Columns(
            {
                "since": Column(dtype=np.int64, fill=-1),
                "expected_usd": Column(),
                "actual_usd": Column(),
                "pause_s": Column(),
            },
            64,
        )

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return [episode.alert for episode in self._episodes.values() if episode.firing]

    def firing_series(self) -> set[int]:
        """Series with an alert that fires."""
        return {i for i, episode in self._episodes.items() if episode.firing}

    def frozen(self, at: float, n: int) -> NDArray[np.bool_]:
        """Series that must not learn at `at`: an incident is no new normal, unless it lasts."""
        frozen = np.zeros(n, np.bool_)
        for i, episode in self._episodes.items():
            frozen[i] = episode.firing and at - episode.alert.fired_at < self._alerts.freeze_s
        return frozen

    def close(self, bucket: ClosedBucket, muted: Collection[int]) -> list[Alert]:
        """New revisions after a bucket; series in `muted` have another alert and open none here."""
        scores, thresholds = bucket.scores, self._settings.score
        self._excess.grow(len(bucket.cost))
        self._forget_old(bucket.at)
        self._follow_excess(bucket)
        burning = scores.rate > _CALM_RATIO * scores.expected_fast + self._alerts.calm_usd_per_hour
        high = (scores.notice >= thresholds.notice_threshold) | (scores.page >= thresholds.page_threshold)
        wants = high & burning & self._registry["detect"]
        revisions = []
        for i in sorted({*np.flatnonzero(wants).tolist(), *self._episodes}):
            alert = self._next(i, bucket, bool(wants[i]) and i not in muted, bool(burning[i]))
            if alert is not None:
                revisions.append(alert)
        return revisions

    def _forget_old(self, at: float) -> None:
        """Drop what was resolved too long ago to open again, with its sums."""
        for i, episode in list(self._episodes.items()):
            over_at = episode.alert.resolved_at
            if over_at is not None and at - over_at > self._alerts.reopen_s:
                del self._episodes[i]
                self._forget_excess(i)

    def _follow_excess(self, bucket: ClosedBucket) -> None:
        scores, excess = bucket.scores, self._excess
        over = scores.rate > _OVER_RATIO * scores.expected_fast
        begins = over & (excess["since"] < 0)
        excess["since"][begins] = bucket.start
        running = excess["since"] >= 0
        excess["expected_usd"][running] += scores.expected_rate[running] * bucket.hours
        excess["actual_usd"][running] += bucket.cost[running]
        excess["pause_s"][...] = np.where(over, 0.0, excess["pause_s"] + (bucket.end - bucket.start))
        ends = running & (excess["pause_s"] >= _PAUSE_S)
        if self._episodes:
            ends[list(self._episodes)] = False
        self._forget_excess(ends)

    def _forget_excess(self, which: Any) -> None:
        self._excess["since"][which] = -1
        for column in ("expected_usd", "actual_usd", "pause_s"):
            self._excess[column][which] = 0.0

    def _next(self, i: int, bucket: ClosedBucket, wants: bool, burning: bool) -> Alert | None:
        episode = self._episodes.get(i)
        if episode is None:
            return self._open(i, bucket) if wants else None
        if episode.firing:
            return self._update(i, episode, bucket, burning)
        return self._reopen(i, episode, bucket) if wants else None

    def _open(self, i: int, bucket: ClosedBucket) -> Alert:
        if self._excess["since"][i] < 0:
            # A small but lasting excess, seen by the long windows only: it is counted from here.
            self._excess["since"][i] = bucket.start
            self._excess["expected_usd"][i] = bucket.scores.expected_rate[i] * bucket.hours
            self._excess["actual_usd"][i] = bucket.cost[i]
        scope, tags = self._registry.scopes[i], self._registry.tags[i]
        fingerprint = fingerprint_of("runaway", scope, sorted(tags.items()))
        alert = Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, bucket.at),
            revision=1,
            status="firing",
            kind="runaway",
            scope=scope,
            tags=tags,
            fired_at=bucket.at,
            updated_at=bucket.at,
            started_at=float(self._excess["since"][i]),
            baseline=self._head.baseline(i),
            **self._figures(i, bucket, "digest"),
        )
        self._episodes[i] = Episode(alert)
        return alert

    def _reopen(self, i: int, episode: Episode, bucket: ClosedBucket) -> Alert:
        alert = revised(
            episode.alert, bucket.at, status="firing", resolved_at=None, **self._figures(i, bucket, "digest")
        )
        self._episodes[i] = Episode(alert)
        return alert

    def _update(self, i: int, episode: Episode, bucket: ClosedBucket, burning: bool) -> Alert | None:
        alert, step_s = episode.alert, bucket.end - bucket.start
        figures = self._figures(i, bucket, alert.tier)
        quiet = bucket.scores.notice[i] < self._settings.score.notice_threshold - _QUIET_MARGIN
        episode.quiet_s = episode.quiet_s + step_s if quiet else 0.0
        episode.calm_s = 0.0 if burning else episode.calm_s + step_s
        if episode.quiet_s >= self._alerts.quiet_s or episode.calm_s >= self._alerts.calm_s:
            episode.alert = resolved(alert, bucket.at, **figures)
            return episode.alert
        news = is_news(alert, bucket.at, figures["usd_per_hour"], self._alerts.update_every_s)
        if news or figures["tier"] != alert.tier:
            episode.alert = revised(alert, bucket.at, **figures)
            return episode.alert
        return None

    def _figures(self, i: int, bucket: ClosedBucket, tier_before: Tier) -> dict[str, Any]:
        scores = bucket.scores
        expected_usd, actual_usd = float(self._excess["expected_usd"][i]), float(self._excess["actual_usd"][i])
        excess_usd = actual_usd - expected_usd
        tier = self._tier(i, bucket, excess_usd, tier_before)
        rate, expected_rate = float(scores.rate[i]), float(scores.expected_fast[i])
        response_s = self._alerts.response_page_s if tier == "page" else self._alerts.response_notice_s
        channel = int(scores.channel[i])
        who = explain.subject(self._registry.scopes[i], self._registry.tags[i])
        lasting_s = bucket.end - float(self._excess["since"][i])
        return {
            "tier": tier,
            "expected_usd": expected_usd,
            "actual_usd": actual_usd,
            "excess_usd": excess_usd,
            "usd_per_hour": rate,
            "expected_usd_per_hour": expected_rate,
            "requests_per_minute": bucket.requests_per_minute(i),
            "dollars_at_risk": max(0.0, rate - expected_rate) * response_s / 3600 + max(0.0, excess_usd),
            "score": max(SILENT, float(scores.page[i] if tier == "page" else scores.notice[i])),
            "channel": _CHANNELS[channel],
            "explanation": explain.runaway(who, rate, expected_rate, lasting_s, excess_usd, WINDOW_NAMES[channel]),
        }

    def _tier(self, i: int, bucket: ClosedBucket, excess_usd: float, before: Tier) -> Tier:
        """A tier never falls while the alert fires. Planned work is a line in the digest until it is large."""
        if self._registry["planned"][i]:
            now: Tier = "notice" if excess_usd >= self._alerts.planned_notice_usd else "digest"
        else:
            now = "page" if bucket.scores.page[i] >= self._settings.score.page_threshold else "notice"
        return max(before, now, key=_RANK.__getitem__)

    def dump(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"episodes": self._episodes, "arrays": self._excess.dump("excess")}

    def load(self, episodes: Mapping[int, Episode], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._episodes = dict(episodes)
        self._excess.load("excess", arrays)
