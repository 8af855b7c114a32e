"""A long past is learned in longer buckets, and what is found after it is the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

from curb.detector.rebuild import LearningShard, PastSums
from curb.detector.rollup.rollup import Rollup
from curb.detector.rollup.spread import Rows, Waiting
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, USAGE
from curb.stream.records.spend import Alert, UsageRecord

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SETTINGS = DetectorSettings(bucket_s=60)
START = 1_750_032_000  # a Monday
CUT = START + 75 * 3600
END = CUT + 2 * 3600
RUNS_AWAY = range(CUT + 3600, END)


def stream(first: int, end: int) -> Iterator[UsageRecord]:
    """Three keys that call every two minutes or so; one runs away in the second hour after the cut."""
    rng = np.random.default_rng(7)
    for at in range(START, END, 120):
        rhythm = 1.0 + 0.8 * math.sin((at % 86400) / 86400 * 2 * math.pi)
        for key in range(3):
            usd = (1 + key) * rhythm * rng.uniform(0.5, 1.5) / 30
            calls = 1 + int(40 * usd)
            if key == 2 and at in RUNS_AWAY:
                usd, calls = usd * 30, calls * 30
            if first <= at < end:
                yield UsageRecord(
                    id=f"{key}/{at}",
                    charge_period_start=at + 7.0 * key,
                    received_at=at + 7.0 * key + 1,
                    effective_cost=usd,
                    tags={"team": "search", "project": "p", "api_key": f"key-{key}", "model": "gpt-4o"},
                    source="gateway",
                    requests=calls,
                    input_tokens=int(9000 * usd),
                )


class Detector:
    """Rollup and shard over one partition, with all messages between them."""

    def __init__(self) -> None:
        self.rollup = Rollup(SETTINGS, USAGE, 1, "curb.usage/0", live=False)
        self.shard = LearningShard(SETTINGS)
        self.messages: list[Message] = []
        self.alerts: list[Alert] = []

    def give(self, records: Sequence[UsageRecord], at: float) -> None:
        lines = encode_lines(records)
        found = [*self.rollup.process(Message(USAGE, lines, partition=0)), *self.rollup.flush(at)]
        for message in found:
            self.messages.append(message)
            self.alerts += decoded(self.shard.process(message))

    def live(self, records: Sequence[UsageRecord]) -> None:
        for start in range(CUT, END, 60):
            self.give([each for each in records if start <= each.received_at < start + 60], start + 60)

    def rebuild(self) -> None:
        rebuild = self.shard.rebuild()
        for message in self.messages:
            rebuild.note(message)
        for message in self.messages:
            for _ in rebuild.steps(message):
                pass
        self.shard, said = rebuild.finish(self.shard)
        self.alerts += decoded(said)


def decoded(messages: Sequence[Message]) -> list[Alert]:
    return [msgspec.json.decode(each.value, type=Alert) for each in messages if each.topic == ALERTS]


def taught() -> Detector:
    """A detector that began at the cut, got three days of past, and saw the hours after it."""
    detector = Detector()
    detector.give([], CUT + 1)
    past = list(stream(START, CUT))
    for record in past:
        record.received_at, record.backfilled = CUT + 2.0, True
    detector.give(past, CUT + 3)
    detector.rebuild()
    detector.live(list(stream(CUT, END)))
    return detector


def test_alerts_after_a_far_past_are_those_after_a_past_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = taught()
    monkeypatch.setattr(PastSums, "far", lambda self: None)
    minutes = taught()
    pages = [{each.fingerprint: each for each in one.alerts if each.tier == "page"} for one in (lots, minutes)]
    assert pages[0].keys() == pages[1].keys() != set()
    for fingerprint, wanted in pages[1].items():
        found = pages[0][fingerprint]
        assert (found.tags, found.kind) == (wanted.tags, wanted.kind)
        assert abs(found.fired_at - wanted.fired_at) <= 300
        assert abs(found.updated_at - wanted.updated_at) <= 300
        assert found.expected_usd_per_hour == pytest.approx(wanted.expected_usd_per_hour, rel=0.05)
    assert dict(map(text, lots.shard.totals("key"))) == pytest.approx(dict(map(text, minutes.shard.totals("key"))))


def text(row: tuple[dict[str, str], float]) -> tuple[str, float]:
    return row[0]["api_key"], row[1]


@pytest.mark.parametrize("duration", [0.0, 60.0, 900.0, 86400.0])
def test_a_row_that_is_cut_in_two_lengths_loses_and_doubles_nothing(duration: float) -> None:
    values = np.arange(1.0, 13.0)[:, None] * 1000 + 7
    waiting = Waiting(1, 12, 300, samples=True)
    waiting.add(Rows(np.zeros((1, 1), np.int64), np.array([START + 60.0]), np.array([duration]), values))
    found = [waiting.take(START + 7200)]
    waiting = waiting.recut(60)
    found += [waiting.take(START + 3 * 86400)]
    sums = sum(each.values.sum(axis=1) for each in found if each is not None)
    assert sums[:8] == pytest.approx(values[:8, 0])


def test_a_short_past_and_longer_buckets_are_learned_as_they_are() -> None:
    for settings in (SETTINGS, DetectorSettings(bucket_s=300), DetectorSettings(bucket_s=900)):
        assert PastSums(settings).far() is None
