"""A detector that gets its past late: made again, it is what it had been if the past had come in time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

from curb.detector.rebuild import LearningShard
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import ALERTS, SPEND, USAGE
from curb.stream.records.spend import Alert, UsageRecord
from curb.stream.work.worker import Worker
from tests.fakes.memory_log import MemoryLog

pytestmark = pytest.mark.long

BUCKET_S = 900
SETTINGS = DetectorSettings(bucket_s=BUCKET_S)
START = 1_750_032_000  # a Monday
DAYS, KNOWN = 9, 7
CUT = START + KNOWN * 86400
RUNS_AWAY = range(CUT + 20 * 3600, CUT + 26 * 3600)


def stream(days: int = DAYS, step_s: int = BUCKET_S) -> Iterator[UsageRecord]:
    """Five keys with a rhythm of the day, on time; one runs away in the night of the eighth day."""
    rng = np.random.default_rng(7)
    for at in range(START, START + days * 86400, step_s):
        rhythm = 1.0 + 0.8 * math.sin((at % 86400) / 86400 * 2 * math.pi)
        for key in range(5):
            usd = step_s / 3600 * (1 + key) * rhythm * rng.uniform(0.8, 1.2)
            if key == 3 and at in RUNS_AWAY:
                usd *= 12
            yield UsageRecord(
                id=f"{key}/{at}",
                charge_period_start=float(at),
                received_at=float(at + step_s),
                effective_cost=usd,
                tags={"team": "search", "project": "p", "api_key": f"key-{key}", "model": "gpt-4o"},
                source="gateway",
                requests=int(40 * usd) + 1,
                input_tokens=int(9000 * usd),
            )


class Detector:
    """Rollup and shard over one partition, and all that lies between them."""

    def __init__(self) -> None:
        self.rollup = Rollup(SETTINGS, USAGE, 1, "curb.usage/0", live=False)
        self.shard = LearningShard(SETTINGS)
        self.messages: list[Message] = []
        self.alerts: list[Alert] = []

    def give(self, records: Sequence[UsageRecord]) -> None:
        for first in range(0, len(records), 500):
            self._pass_on(self.rollup.process(Message(USAGE, encode_lines(records[first : first + 500]), partition=0)))

    def tick(self, at: float) -> None:
        self._pass_on(self.rollup.flush(at))

    def live(self, records: Sequence[UsageRecord]) -> None:
        """Records as they are received, with a tick at each bucket's close."""
        received: dict[float, list[UsageRecord]] = {}
        for record in records:
            received.setdefault(record.received_at, []).append(record)
        for at, together in sorted(received.items()):
            self.give(together)
            self.tick(at + SETTINGS.grace_s)

    def rebuild(self) -> None:
        rebuild = self.shard.rebuild()
        for message in self.messages:
            rebuild.note(message)
        for message in self.messages:
            for _ in rebuild.steps(message):
                pass
        self.shard, said = rebuild.finish(self.shard)
        self._say(said)

    def _pass_on(self, messages: Sequence[Message]) -> None:
        for message in messages:
            assert message.topic == SPEND
            self.messages.append(message)
            self._say(self.shard.process(message))
            if self.shard.wants_rebuild:
                self.rebuild()

    def _say(self, messages: Sequence[Message]) -> None:
        self.alerts += [msgspec.json.decode(message.value, type=Alert) for message in messages]

    def rows(self, since: float) -> list[tuple[object, ...]]:
        """Every revision since then; that records came twice is another matter."""
        return [
            (alert.alert_id, alert.revision, alert.status, alert.tier, alert.channel, round(alert.excess_usd, 6))
            for alert in self.alerts
            if alert.updated_at > since and alert.kind != "feed"
        ]


@pytest.fixture(scope="module")
def always_live() -> Detector:
    detector = Detector()
    detector.live(list(stream()))
    return detector


def taught(past: Sequence[UsageRecord]) -> Detector:
    """A detector that began at the cut and got the past afterwards, within a minute."""
    detector = Detector()
    detector.tick(CUT + 1)
    for record in past:
        record.received_at = CUT + 60.0
    detector.give(list(past))
    detector.live([record for record in stream() if record.charge_period_start >= CUT])
    return detector


