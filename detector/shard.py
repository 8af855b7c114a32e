"""Scores all series of one partition of the spend topic: closes buckets as time passes and raises alerts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from curb.detector.budgets.tracker import BudgetDump, Budgets
from curb.detector.forecast.spend_history import SpendHistory
from curb.detector.incidents.incidents import Episode
from curb.detector.incidents.knowledge import Knowledge, KnowledgeDump
from curb.detector.incidents.unpriced import PricingAlerts, Unpriced
from curb.detector.judge import Scoring
from curb.detector.settings import DetectorSettings
from curb.detector.state.amounts import Amounts
from curb.detector.state.arrivals import Arrival, Arrivals, SavedArrival
from curb.detector.state.bucket import Scores
from curb.detector.state.buckets import OpenBuckets
from curb.detector.state.columns import Packed, pack, unpack
from curb.detector.state.reader import PartialRun, columns, read
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.ticks import ScopeTotals, Watermark
from curb.detector.state.view import Raised
from curb.stream import metrics
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS
from curb.stream.records.spend import Alert, BudgetIncrease, BudgetStatus, PricingHole, SpendTick
from curb.stream.time import DAY_S

#: Scoring starts this many seconds before the first tick; older records count in totals only. Chosen by hand.
_HEAD_START_S = 7200
#: Seconds of silence that are scored step by step, which ends every alert; the rest is skipped. Chosen by hand.
_STEPPED_SILENCE_S = 3 * 3600
#: In a shard with events in this share of its buckets, silence is a gap in the feed, not of spend. Chosen by hand.
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
    ticks: dict[str, tuple[float, bool]]
    arrivals: list[SavedArrival]
    since: float
    series: list[tuple[str, bytes, int]]
    today: int
    episodes: dict[int, Episode]
    knowledge: KnowledgeDump
    budgets: BudgetDump
    models: dict[str, Unpriced]
    arrays: dict[str, dict[str, Packed]]
    spent: dict[str, float] | None = None


class Shard:
    """The state of one partition of the spend topic; a `PartitionState` that returns alerts."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._registry = SeriesRegistry(settings.scopes, settings.time_zone)
        self._knowledge = Knowledge(settings.scopes, settings.time_zone)
        self._scoring = Scoring(settings, self._registry, self._knowledge)
        self.history = SpendHistory(settings.forecast.history, settings.time_zone, settings.bucket_s)
        self._budgets = Budgets(settings, self._registry)
        self._pricing = PricingAlerts()
        self._open = OpenBuckets()
        self._watermark = Watermark(settings.max_skew_s)
        self._spent = ScopeTotals(settings.scopes)
        self._arrivals = Arrivals()
        #: Scoring starts no earlier than this; records before the first ticks count in totals only.
        self._since = math.inf
        #: Every bucket that starts before this is closed; None until time is known.
        self._closed_until: int | None = None
        self._stream_since = 0.0
        self._busy, self._silent_steps = 1.0, 0
        self._scores: Scores | None = None
        #: Its partition, known from the first message.
        self._partition: int | None = None

    # --- as a PartitionState --------------------------------------------------------------------------------------

    #: Shards do not wait for one another.
    time = 0.0

    def process(self, message: Message) -> Sequence[Message]:
        """Count partial sums; at a tick, close what is due. Returns alerts."""
        return [each for step in self.steps(message) for each in step]

    def steps(self, message: Message) -> Iterator[Sequence[Message]]:
        """The same, bucket by bucket."""
        source, self._partition = message.key.decode(), message.partition
        for part in read(message):
            if isinstance(part, SpendTick):
                if part.at and not self._watermark.of(part.source):
                    self._since = min(self._since, part.at - _HEAD_START_S)
                self._spent.add(part)
                for alerts in self._pass(self._watermark.advance(part)):
                    shown = map(self._with_share, alerts)
                    yield [Message(ALERTS, encode(alert), key=alert.fingerprint.encode()) for alert in shown]
                continue
            # Buckets that its own input had passed are late, however far the other inputs are.
            due = max(self._edge(self._watermark.of(source)), self._closed_until or 0)
            if isinstance(part, PricingHole):
                self._arrivals.add(Arrival(due, source, hole=part))
            elif isinstance(part, list):
                self._arrivals.add(Arrival(due, source, part))
            else:
                self._arrivals.add(Arrival(due, source, knowledge=part))

    def _with_share(self, alert: Alert) -> Alert:
        number = self._registry.find(alert.scope, msgspec.json.encode(alert.tags))
        if number is None:
            return alert
        total_usd = float(self._registry["total_usd"][number])
        # Spend over a budget may have been normal for long.
        excess_usd = 0.0 if alert.kind == "budget" else alert.excess_usd
        return msgspec.structs.replace(alert, share=self._spent.share(alert.scope, total_usd, excess_usd))

    def flush(self, now: float | None) -> Sequence[Message]:
        """Update metrics. No output waits here: time comes from ticks on the log, so that a replay sees the same."""
        metrics.SERIES.set(len(self._registry))
        metrics.ALERTS_FIRING.set(len(self.firing))
        if self._closed_until is not None:
            metrics.DETECTOR_TIME.set(self._closed_until)
        if self._partition is not None:
            for tier, points in self.raised._asdict().items():
                metrics.THRESHOLD_RISE.labels(partition=str(self._partition), tier=tier).set(points)
        return ()

    def snapshot(self) -> bytes:
        """The state, exactly."""
        series = self._registry.dump()
        episodes, scoring = self._scoring.dump()
        budgets, budget_arrays = self._budgets.dump()
        arrays = {**scoring, "series": series["arrays"], "budget": budget_arrays, "open": self._open.dump()}
        arrays["history"] = self.history.dump()
        state = _Snapshot(
            closed_until=self._closed_until,
            stream_since=self._stream_since,
            busy=self._busy,
            silent_steps=self._silent_steps,
            ticks=self._watermark.ticks,
            arrivals=self._arrivals.dump(),
            since=self._since,
            series=series["series"],
            today=series["today"],
            episodes=episodes,
            knowledge=self._knowledge.dump(),
            budgets=budgets,
            models=self._pricing.dump(),
            spent=self._spent.dump(),
            arrays={part: pack(each) for part, each in arrays.items()},
        )
        return msgspec.msgpack.encode(state)

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        arrays = {part: unpack(each) for part, each in state.arrays.items()}
        self._closed_until, self._stream_since = state.closed_until, state.stream_since
        self._busy, self._silent_steps = state.busy, state.silent_steps
        self._watermark.ticks, self._since = state.ticks, state.since
        self._arrivals.load(state.arrivals)
        self._registry.load(state.series, state.today, arrays["series"])
        self._open.load(arrays["open"])
        if "history" in arrays:
            self.history.load(arrays["history"], self._registry.scopes)
        self._scoring.load(state.episodes, arrays)
        self._knowledge.load(state.knowledge)
        self._budgets.load(state.budgets, arrays["budget"])
        self._pricing.load(state.models)
        self._spent.load(state.spent)

    # --- for people -----------------------------------------------------------------------------------------------

    @property
    def series_count(self) -> int:
        """Number of series."""
        return len(self._registry)

    @property
    def event_time(self) -> float | None:
        """End of the newest closed bucket, epoch seconds; None before the first tick."""
        return None if self._closed_until is None else float(self._closed_until)

    @property
    def raised(self) -> Raised:
        """Points by which the thresholds of statistics are raised now, because they alerted too often."""
        return self._scoring.budget.raised

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [*self._scoring.incidents.firing, *self._budgets.firing, *self._pricing.firing]

    def budgets(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Tags and status of every budget row."""
        return self._budgets.status()

    def subject(self, i: int) -> tuple[str, dict[str, str]]:
        """Scope and tags of series `i`."""
        return self._registry.scopes[i], self._registry.tags[i]

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
        """Tags and dollars of all time of every series of a scope, with sums that wait to be scored."""
        usd = self._registry["total_usd"].copy()
        waiting: dict[bytes, float] = {}
        for part in self._arrivals.parts():
            number = self._registry.find(part.scope, bytes(part.tags))
            if number is not None:
                usd[number] += part.effective_cost
            elif part.scope == scope:
                waiting[bytes(part.tags)] = waiting.get(bytes(part.tags), 0.0) + part.effective_cost
        known = [
            (self._registry.tags[i], float(usd[i])) for i, each in enumerate(self._registry.scopes) if each == scope
        ]
        return known + [(msgspec.json.decode(tags, type=dict[str, str]), total) for tags, total in waiting.items()]

    def _status(self, i: int, rate: float, expected: float) -> SeriesStatus:
        today, total = float(self._registry["today_usd"][i]), float(self._registry["total_usd"][i])
        return SeriesStatus(self._registry.scopes[i], self._registry.tags[i], rate, expected, today, total)

    # --- counting and closing -------------------------------------------------------------------------------------

    def _take_in(self, start: int) -> bool:
        """Take in arrivals that are due before the bucket at `start` closes; returns True if some were late."""
        corrected = False
        for arrival in self._arrivals.take(start):
            if arrival.hole is not None:
                self._pricing.note(arrival.hole)
                continue
            if arrival.knowledge is not None:
                self._knowledge.add(arrival.knowledge)
                if isinstance(arrival.knowledge, BudgetIncrease):
                    self._budgets.increase(arrival.knowledge)
                continue
            run = columns(arrival.parts, self._registry.numbers)
            self._registry.add_cost(run.index, run.cost, run.bucket)
            late = run.bucket < start
            if late.any():
                self._correct(run.where(late), start - self._settings.bucket_s)
                corrected = True
                run = run.where(~late)
            for bucket in np.unique(run.bucket).tolist():
                of = run.where(run.bucket == bucket)
                self._open.add(bucket, of.index, of.values, len(self._registry))
        return corrected

    def _correct(self, late: PartialRun, newest: int) -> None:
        """Correct windows and budgets by late sums; `newest` is the bucket closed last."""
        metrics.EVENTS_LATE.inc(len(late.index))
        self._budgets.late(late.index, late.cost, late.bucket, newest)
        self.history.grow(self._registry.scopes)
        self.history.late(late.index, late.cost, late.bucket)
        self._scoring.grow(newest)
        for start in np.unique(late.bucket).tolist():
            of = late.where(late.bucket == start)
            self._scoring.late(of.index, of.scored_cost, start)

    def _pass(self, time: float) -> Iterator[list[Alert]]:
        """Close every bucket whose end and grace are over at `time`; the alerts of each."""
        bucket_s, due = self._settings.bucket_s, self._edge(time)
        if self._closed_until is None:
            first = self._arrivals.first_bucket
            if first is None or time <= 0:  # no record yet, or not from every input
                return
            self._stream_since = max(float(first), self._since)
            self._closed_until = self._align(self._stream_since)
        while self._closed_until < due:
            start = self._closed_until
            corrected = self._take_in(start)
            silent = start not in self._open
            # A feed whose records are all late, such as a bill, is not silent: its dollars may pass a budget.
            self._silent_steps = self._silent_steps + 1 if silent and not corrected else 0
            if self._silent_steps * bucket_s > _STEPPED_SILENCE_S:
                yield self._skip(start, due)
                continue
            alerts = self._close(start, silent)
            self._closed_until = start + bucket_s
            yield alerts

    def _edge(self, time: float) -> int:
        """Every bucket that starts before this has ended, with its grace, at `time`."""
        return self._align(time - self._settings.grace_s)

    def _align(self, time: float) -> int:
        return int(time // self._settings.bucket_s) * self._settings.bucket_s

    def _skip(self, start: int, due: int) -> list[Alert]:
        """Pass over a long silence, up to the next bucket with events or `due`."""
        coming = [first for first in (self._open.first, self._arrivals.first_bucket) if first is not None]
        end = max(
            start + self._settings.bucket_s, min([due, *(self._align(first) for first in coming if first > start)])
        )
        steps = (end - start) // self._settings.bucket_s
        self._scoring.grow(start)
        self._scoring.skip(steps, start)
        self.history.grow(self._registry.scopes)
        self.history.skip(start, end, self._busy > _BUSY)
        self._silent_steps += steps - 1
        self._closed_until = end
        newest = end - self._settings.bucket_s
        at = end + self._settings.grace_s
        return [*self._budgets.roll(newest, at), *self._pricing.close(at)]

    def _close(self, start: int, silent: bool) -> list[Alert]:
        with metrics.TICK_SECONDS.time():
            n, bucket_s = len(self._registry), self._settings.bucket_s
            self._scoring.grow(start)
            self._registry.begin_day(start, lambda since: self._open.peek_cost(since, n))
            self._knowledge.expire(start)
            gap = silent and self._busy > _BUSY
            self._busy += (float(not silent) - self._busy) * bucket_s / DAY_S
            amounts = Amounts(*self._open.pop(start, n))
            self.history.grow(self._registry.scopes)
            self.history.close(start, amounts.cost, gap)
            bucket, alerts = self._scoring.close(start, amounts, gap, self._stream_since)
            self._scores = bucket.scores
            bucket = replace(bucket, amounts=amounts)  # announced, scored or not, money is spent
            alerts += self._budgets.close(bucket)
            alerts += self._pricing.close(bucket.at)
            for alert in alerts:
                if alert.revision == 1:
                    metrics.ALERTS.labels(kind=alert.kind, tier=alert.tier).inc()
            return alerts
