"""Scores all series of one partition of the spend topic: closes buckets as time passes and raises alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.alerts import Episode, RunawayAlerts
from detector.arrays import Packed, pack, unpack
from detector.buckets import OpenBuckets
from detector.budgets import BudgetDump, Budgets
from detector.closed import ClosedBucket
from detector.dollars import DollarsHead, Scores, Step
from detector.new_principal import Newcomer, NewPrincipalAlerts
from detector.pricing import PricingAlerts, Unpriced
from detector.series import SeriesRegistry
from detector.settings import DetectorSettings
from detector.spend_lines import PartialRun, read
from detector.watermark import Watermark
from stream import metrics
from stream.codec import encode
from stream.log import Message
from stream.records import Alert, BudgetStatus, SpendTick
from stream.topics import ALERTS

#: The first tick opens buckets at most this far back; what is older counts in totals only.
_HEAD_START_S = 7200
#: So long a silence is scored step by step, which ends every alert; the rest is skipped.
_STEPPED_SILENCE_S = 3 * 3600
_DAY_S = 86400
#: A shard that has events in this share of its buckets is never silent by itself: silence is a gap in the feed.
_BUSY = 0.5


class SeriesStatus(NamedTuple):
    """One series now, for people."""

    scope: str
    tags: dict[str, str]
    #: 5-minute averages.
    usd_per_hour: float
    expected_usd_per_hour: float
    today_usd: float
    total_usd: float


class _Snapshot(msgspec.Struct):
    closed_until: int | None
    stream_since: float
    busy: float
    silent_steps: int
    ticks: dict[str, float]
    series: list[tuple[str, bytes, int]]
    today: int
    episodes: dict[int, Episode]
    newcomers: dict[int, Newcomer]
    budgets: BudgetDump
    models: dict[str, Unpriced]
    arrays: dict[str, dict[str, Packed]]


class Shard:
    """The state of one partition of the spend topic; a `PartitionState` that answers alerts."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._registry = SeriesRegistry(settings.scopes, settings.time_zone)
        self._head = DollarsHead(settings.score, settings.bucket_s, settings.time_zone)
        self._runaway = RunawayAlerts(settings, self._registry, self._head)
        self._newcomers = NewPrincipalAlerts(settings, self._registry)
        self._budgets = Budgets(settings, self._registry)
        self._pricing = PricingAlerts()
        self._open = OpenBuckets()
        self._watermark = Watermark(settings.max_skew_s)
        #: Every bucket that starts before this is closed; None until time is known.
        self._closed_until: int | None = None
        self._stepped = False
        self._stream_since = 0.0
        self._busy, self._silent_steps = 1.0, 0
        self._scores: Scores | None = None

    # --- as a PartitionState --------------------------------------------------------------------------------------

    #: Shards do not wait for one another.
    time = 0.0

    def process(self, message: Message) -> Sequence[Message]:
        """Count partial sums; at a tick, close what is due. Returns alerts."""
        alerts: list[Alert] = []
        for part in read(message, self._registry.number):
            if isinstance(part, PartialRun):
                self._take(part)
            elif isinstance(part, SpendTick):
                alerts += self._pass(self._watermark.advance(part.source, part.at))
            else:
                self._pricing.note(part)
        return [Message(ALERTS, encode(alert), key=alert.fingerprint.encode()) for alert in alerts]

    def flush(self, now: float | None) -> Sequence[Message]:
        """Nothing gathers here: time comes from ticks on the log, so that a replay sees the same."""
        metrics.SERIES.set(len(self._registry))
        metrics.ALERTS_FIRING.set(len(self.firing))
        if self._closed_until is not None:
            metrics.DETECTOR_TIME.set(self._closed_until)
        return ()

    def snapshot(self) -> bytes:
        """The state, exactly."""
        series, runaway, newcomers = self._registry.dump(), self._runaway.dump(), self._newcomers.dump()
        budgets, budget_arrays = self._budgets.dump()
        arrays = {
            "series": series["arrays"],
            "head": self._head.dump() if self._stepped else {},
            "excess": runaway["arrays"],
            "principal": newcomers["arrays"],
            "budget": budget_arrays,
            "open": self._open.dump(),
        }
        state = _Snapshot(
            closed_until=self._closed_until,
            stream_since=self._stream_since,
            busy=self._busy,
            silent_steps=self._silent_steps,
            ticks=self._watermark.ticks,
            series=series["series"],
            today=series["today"],
            episodes=runaway["episodes"],
            newcomers=newcomers["newcomers"],
            budgets=budgets,
            models=self._pricing.dump(),
            arrays={part: pack(each) for part, each in arrays.items()},
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        arrays = {part: unpack(each) for part, each in state.arrays.items()}
        self._closed_until, self._stream_since = state.closed_until, state.stream_since
        self._busy, self._silent_steps = state.busy, state.silent_steps
        self._watermark.ticks = state.ticks
        self._registry.load(state.series, state.today, arrays["series"])
        self._open.load(arrays["open"])
        self._runaway.load(state.episodes, arrays["excess"])
        self._newcomers.load(state.newcomers, arrays["principal"])
        self._budgets.load(state.budgets, arrays["budget"])
        self._pricing.load(state.models)
        if arrays["head"]:
            self._head.load(arrays["head"])
            self._stepped = True

    # --- for people -----------------------------------------------------------------------------------------------

    @property
    def series_count(self) -> int:
        """How many series there are."""
        return len(self._registry)

    @property
    def event_time(self) -> float | None:
        """Up to when buckets are closed, epoch seconds; None before the first tick."""
        return None if self._closed_until is None else float(self._closed_until)

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [*self._runaway.firing, *self._newcomers.firing, *self._budgets.firing, *self._pricing.firing]

    def budgets(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Where every budget stands, with the tags of its series."""
        return self._budgets.status()

    def top(self, count: int, scope: str | None = None) -> list[SeriesStatus]:
        """The series that burn most now, of one scope or all; by rate, then by total."""
        n, scores = len(self._registry), self._scores
        rate, expected = np.zeros(n), np.zeros(n)
        if scores is not None:
            rate[: len(scores.rate)], expected[: len(scores.rate)] = scores.rate, scores.expected_fast
        order = np.lexsort((-self._registry["total_usd"], -rate)).tolist()
        shown = [i for i in order if scope is None or self._registry.scopes[i] == scope][:count]
        return [self._status(i, float(rate[i]), float(expected[i])) for i in shown]

    def totals(self, scope: str) -> list[tuple[dict[str, str], float]]:
        """Tags and dollars of all time of every series of a scope."""
        total = self._registry["total_usd"]
        return [
            (self._registry.tags[i], float(total[i])) for i, each in enumerate(self._registry.scopes) if each == scope
        ]

    def _status(self, i: int, rate: float, expected: float) -> SeriesStatus:
        today, total = float(self._registry["today_usd"][i]), float(self._registry["total_usd"][i])
        return SeriesStatus(self._registry.scopes[i], self._registry.tags[i], rate, expected, today, total)

    # --- counting and closing -------------------------------------------------------------------------------------

    def _take(self, run: PartialRun) -> None:
        self._registry.add_cost(run.index, run.cost, run.bucket)
        until = self._closed_until
        if until is not None:
            late = run.bucket < until
            if late.any():
                self._take_late(run.index[late], run.cost[late], run.bucket[late], until)
                keep = ~late
                run = PartialRun(run.index[keep], run.bucket[keep], run.cost[keep], run.requests[keep])
        for start in np.unique(run.bucket).tolist():
            of = run.bucket == start
            self._open.add(start, run.index[of], run.cost[of], run.requests[of], len(self._registry))

    def _take_late(
        self, index: NDArray[np.int64], cost: NDArray[np.float64], bucket: NDArray[np.int64], until: int
    ) -> None:
        metrics.EVENTS_LATE.inc(len(index))
        newest = until - self._settings.bucket_s
        self._budgets.late(index, cost, bucket, newest)
        if not self._stepped:
            return
        self._grow(newest)
        for start in np.unique(bucket).tolist():
            of = bucket == start
            self._head.late(index[of], cost[of], start)

    def _grow(self, first_seen: int) -> None:
        if self._head.n < len(self._registry):
            self._head.grow(len(self._registry), first_seen)

    def _pass(self, time: float) -> list[Alert]:
        """Close every bucket whose end and grace are over at `time`."""
        bucket_s = self._settings.bucket_s
        due = int((time - self._settings.grace_s) // bucket_s) * bucket_s
        if self._closed_until is None:
            if self._open.first is None:
                return []
            self._stream_since = max(float(self._open.first), time - _HEAD_START_S)
            self._closed_until = self._align(self._stream_since)
            self._drop_older(self._closed_until)
        alerts: list[Alert] = []
        while self._closed_until < due:
            start = self._closed_until
            silent = start not in self._open
            self._silent_steps = self._silent_steps + 1 if silent else 0
            if self._silent_steps * bucket_s > _STEPPED_SILENCE_S:
                alerts += self._skip(start, due)
                continue
            alerts += self._close(start, silent)
            self._closed_until = start + bucket_s
        return alerts

    def _align(self, time: float) -> int:
        return int(time // self._settings.bucket_s) * self._settings.bucket_s

    def _drop_older(self, until: int) -> None:
        """Buckets before the stream's begin are in the totals; they are not scored."""
        while (first := self._open.first) is not None and first < until:
            self._open.pop(first, len(self._registry))

    def _skip(self, start: int, due: int) -> list[Alert]:
        """Pass over a long silence, up to the next bucket with events or `due`."""
        first = self._open.first
        end = due if first is None else min(due, first)
        steps = (end - start) // self._settings.bucket_s
        self._grow(start)
        self._head.skip(steps, start)
        self._silent_steps += steps - 1
        self._closed_until = end
        newest = end - self._settings.bucket_s
        at = end + self._settings.grace_s
        return [*self._budgets.roll(newest, at), *self._pricing.close(at)]

    def _close(self, start: int, silent: bool) -> list[Alert]:
        with metrics.TICK_SECONDS.time():
            n, bucket_s = len(self._registry), self._settings.bucket_s
            self._grow(start)
            self._registry.begin_day(start, lambda since: self._open.peek_cost(since, n))
            cost, requests = self._open.pop(start, n)
            frozen = self._runaway.frozen(start, n)
            gap = silent and self._busy > _BUSY
            self._busy += (float(not silent) - self._busy) * bucket_s / _DAY_S
            scores = self._head.step(Step(start, cost, requests, gap, frozen))
            self._stepped = True
            self._scores = scores
            end = start + bucket_s
            bucket = ClosedBucket(start, end, end + self._settings.grace_s, cost, scores)
            return self._alerts(bucket)

    def _alerts(self, bucket: ClosedBucket) -> list[Alert]:
        alerts = self._newcomers.close(bucket, self._stream_since, self._runaway.firing_series())
        alerts += self._runaway.close(bucket, self._newcomers.firing_series())
        alerts += self._budgets.close(bucket)
        alerts += self._pricing.close(bucket.at)
        for alert in alerts:
            if alert.revision == 1:
                metrics.ALERTS.labels(kind=alert.kind, tier=alert.tier).inc()
        return alerts