def past_records(step_s: int = BUCKET_S) -> list[UsageRecord]:
    return list(stream(KNOWN, step_s))


def test_a_past_that_came_late_teaches_what_it_had_taught_in_time(always_live: Detector) -> None:
    past = past_records()
    for record in past:
        record.backfilled = True
    detector = taught(past)
    assert detector.rows(CUT) == always_live.rows(CUT)
    assert any(alert.tier == "page" and alert.tags["api_key"] == "key-3" for alert in detector.alerts)
    assert not [alert for alert in detector.alerts if alert.updated_at < CUT]
    assert dict(map(_text, detector.shard.totals("key"))) == pytest.approx(
        dict(map(_text, always_live.shard.totals("key")))
    )


def test_without_its_past_it_cannot_page(always_live: Detector) -> None:
    detector = taught([])
    paged = [alert for alert in detector.alerts if alert.tier == "page"]
    assert not paged
    assert [alert for alert in always_live.alerts if alert.tier == "page"]


def test_order_and_repeats_of_the_past_do_not_matter(always_live: Detector) -> None:
    past = past_records()
    past = [*reversed(past), *past_records()]
    assert taught(past).rows(CUT) == always_live.rows(CUT)


def test_rows_about_an_hour_are_spread_over_it(always_live: Detector) -> None:
    detector = taught(past_records(3600))
    assert {(row[0], row[3]) for row in detector.rows(CUT)} == {(row[0], row[3]) for row in always_live.rows(CUT)}
    expected = next(alert.expected_usd_per_hour for alert in detector.alerts if alert.tier == "page")
    usual = next(alert.expected_usd_per_hour for alert in always_live.alerts if alert.tier == "page")
    assert expected == pytest.approx(usual, rel=0.2)


def test_an_alert_of_an_untaught_detector_ends_when_it_is_taught() -> None:
    before = LearningShard(SETTINGS)
    after = before.rebuild()
    firing = _alert("0123456789abcdef-1")
    before._scoring.incidents.load({0: _episode(firing)}, before._scoring.dump()[1]["excess"])
    _, said = after.finish(before)
    found = [msgspec.json.decode(message.value, type=Alert) for message in said]
    assert [(alert.alert_id, alert.status, alert.revision) for alert in found] == [(firing.alert_id, "resolved", 2)]


async def test_the_worker_learns_a_past_while_live_spend_goes_on() -> None:
    log, clock = MemoryLog(1), ManualClock(0.0)
    source = Detector()
    source.tick(CUT + 1)
    past = past_records()
    for record in past:
        record.received_at = CUT + 60.0
    source.give(past)
    source.live([record for record in stream() if record.charge_period_start >= CUT])
    await log.append([message._replace(partition=0) for message in source.messages])
    worker = Worker(log, "g", (SPEND,), lambda at: LearningShard(SETTINGS), clock, commit_interval_s=0.01)
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    while not worker.caught_up or worker.rebuilding:
        await asyncio.sleep(0.01)
    shard = worker.states[TopicPartition(SPEND, 0)]
    assert isinstance(shard, LearningShard)
    assert (shard.past_hours, shard.event_time) == (0, source.shard.event_time)
    assert shard.rebuilt_at > CUT
    stop.set()
    await task
    ids = {msgspec.json.decode(m.value, type=Alert).alert_id for m in log.of(ALERTS)}
    assert {alert.alert_id for alert in source.alerts if alert.status == "firing"} <= ids


def _text(total: tuple[dict[str, str], float]) -> tuple[str, float]:
    return str(sorted(total[0].items())), total[1]


def _alert(alert_id: str) -> Alert:
    return Alert(
        fingerprint=alert_id.partition("-")[0],
        alert_id=alert_id,
        revision=1,
        status="firing",
        kind="runaway",
        tier="page",
        scope="key",
        tags={},
        fired_at=1.0,
        updated_at=1.0,
        started_at=1.0,
        expected_usd=0.0,
        actual_usd=0.0,
        excess_usd=0.0,
        usd_per_hour=0.0,
        expected_usd_per_hour=0.0,
        dollars_at_risk=0.0,
        score=1.0,
        channel="x",
    )


def _episode(alert: Alert) -> object:
    from curb.detector.incidents.incidents import Episode

    return Episode(alert, 1.0, 1.0, {})
