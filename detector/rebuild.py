"""Makes a shard again from all that its partition holds, with the sums that came too late in their place.

A shard learns from buckets as they close, so the spend of the past that comes later teaches it nothing. Made again, it
is what it had been if the past had come in time. The partition is read twice: once to find these sums, once to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from curb.detector.rollup.spread import Rows, Waiting
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.amounts import AMOUNTS, PAST_S
from curb.detector.state.columns import Ints
from curb.detector.state.reader import Numbers, PartialRun, PartialSum, columns, read
from curb.detector.state.registry import SeriesRegistry
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COSTS
from curb.stream.records.revisions import resolved
from curb.stream.records.spend import Alert, SpendTick
from curb.stream.time import DAY_S

#: The amounts as `spread` cuts them: dollars, whole counts, then what belongs to samples or is of no past.
_ORDER = [
    AMOUNTS.index(name)
    for name in ("cost", "requests", "errors", "users", "input_tokens", "output_tokens", "unmetered", "refused")
]
_ORDER += [at for at in range(len(AMOUNTS)) if at not in _ORDER]
_BACK = np.argsort(_ORDER)
#: Seconds of the buckets in which the far past is judged: a fifth of the work of minutes, and as long as the shortest
#: window of the heads, so that every window learns the same spread. By hand.
_FAR_BUCKET_S = 300
#: Days before the first tick that are judged in buckets of the usual length, so that what looks at single minutes knows
#: two of each hour of the day; and days of more past from which longer buckets are worth it. By hand.
_NEAR_DAYS, _WORTH_DAYS = 2.0, 1.0


class PastSums:
    """Sums that came too late for their buckets: `note` gathers them, then `take` gives them by time.

    What is too late follows from the ticks of the sum's own input, which are the same whenever they are read.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._bucket_s, self._phase_s, self._grace_s = settings.bucket_s, settings.phase_s, settings.grace_s
        self._registry = SeriesRegistry(settings.scopes, settings.time_zone)
        self._can_hold = self._registry.can_hold
        #: The first tick of each input, and its latest so far.
        self._began: dict[str, float] = {}
        self._time: dict[str, float] = {}
        #: Parts of inputs whose first tick is still to come.
        self._early: dict[str, list[PartialSum]] = {}
        self._runs: list[tuple[PartialRun, Ints]] = []
        self._rows = Rows(np.empty((0, 1), np.int64), np.empty(0), np.empty(0), np.empty((len(AMOUNTS), 0)))
        self._waiting = Waiting(1, len(AMOUNTS), self._bucket_s, samples=True)
        #: Rows before this one wait; series here → series of the shard.
        self._next = 0
        self._until = 0
        self._number = np.empty(0, np.int64)

    def note(self, message: Message) -> None:
        """Gather from a message; messages come in order."""
        source = message.key.decode(errors="replace")
        for part in read(message, 0.0, self._can_hold, self._bucket_s, self._phase_s):
            if isinstance(part, SpendTick) and part.at:
                self._began.setdefault(part.source, part.at)
                self.advance(part)
                self._gather(self._early.pop(part.source, []), part.source)
            elif isinstance(part, list) and not source.startswith(COSTS) and not part[0].calls:
                if source in self._began:
                    self._gather(part, source)
                else:
                    self._early.setdefault(source, []).extend(part)

    def begin(self) -> None:
        """Everything was noted: from now on the past is given out."""
        self._early.clear()
        self._time = dict(self._began)
        if not self._runs:
            return
        # Times of rows, and what waits, are those before the phase.
        start = np.concatenate([run.bucket for run, _ in self._runs]).astype(np.float64) - self._phase_s
        covers = np.concatenate([covers for _, covers in self._runs]).astype(np.float64)
        series = np.concatenate([run.index for run, _ in self._runs])
        values = np.concatenate([run.values for run, _ in self._runs], axis=1)[_ORDER]
        self._runs.clear()
        order = np.argsort(start, kind="stable")
        covers[covers <= self._bucket_s] = 0.0
        self._rows = Rows(series[order][:, None], start[order], covers[order], values[:, order])
        self._number = np.full(len(self._registry), -1)

    def advance(self, tick: SpendTick) -> None:
        """Follow the tick of an input."""
        if tick.at:
            self._time[tick.source] = max(tick.at, self._time.get(tick.source, 0.0))

    def __len__(self) -> int:
        return len(self._rows.start)

    def far(self) -> int | None:
        """Until when the past is far from the first tick, epoch seconds; None where none or little of it is."""
        if not len(self) or not self._began or _FAR_BUCKET_S % self._bucket_s or self._bucket_s == _FAR_BUCKET_S:
            return None
        if self._phase_s:
            return None
        until = (min(self._began.values()) - _NEAR_DAYS * DAY_S) // _FAR_BUCKET_S * _FAR_BUCKET_S
        return int(until) if until - float(self._rows.start[0]) >= _WORTH_DAYS * DAY_S else None

    def cut_by(self, bucket_s: int) -> None:
        """Give the rest out in buckets of `bucket_s`."""
        self._waiting = self._waiting.recut(bucket_s)

    @property
    def first(self) -> int | None:
        """Start of the next bucket that has some, epoch seconds."""
        if len(self._waiting):
            return self._until + self._phase_s
        return int(self._rows.start[self._next]) + self._phase_s if self._next < len(self._rows.start) else None

    def without(self, parts: list[PartialSum], source: str) -> list[PartialSum]:
        """The parts that are not of the past."""
        if source.startswith(COSTS):
            return parts
        return [part for part in parts if not self._is_past(part, source)]

    def take(self, until: int, numbers: Numbers) -> PartialRun | None:
        """The sums of the buckets that start before `until` and were not taken yet."""
        until -= self._phase_s
        last = int(np.searchsorted(self._rows.start, until, side="left"))
        if last > self._next:
            chosen = slice(self._next, last)
            rows = self._rows
            self._waiting.add(
                Rows(rows.series[chosen], rows.start[chosen], rows.duration[chosen], rows.values[:, chosen])
            )
            self._next = last
        self._until = until
        cut = self._waiting.take(until)
        if cut is None:
            return None
        bucket = cut.bucket + self._phase_s
        return PartialRun(self._numbered(cut.series[:, 0], bucket, numbers), bucket, cut.values[_BACK])

    def _numbered(self, series: Ints, bucket: Ints, numbers: Numbers) -> Ints:
        """The shard's numbers of the series; those that it does not know yet are new at their bucket."""
        new, at = np.unique(series[self._number[series] < 0], return_index=True)
        if len(new):
            begins = bucket[self._number[series] < 0][at]
            keys = [self._registry.key(number) for number in new.tolist()]
            scopes, tags = [scope for scope, _ in keys], [bytes(tags) for _, tags in keys]
            self._number[new] = numbers(scopes, tags, begins.tolist())
        return self._number[series]

    def _is_past(self, part: PartialSum, source: str) -> bool:
        """Whether a part is from before its input began, or came too late to correct anything."""
        if part.counted_only or type(part) is not PartialSum:
            return False
        first = max(self._edge(self._began.get(source, 0.0)), self._edge(self._time.get(source, 0.0)) - PAST_S)
        return part.bucket_start < first

    def _edge(self, at: float) -> float:
        """Start of the first bucket that is not closed at `at`."""
        return (at - self._phase_s - self._grace_s) // self._bucket_s * self._bucket_s + self._phase_s

    def _gather(self, parts: Sequence[PartialSum], source: str) -> None:
        past = [part for part in parts if self._is_past(part, source)]
        if past:
            covers = np.array([part.covers_s for part in past], np.int64)
            self._runs.append((columns(past, self._registry.numbers), covers))


