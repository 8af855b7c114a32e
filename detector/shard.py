"""Scores all series of one partition of the spend topic: closes buckets as time passes and raises alerts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from curb.detector.budgets.status import BudgetRest
from curb.detector.budgets.tracker import BudgetDump, Budgets
from curb.detector.day_one import Watched, watched
from curb.detector.fast.alerts import FastDump, FastLane
from curb.detector.forecast.spend_history import SpendHistory
from curb.detector.incidents.feeds import FeedAlerts, FeedDump
from curb.detector.incidents.incidents import Episode
from curb.detector.incidents.knowledge import Knowledge, KnowledgeDump
from curb.detector.incidents.unpriced import PricingAlerts, Unpriced
from curb.detector.judge import Scoring
from curb.detector.settings import DetectorSettings
from curb.detector.state.amounts import PAST_S, Amounts, Purpose
from curb.detector.state.arrivals import Arrival, Arrivals, Past, SavedArrival
from curb.detector.state.bucket import Scores
from curb.detector.state.buckets import OpenBuckets
from curb.detector.state.carry_on import carry_on
from curb.detector.state.columns import Floats, Packed, pack, unpack
from curb.detector.state.homes import Homes, HomesDump
from curb.detector.state.reader import Numbers, PartialRun, PartialSum, columns, read, ticks_at_end
from curb.detector.state.registry import SeriesMoney, SeriesRegistry, SeriesStatus
from curb.detector.state.ticks import ScopeTotals, Watermark
from curb.detector.state.view import Raised
from curb.stream import metrics
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COSTS
from curb.stream.records.revisions import count_opened
from curb.stream.records.spend import Alert, BudgetStatus, PricingHole, ScopeTally, SourceTally, SpendTick
from curb.stream.time import DAY_S, HOUR_S

#: What begins the key of messages about a bill that is judged on its own; its source and its input follow.
BILLS = "bills/"
#: Scoring starts this many seconds before the first tick; older records count in totals only. Chosen by hand.
_HEAD_START_S = 7200.0
#: Seconds of silence that are scored step by step, which ends every alert; the rest is skipped. Chosen by hand.
_STEPPED_SILENCE_S = 3 * 3600
#: In a shard with events in this share of its buckets, silence is a gap in the feed, not of spend. Chosen by hand.
_BUSY = 0.5
#: Different hours of past spend from which a shard wants to be made again, and seconds without more of it until it
#: does. Chosen by hand: half a day is the least that shows a rhythm; pages of a backfill come within seconds.
_PAST_HOURS, _PAST_QUIET_S = 12, 120
#: Seconds between two times that it does, while more past comes. Chosen by hand.
_PAST_PAUSE_S = 900


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
    feeds: FeedDump | None = None
    past_hours: set[int] = set()
    past_at: int = 0
    rebuilt_at: int = 0
    fast: FastDump = msgspec.field(default_factory=FastDump)
    homes: HomesDump | None = None


class Shard:
    """The state of one partition of the spend topic; a `PartitionState` that returns alerts."""

    #: Scoring starts so many seconds before the first tick.
    head_start_s = _HEAD_START_S
    _columns = staticmethod(columns)

    def __init__(self, settings: DetectorSettings, past: Past | None = None) -> None:
        """With `past`, those sums are taken in at their time and not where they come, and nothing counts as new."""
        self._settings, self._past = settings, past
        self._registry = SeriesRegistry(settings.scopes, settings.time_zone)
        self._knowledge = Knowledge(settings.scopes, settings.time_zone)
        self._scoring = Scoring(settings, self._registry, self._knowledge)
        self.history = SpendHistory(settings.forecast.history, settings.time_zone, settings.bucket_s)
        self._budgets = Budgets(settings, self._registry)
        self._pricing = PricingAlerts()
        #: What became of the records of each source that this partition keeps.
        self.feeds = FeedAlerts(settings.scopes)
        self._homes = Homes(settings.scopes, self._registry)
        self._fast = FastLane(settings.fast, settings.scopes, settings.bucket_s, self._homes.shown)
        # Sums of buckets that did not close yet: of everything; of what only counts; of what is only judged.
        self._open, self._counted, self._judged = OpenBuckets(), OpenBuckets(), OpenBuckets()
        self._watermark = Watermark(settings.max_skew_s)
        self._spent = ScopeTotals(settings.scopes)
        self._arrivals = Arrivals()
        #: Scoring starts no earlier than this; records before the first ticks count in totals only.
        self._since = math.inf if past is None else 0.0
        #: Every bucket that starts before this is closed; None until time is known.
        self._closed_until: int | None = None
        self._stream_since = 0.0
        self._busy, self._silent_steps = 1.0, 0
        self._scores: Scores | None = None
        #: Hours of spend from before its series were known, when the newest of it came, and when it was last learned.
        self._past_hours: set[int] = set()
        self._past_at, self.rebuilt_at = 0, 0
        #: When the newest tick was known, epoch seconds, where that is not its time.
        self._known_at = 0.0
        #: Its partition, known from the first message.
        self._partition: int | None = None

    # --- as a PartitionState --------------------------------------------------------------------------------------

    #: Shards do not wait for one another.
    time = 0.0

    def process(self, message: Message) -> Sequence[Message]:
        """Count partial sums; at a tick, close what is due. Returns alerts, and what ceilings must know."""
        return [each for step in self.steps(message) for each in step]

    def steps(self, message: Message) -> Iterator[Sequence[Message]]:
        """The same, bucket by bucket."""
        source, self._partition = message.key.decode(errors="replace"), message.partition
        if source.startswith(BILLS):  # judged on their own
            self.note_bill(message, source)
        else:
            yield from self._steps(message, source)

    def note_bill(self, message: Message, source: str) -> None:
        """Note how far a bill is known, by a message of its lane."""
        for tick in ticks_at_end(message):
            self._budgets.billed_until(source, tick.at)

    def _steps(self, message: Message, source: str) -> Iterator[Sequence[Message]]:
        for part in read(message, float(self._closed_until or 0), self._registry.can_hold, *self._settings.buckets):
            if isinstance(part, Message):
                yield [part]
                continue
            if isinstance(part, SpendTick):
                if part.at and not self._watermark.of(part.source):
                    self._since = min(self._since, part.at - self.head_start_s)
                self._spent.add(part)
                self.feeds.tick(part)
                if self._past is not None:
                    self._past.advance(part)
                self._known_at = max(self._known_at, part.known_at)
                before = self._closed_until
                for alerts in self._pass(self._watermark.advance(part)):
                    yield self._messages(alerts)
                if self._past is None and self._closed_until is not None and self._closed_until != before:
                    yield self._fast.peaks(float(self._closed_until))
                continue
            # Buckets that its own input had passed are late, however far the other inputs are.
            due = max(self._edge(self._watermark.of(source)), self._closed_until or 0)
            if isinstance(part, PricingHole):
                self._arrivals.add(Arrival(due, source, hole=part))
            elif isinstance(part, SourceTally | ScopeTally):
                self.feeds.arrived(part)
                self._arrivals.add(Arrival(due, source, tally=part))
            elif isinstance(part, list):
                yield from self._count_sums(part, due, source)
            else:
                self._arrivals.add(Arrival(due, source, knowledge=part))

    def _count_sums(self, part: list[PartialSum], due: int, source: str) -> Iterator[Sequence[Message]]:
        if part[0].calls:
            self._homes.place(part)
            self._fast.loops.take(part, due)
            return
        parts = part if self._past is None else self._past.without(part, source)
        if parts:
            self._homes.place(parts)
            arrival = Arrival(due, source, parts)
            self._arrivals.add(arrival)
            yield self._messages(self._check_budgets(arrival))
        yield self._messages(self._fast.take(part))  # of the past too: its highest minutes are the ceiling

    def _check_budgets(self, arrival: Arrival) -> list[Alert]:
        """Alerts of budgets that sums reach before their bucket closes."""
        if arrival.purpose == "scored":
            return []
        touched = self._budgets.wait(arrival.parts, arrival.due)
        if not touched:
            return []
        bucket_s, grace_s = self._settings.bucket_s, self._settings.grace_s
        end = max(part.bucket_start for part in arrival.parts) + bucket_s
        at = max(part.received_at for part in arrival.parts) or end + grace_s
        if self._closed_until is not None:  # alerts do not go back behind what has closed
            at = max(at, self._closed_until + grace_s)
        alerts = self._budgets.check(touched, min(float(end), at), at)
        if self._past is None:
            count_opened(alerts)
        return alerts

    def _messages(self, alerts: Sequence[Alert]) -> list[Message]:
        shown = map(self._with_share, alerts)
        return [Message(ALERTS, encode(alert), key=alert.fingerprint.encode()) for alert in shown]

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
        arrays |= {"counted": self._counted.dump(), "judged": self._judged.dump(), "history": self.history.dump()}
        fast, arrays["fast"] = self._fast.dump()
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
            feeds=self.feeds.dump(),
            past_hours=self._past_hours,
            past_at=self._past_at,
            rebuilt_at=self.rebuilt_at,
            fast=fast,
            homes=self._homes.dump(),
            arrays={part: pack(each) for part, each in arrays.items()},
        )
        return msgspec.msgpack.encode(state)

    @property
    def snapshot_form(self) -> str:
        """Raise the number when a snapshot of the version before must not be read, though it could be."""
        bucket_s, phase_s = self._settings.buckets
        return f"1 bucket_s={bucket_s}{f'+{phase_s}' if phase_s else ''} time_zone={self._settings.time_zone}"

    def continue_alerts(self, sent: Sequence[Message]) -> Sequence[Message]:
        """Go on with alerts that were sent before this state was made again from the log."""
        return self._messages(carry_on(self._firing(), sent, self._is_own, self.event_time or 0.0))

    def _is_own(self, alert: Alert) -> bool:
        """Whether an alert is about a series of this partition; those of forecasts go on by themselves."""
        return self.number_of(alert.scope, alert.tags) is not None and not alert.channel.startswith("prophet/")

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        state = msgspec.msgpack.decode(data, type=_Snapshot)
        arrays = {part: unpack(each) for part, each in state.arrays.items()}
        self._closed_until, self._stream_since = state.closed_until, state.stream_since
        self._busy, self._silent_steps = state.busy, state.silent_steps
        self._watermark.ticks, self._since = state.ticks, state.since
        self._arrivals.load(state.arrivals)
        self._registry.load(state.series, state.today, arrays["series"])
        self._homes.load(state.homes, [arrival.parts for arrival in self._arrivals.all()])
        self._open.load(arrays["open"])
        self._counted.load(arrays.get("counted", {}))
        self._judged.load(arrays.get("judged", {}))
        if "history" in arrays:
            self.history.load(arrays["history"], self._registry.scopes)
        self._scoring.load(state.episodes, arrays)
        self._knowledge.load(state.knowledge)
        self._budgets.load(state.budgets, arrays["budget"])
        self._pricing.load(state.models)
        self._spent.load(state.spent)
        self._past_hours, self._past_at, self.rebuilt_at = state.past_hours, state.past_at, state.rebuilt_at
        self._fast.load(state.fast, arrays.get("fast", {}))
        self._wait_again()
        self.feeds.load(state.feeds)

    def _wait_again(self) -> None:
        """Give the budgets what they do not count yet."""
        for arrival in self._arrivals.all():
            if arrival.purpose != "scored":
                self._budgets.wait(arrival.parts, arrival.due)
        for buckets in (self._open, self._counted):
            for start, cost in buckets.costs():
                self._budgets.wait(self._as_parts(start, cost), start)

    def _as_parts(self, start: int, cost: Floats) -> list[PartialSum]:
        numbers = np.flatnonzero(cost[: len(self._registry)]).tolist()
        of = self._budgets.charges.of
        return [PartialSum(*self._registry.key(i), start, float(cost[i]), charges=of(start, i)) for i in numbers]

    # --- the past -------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> DetectorSettings:
        """What it was made with."""
        return self._settings

    @property
    def past_hours(self) -> int:
        """Different hours of spend from before its series were known that have taught nothing yet."""
        return len(self._past_hours)

    @property
    def wants_rebuild(self) -> bool:
        """True when there is a past to learn and no more of it comes."""
        if len(self._past_hours) < _PAST_HOURS or self._closed_until is None:
            return False
        quiet_s = self._closed_until - self._past_at
        return quiet_s >= _PAST_QUIET_S and self._closed_until - self.rebuilt_at >= _PAST_PAUSE_S

    def leave_past(self) -> None:
        """The past so far teaches nothing: it was learned, or cannot be."""
        self._past, self._past_hours, self.rebuilt_at = None, set(), self._closed_until or 0

    def _note_past(self, late: PartialRun, newest: int) -> None:
        """Note hours of spend from before their series were known, or of more than a day ago."""
        age = newest - late.bucket
        old = age > PAST_S
        if not old.any():
            return
        old &= (age > DAY_S) | (late.bucket < self._scoring.known_since(late.index))
        self._past_hours.update((late.bucket[old] // HOUR_S).tolist())
        self._past_at = newest

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
        return self._firing()

    def _firing(self) -> list[Alert]:
        of_spend = [*self._scoring.incidents.firing, *self._budgets.firing, *self._pricing.firing]
        return [*of_spend, *self.feeds.firing, *self._fast.firing]

    def budgets(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        """Tags and status of every budget row."""
        return self._budgets.status()

    def fullest_budgets(self, most: int) -> tuple[list[tuple[dict[str, str], BudgetStatus]], list[BudgetRest]]:
        """The rows that have spent the largest share of their amount, `most` of each budget, and the sums of others."""
        return self._budgets.fullest(most)

    def subject(self, i: int) -> tuple[str, dict[str, str]]:
        """Scope and tags of series `i`."""
        return self._registry.scopes[i], self._registry.tags[i]

    def number_of(self, scope: str, tags: Mapping[str, str]) -> int | None:
        """The number of a series, None if there is none."""
        return self._registry.find(scope, msgspec.json.encode(tags))

    def top(self, count: int, scope: str | None = None) -> list[SeriesStatus]:
        """The series that burn most now, of one scope or all; by rate, then by total."""
        rate, expected = self._burn()
        order = np.lexsort((-self._registry["total_usd"], -rate)).tolist()
        shown = [i for i in order if scope is None or self._registry.scopes[i] == scope][:count]
        return [self._status(i, float(rate[i]), float(expected[i])) for i in shown]

    def money(self) -> SeriesMoney:
        """Dollars and burn of every series."""
        charged, total, today = (self._registry[each].copy() for each in ("charged_usd", "total_usd", "today_usd"))
        return SeriesMoney(self._registry.scopes, self._registry.tags, charged, total, *self._burn(), today)

    def _burn(self) -> tuple[Floats, Floats]:
        """$/h of every series, and what is expected; both 0 until it is scored."""
        n, scores = len(self._registry), self._scores
        rate, expected = np.zeros(n), np.zeros(n)
        if scores is not None:
            rate[: len(scores.rate)], expected[: len(scores.rate)] = scores.rate, scores.expected_fast
        return rate, expected

    @property
    def known_s(self) -> float:
        """Seconds of the stream that were scored."""
        return 0.0 if self._closed_until is None else max(0.0, self._closed_until - self._stream_since)

    def watching(self, count: int) -> list[Watched]:
        """Series that burn far more than is expected, and why each is no alert yet; most dollars first."""
        scores, registry = self._scores, self._registry
        if scores is None or self._closed_until is None:
            return []
        n = len(scores.rate)
        left_out = self._scoring.incidents.firing_mask(n) | ~registry["detect"][:n] | registry["planned"][:n]
        age_days = np.maximum(0.0, (self._closed_until - registry["first_seen"][:n]) / DAY_S)
        return watched(scores, self.subject, age_days, left_out.tolist(), self._settings, self.raised)[:count]

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
        tags = self._registry.tags
        known = [(tags[i], float(usd[i])) for i, each in enumerate(self._registry.scopes) if each == scope]
        return known + [(msgspec.json.decode(raw, type=dict[str, str]), total) for raw, total in waiting.items()]

    def _status(self, i: int, rate: float, expected: float) -> SeriesStatus:
        today, total = float(self._registry["today_usd"][i]), float(self._registry["total_usd"][i])
        return SeriesStatus(self._registry.scopes[i], self._registry.tags[i], rate, expected, today, total)

    # --- counting and closing -------------------------------------------------------------------------------------

    def _take_in(self, start: int) -> bool:
        """Take in arrivals that are due before the bucket at `start` closes; returns True if some were late."""
        corrected = False
        self._take_past(start)
        for arrival in self._arrivals.take(start):
            if arrival.hole is not None:
                self._pricing.note(arrival.hole)
            if arrival.tally is not None:
                self.feeds.note(arrival.tally)
            if arrival.knowledge is not None:
                self._knowledge.add(arrival.knowledge)
                self._budgets.add(arrival.knowledge)
            if not arrival.parts:
                continue
            is_bill, purpose = arrival.source.startswith(COSTS), arrival.purpose
            known = self._registry.numbers if is_bill else self._known_from(start)
            run = self._columns(arrival.parts, known, is_bill=is_bill)
            if purpose != "scored":
                self._registry.add_cost(run.index, run.cost, run.bucket)
            if (late := run.bucket < start).any():
                newest, of, corrected = start - self._settings.bucket_s, run.where(late), True
                self._correct(of, newest, purpose)
                if purpose == "all" and not is_bill:  # which is always late
                    self._note_past(of, newest)
                    self._put(self._judged, of.without_usage(start))
                run = run.where(~late)
            self._budgets.charges.add(run)
            self._put({"all": self._open, "counted": self._counted, "scored": self._judged}[purpose], run)
        return corrected

    def _numbers_at_home(self, scopes: Sequence[str], tags: Sequence[bytes], seen: Sequence[int]) -> list[int]:
        return self._registry.numbers(scopes, list(map(self._homes.raw, scopes, tags)), seen)

    def _known_from(self, start: int) -> Numbers:
        """Numbers of series; a new one with spend of the past is known from the bucket at `start` on."""

        def numbers(scopes: Sequence[str], tags: Sequence[bytes], seen: Sequence[int]) -> list[int]:
            return self._registry.numbers(scopes, tags, [at if start - at <= PAST_S else start for at in seen])

        return numbers

    def _put(self, into: OpenBuckets, run: PartialRun) -> None:
        for start, index, values in run.by_bucket():
            into.add(start, index, values, len(self._registry))

    def _take_past(self, start: int) -> None:
        """Take in the past of the bucket that closes at `start`."""
        if self._past is None:
            return
        run = self._past.take(start + self._settings.bucket_s, self._numbers_at_home)
        if run is not None:
            self._registry.add_cost(run.index, run.cost, run.bucket)
            self._put(self._open, run)

    def _correct(self, late: PartialRun, newest: int, purpose: Purpose) -> None:
        """Correct windows and budgets by late sums; `newest` is the bucket closed last."""
        if purpose != "scored":
            self._budgets.late(late.index, late.cost, late.bucket, newest, late.charges)
            self.history.grow(self._registry.scopes)
            self.history.late(late.index, late.cost, late.bucket)
        if purpose == "counted":
            return
        metrics.EVENTS_LATE.inc(len(late.index))
        self._scoring.grow(newest)
        for start in np.unique(late.bucket).tolist():
            of = late.where(late.bucket == start)
            self._scoring.late(of.index, of.scored_cost, start)

    def _pass(self, time: float) -> Iterator[list[Alert]]:
        """Close every bucket whose end and grace are over at `time`; the alerts of each."""
        bucket_s, due = self._settings.bucket_s, self._edge(time)
        if self._closed_until is None:
            if time <= 0:  # not from every input
                return
            firsts = [self._arrivals.first_bucket, self._past.first if self._past is not None else None]
            first = min((each for each in firsts if each is not None), default=None)
            if first is None:  # no record yet; what was refused is reported all the same
                self._take_in(due)
                yield self.feeds.close(float(due) + self._settings.grace_s)
                return
            self._stream_since = max(float(first), self._since)
            self._closed_until = self._align(self._stream_since)
        while self._closed_until < due:
            start = self._closed_until
            corrected = self._take_in(start)
            silent = start not in self._open and start not in self._judged
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

    def _judged_at(self, end: int) -> float:
        """When a bucket that ended at `end` is judged, epoch seconds."""
        return end + self._settings.grace_s

    def _align(self, time: float) -> int:
        bucket_s, phase_s = self._settings.buckets
        return int((time - phase_s) // bucket_s) * bucket_s + phase_s

    def _skip(self, start: int, due: int) -> list[Alert]:
        """Pass over a long silence, up to the next bucket with events or `due`."""
        firsts = [self._open.first, self._judged.first, self._counted.first, self._arrivals.first_bucket]
        firsts += [] if self._past is None else [self._past.first]
        coming = [first for first in firsts if first is not None]
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
        newest, at = end - self._settings.bucket_s, self._judged_at(end)
        return [*self._budgets.roll(newest, at), *self._pricing.close(at), *self.feeds.close(at)]

    def _close(self, start: int, silent: bool) -> list[Alert]:
        with metrics.TICK_SECONDS.time():
            n, bucket_s = len(self._registry), self._settings.bucket_s
            self._scoring.grow(start)
            if self._registry.begin_day(
                start, lambda since: self._open.peek_cost(since, n) + self._counted.peek_cost(since, n)
            ):
                self._homes.begin_day()
            self._knowledge.expire(start)
            gap = silent and self._busy > _BUSY
            self._busy += (float(not silent) - self._busy) * bucket_s / DAY_S
            sums = self._open.pop(start, n)
            counted = Amounts(*(sums + self._counted.pop(start, n)))
            self.history.grow(self._registry.scopes)
            self.history.close(start, counted.cost, gap)
            judged = Amounts(*(sums + self._judged.pop(start, n)))
            at = self._judged_at(start + bucket_s)
            in_a_row, find = self._fast.in_a_row(at, self._registry.find), self._registry.find
            loops = self._fast.loops.close(start, find, self._scoring.incidents.frozen_mask(start, n), bucket_s)
            bucket, alerts = self._scoring.close(start, judged, gap, self._stream_since, at, in_a_row, loops)
            self._scores = bucket.scores
            for alert in alerts:
                self._budgets.incident(alert)
            bucket = replace(bucket, amounts=counted)  # announced, scored or not, money is spent
            alerts += self._budgets.close(bucket, self._scoring.estimated_usd)
            alerts += self._pricing.close(bucket.at)
            alerts += self.feeds.close(bucket.at)
            alerts += self._fast.close(bucket.at, self._scoring.incidents.firing)
            count_opened(alerts if self._past is None else [])
            return alerts
