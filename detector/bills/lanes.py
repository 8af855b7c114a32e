"""Judges each bill on its own, as far as its source says it is complete, beside a shard's usage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from curb.detector.bills.derived import BUCKET_S, bill_settings, usage_settings
from curb.detector.bills.parts import PARTS, read_parts
from curb.detector.incidents.bill_waste import BillWaste, WasteDump
from curb.detector.incidents.commitments import CommitmentDump, Commitments
from curb.detector.incidents.knowledge import KnowledgeDump
from curb.detector.rebuild import LearningShard, PastSums, Rebuild
from curb.detector.settings import DetectorSettings
from curb.detector.shard import BILLS, Shard
from curb.detector.state.reader import Numbers, PartialRun, PartialSum, columns, read
from curb.detector.state.wording import billed_until
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import Alert, Cause, Feedback, Knowledge
from curb.stream.time import DAY_S

#: Days of a first load that are learned from, at most. Chosen by hand: a quarter; an hour of them takes milliseconds.
_BASELINE_DAYS = 100.0
#: Seconds after the first tick at which inputs without a tick are given up. Chosen by hand: all have theirs at once.
_OTHERS_S = 3600.0
#: Two alerts are about the same dollars when they began within so many seconds of each other and differ by at most this
#: share. Chosen by hand: what else a team spends moves by less.
_TOGETHER_S, _SAME = 6 * 3600.0, 0.15


def by_hours(run: Sequence[PartialSum], numbers: Numbers, *, is_bill: bool = False) -> PartialRun:
    """As `columns`; what covers a day is spread over its hours, as a rollup would. Usage of a bill is dollars alone."""
    found = columns(run, numbers, is_bill=is_bill)
    covers = np.array([part.covers_s for part in run], np.int64)
    if not covers.any():
        return found
    count = np.maximum(1, covers // BUCKET_S)
    hour = np.arange(int(count.max()))
    # Hour by hour, so that what is of one bucket lies together.
    number, at = np.nonzero(hour[:, None] < count)
    begin = hour[number] * BUCKET_S
    length = np.where(covers > 0, covers, BUCKET_S)[at]
    share = (begin + BUCKET_S) / length - begin / length
    values = np.zeros((len(found.values), len(at)))
    for row, amounts in zip(values, found.values, strict=True):
        if amounts.any():  # of a bill nearly all is dollars
            row[...] = amounts[at] * share
    return PartialRun(found.index[at], found.bucket[at] + begin, values)


class BillLane(Shard):
    """The bill of one source. What its first load brings is learned from; only what goes on at its end is reported."""

    head_start_s = _BASELINE_DAYS * DAY_S
    _columns = staticmethod(by_hours)

    def __init__(self, settings: DetectorSettings, known: KnowledgeDump | None = None) -> None:
        """`known` is what people have said so far."""
        super().__init__(settings)
        if known is not None:
            self._knowledge.load(known)
        self._commitments = Commitments(settings.bills.commitments)
        self._waste = BillWaste(settings.bills.waste)
        self._due, self._first_known_at, self._judged_until = 0, 0.0, 0.0
        #: Ids of alerts that were sent, and of those that are not because another is about the same dollars.
        self._sent: set[str] = set()
        self._twins: set[str] = set()

    def steps(self, message: Message) -> Iterator[Sequence[Message]]:
        """As a shard, of messages about this bill."""
        self._partition = message.partition
        for part in read_parts(message):
            self._commitments.add(part)
            self._waste.add(part)
        if message.value.startswith(PARTS):
            return
        yield from self._steps(message, message.key.decode(errors="replace"))

    def learn(self, message: Message) -> None:
        """Take in what people say."""
        for part in read(message, 0.0, self._registry.can_hold, self._settings.bucket_s):
            if isinstance(part, Knowledge):
                self._knowledge.add(part)
            if isinstance(part, Feedback) and part.verdict != "real":
                self._commitments.accept(part.alert_id)
                self._waste.accept(part.alert_id)

    def _pass(self, time: float) -> Iterator[list[Alert]]:
        """Close what is due; an alert is sent once, as it stands then, however many hours became complete."""
        self._first_known_at = self._first_known_at or self._known_at
        if len(self._watermark.ticks) < self._watermark.inputs and self._known_at < self._first_known_at + _OTHERS_S:
            return
        first, self._due = self._closed_until is None, self._edge(time)
        changed: dict[str, Alert] = {}
        for alerts in super()._pass(time):
            changed |= {alert.alert_id: alert for alert in alerts}
            yield []
        fallen = self._fallen(changed)
        # What began and ended within the first load is history.
        due = [alert for alert in changed.values() if alert.status == "firing" or not first]
        self._find_twins(due)
        yield [self._billed(alert) for alert in due if alert.alert_id not in self._twins] + fallen

    def _fallen(self, changed: Mapping[str, Alert]) -> list[Alert]:
        """Alerts on commitments and lines on waste; new alerts on what commitments paid before are not sent."""
        if self._closed_until is None:
            return []
        sent = [alert for alert in self._spend_firing() if alert.alert_id in self._sent]
        taken = frozenset((alert.tags.get("account", ""), alert.tags.get("service", "")) for alert in sent)
        fallen = self._commitments.close(float(self._closed_until), self._judged_until, taken)
        self._twins |= {id for id, alert in changed.items() if id not in self._sent and self._commitments.covers(alert)}
        fallen += self._waste.close(float(self._closed_until), self._judged_until)
        return [self._known(alert) for alert in fallen]

    def _find_twins(self, alerts: Sequence[Alert]) -> None:
        """Note new alerts about the same dollars as another; of two, that of the scope configured first is sent."""
        place = {scope.name: at for at, scope in enumerate(self._settings.scopes)}
        firing = {alert.alert_id: alert for alert in super()._firing()}
        for alert in sorted(alerts, key=lambda each: place[each.scope]):
            if alert.alert_id in self._sent | self._twins:
                continue
            others = (firing[each] for each in sorted(self._sent & firing.keys()))
            twin = any(_same_dollars(alert, each) for each in others if each.scope != alert.scope)
            (self._twins if twin else self._sent).add(alert.alert_id)
        keep = firing.keys() | {alert.alert_id for alert in alerts}
        self._sent, self._twins = self._sent & keep, self._twins & keep

    def snapshot(self) -> bytes:
        """The state, exactly."""
        return msgspec.msgpack.encode(
            _SavedLane(
                super().snapshot(),
                self._first_known_at,
                self._judged_until,
                sorted(self._sent),
                sorted(self._twins),
                self._commitments.dump(),
                self._waste.dump(),
            )
        )

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`."""
        saved = msgspec.msgpack.decode(data, type=_SavedLane)
        super().restore(saved.shard)
        self._first_known_at, self._judged_until = saved.first_known_at, saved.judged_until
        self._commitments.load(saved.commitments)
        self._waste.load(saved.waste)
        self._known_at, self._sent, self._twins = saved.judged_until, set(saved.sent), set(saved.twins)

    def continue_alerts(self, sent: Sequence[Message]) -> Sequence[Message]:
        """As a shard."""
        messages = super().continue_alerts(sent)
        self._sent |= {alert.alert_id for alert in self._firing()}
        return messages

    def _spend_firing(self) -> list[Alert]:
        return [alert for alert in super()._firing() if alert.alert_id not in self._twins]

    def _firing(self) -> list[Alert]:
        return [*self._spend_firing(), *self._commitments.firing, *self._waste.firing]

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [
            *map(self._billed, self._spend_firing()),
            *map(self._known, [*self._commitments.firing, *self._waste.firing]),
        ]

    def _billed(self, alert: Alert) -> Alert:
        """The alert with how far the bill is known, and with the region and the meter that it is about."""
        number = self._registry.find(alert.scope, msgspec.json.encode(alert.tags))
        more = self._scoring.in_common(number) if number is not None and alert.status == "firing" else {}
        if more:
            whole = [Cause(tags=alert.tags, excess_usd=alert.excess_usd, share=1.0)]
            causes = [msgspec.structs.replace(each, tags=more | each.tags) for each in alert.causes or whole]
            alert = msgspec.structs.replace(alert, causes=causes)
        return self._known(alert)

    def _known(self, alert: Alert) -> Alert:
        """The alert with how far the bill is known."""
        known = billed_until(self._closed_until or 0)
        return msgspec.structs.replace(alert, explanation=f"{alert.explanation} {known}")

    def _judged_at(self, end: int) -> float:
        """When it is judged: a second after the bucket before it, so that no two have the same time."""
        behind = max(0, self._due - end) // self._settings.bucket_s
        self._judged_until = max(float(end), self._known_at - behind, self._judged_until)
        return self._judged_until