class Rebuild:
    """One making of a shard: `note` every message in order, then `steps` over every message again, then `finish`."""

    def __init__(self, settings: DetectorSettings, make: Callable[[PastSums], LearningShard]) -> None:
        self._settings, self._past = settings, PastSums(settings)
        self._shard = make(self._past)
        self._noting = True

    def note(self, message: Message) -> None:
        """First reading."""
        self._past.note(message)

    def steps(self, message: Message) -> Iterator[None]:
        """Second reading, bucket by bucket; what it finds is of the past and goes nowhere."""
        if self._noting:
            self._noting = False
            self._past.begin()
            yield from self._learn_far()
        for _ in self._shard.steps(message):
            yield

    def _learn_far(self) -> Iterator[None]:
        """Learn what lies days before the first tick in longer buckets: it would take most of the time."""
        until = self._past.far()
        if until is None:
            return
        settings = self._settings.model_validate({**self._settings.model_dump(), "bucket_s": _FAR_BUCKET_S})
        self._past.cut_by(_FAR_BUCKET_S)
        far = LearningShard(settings, self._past)
        yield from far.learn(until)
        self._past.cut_by(self._settings.bucket_s)
        self._shard.carry_on_from(far)

    def finish(self, before: Shard) -> tuple[LearningShard, Sequence[Message]]:
        """The new shard, and the alerts that make good what the one before it said.

        What fires now and was not said is said; what fires no more is resolved.
        """
        self._shard.leave_past()
        at = self._shard.event_time or 0.0
        old = {alert.alert_id: alert for alert in before.firing}
        new = {alert.alert_id: alert for alert in self._shard.firing}
        for alert_id in old.keys() & new.keys():  # a revision never goes back
            new[alert_id].revision = max(new[alert_id].revision, old[alert_id].revision)
        said = [resolved(old[alert_id], at) for alert_id in old if alert_id not in new]
        said += [new[alert_id] for alert_id in new if alert_id not in old]
        return self._shard, [_message(alert) for alert in said]


class LearningShard(Shard):
    """A shard that is made again when spend comes from before it knew its series."""

    def learn(self, until: int) -> Iterator[None]:
        """Close the buckets of its past that start before `until` (epoch seconds); what it finds goes nowhere."""
        for _ in self._pass(until + self._settings.grace_s):
            yield

    def carry_on_from(self, other: LearningShard) -> None:
        """Take over all that a shard with longer buckets has learned, except what it knows of single buckets.

        A fresh shard goes on where the other's last bucket ended.
        """
        Shard.restore(self, Shard.snapshot(other))
        self._budgets.end_at(other.event_time or 0.0)

    def rebuild(self) -> Rebuild:
        """How it is made again."""
        return Rebuild(self.settings, lambda past: LearningShard(self.settings, past))


def _message(alert: Alert) -> Message:
    return Message(ALERTS, encode(alert), key=alert.fingerprint.encode())