def _same_dollars(one: Alert, other: Alert) -> bool:
    """Whether two alerts began together and are over by the same."""
    together = abs(one.started_at - other.started_at) <= _TOGETHER_S
    return together and abs(one.excess_usd - other.excess_usd) <= _SAME * max(one.excess_usd, other.excess_usd)


class _SavedLane(msgspec.Struct):
    """State of a lane."""

    shard: bytes
    first_known_at: float
    judged_until: float
    sent: list[str]
    twins: list[str]
    commitments: CommitmentDump = msgspec.field(default_factory=CommitmentDump)
    waste: WasteDump = msgspec.field(default_factory=WasteDump)


class _Saved(msgspec.Struct):
    """State of a shard and of its lanes by source."""

    shard: bytes
    lanes: dict[str, bytes] = {}


class ShardWithBills(LearningShard):
    """A shard whose bills are judged in lanes of their own, so that neither waits for the other."""

    def __init__(self, settings: DetectorSettings, past: PastSums | None = None) -> None:
        super().__init__(usage_settings(settings), past)
        self._whole_settings, self._bill_settings = settings, bill_settings(settings)
        self._lanes: dict[str, BillLane] = {}

    def steps(self, message: Message) -> Iterator[Sequence[Message]]:
        """Of a bill in its lane, all else as a shard; what people say is for both."""
        key = message.key.decode(errors="replace")
        if key.startswith(BILLS) and self._bill_settings is not None:
            source = key.removeprefix(BILLS).rpartition("/")[0]
            if source not in self._lanes:
                self._lanes[source] = BillLane(self._bill_settings, self._knowledge.dump())
            self.note_bill(message, key)
            yield from self._lanes[source].steps(message)
            return
        if key.startswith(COMMANDS):
            for lane in self._lanes.values():
                lane.learn(message)
        yield from super().steps(message)

    def snapshot(self) -> bytes:
        """The state, exactly."""
        lanes = {source: lane.snapshot() for source, lane in self._lanes.items()}
        return msgspec.msgpack.encode(_Saved(super().snapshot(), lanes))

    def restore(self, data: bytes) -> None:
        """Bring a fresh state to `data`, also that of a version without lanes."""
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.ValidationError:
            saved = _Saved(data)
        super().restore(saved.shard)
        for source, state in saved.lanes.items():
            if self._bill_settings is not None:
                self._lanes[source] = BillLane(self._bill_settings)
                self._lanes[source].restore(state)

    def continue_alerts(self, sent: Sequence[Message]) -> Sequence[Message]:
        """As a shard, with its lanes."""
        lanes = (message for lane in self._lanes.values() for message in lane.continue_alerts(sent))
        return [*super().continue_alerts(sent), *lanes]

    @property
    def bills_judged_until(self) -> dict[str, float]:
        """Until when each bill is judged, epoch seconds, by source."""
        return {source: lane.event_time for source, lane in self._lanes.items() if lane.event_time is not None}

    def rebuild(self) -> Rebuild:
        """How it is made again, with its lanes as they are."""
        return Rebuild(self.settings, lambda past: ShardWithBills(self._whole_settings, past))

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [*super().firing, *(alert for lane in self._lanes.values() for alert in lane.firing)]
