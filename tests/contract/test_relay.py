"""What people tell takes effect when it was said, however it meets the spend: back-test, replay and the day agree."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode
from curb.stream.log.topics import COMMANDS, USAGE
from curb.stream.records.spend import Alert, Annotation, Feedback, Knowledge, PlannedActivity, Silence, UsageRecord
from tests.fakes.spend import T0, usage

SETTINGS = DetectorSettings(bucket_s=300, warmup_s=0.4 * 86400)
_STEPS = 500
_BURST = range(_STEPS - 80, _STEPS - 40)


def spend() -> list[UsageRecord]:
    """Two keys at a steady pace; both burn sixtyfold for a while."""
    rng = random.Random(3)
    records = []
    for step in range(_STEPS):
        at = T0 + 300 * step
        for key in ("k1", "k2"):
            cost = 0.05 * rng.uniform(0.9, 1.1) * (60 if step in _BURST else 1)
            records.append(usage(f"{key}-{step}", at, cost, received_at=at + 300 + rng.random() * 20, key=key))
    return sorted(records, key=lambda record: record.received_at)


def told() -> list[Knowledge]:
    """A plan for one key before the burst; a silence and a deploy within it."""
    begin = T0 + 300.0 * _BURST.start
    return [
        PlannedActivity(
            id="p",
            at=begin - 7000,
            tags={"api_key": "k2"},
            start=begin,
            end=begin + 20_000,
            max_usd=60.0,
            reason="load",
        ),
        Annotation(id="d", at=begin - 310, kind="deploy", tags={"api_key": "k1"}, text="release 7"),
        Silence(id="s", at=begin + 3001, matchers={"api_key": "k1"}, until=begin + 9000),
    ]


SPEND = spend()


def run(events: Sequence[UsageRecord | Knowledge], *, tick: bool) -> list[Alert]:
    """The alerts of everything in this order; with `tick`, time comes to each event before it."""
    pipeline = Pipeline(SETTINGS)
    pipeline.tick(float(T0))
    for event in events:
        spent = isinstance(event, UsageRecord)
        if tick:
            pipeline.tick(event.received_at if isinstance(event, UsageRecord) else event.at)
        pipeline.feed(encode(event), USAGE if spent else COMMANDS)
    pipeline.tick(max(record.received_at for record in SPEND) + 3600)
    assert not pipeline.dead_letters
    return pipeline.alerts


@pytest.fixture(scope="module")
def as_it_happened() -> list[Alert]:
    def when(event: UsageRecord | Knowledge) -> float:
        return event.received_at if isinstance(event, UsageRecord) else event.at

    return run(sorted([*SPEND, *told()], key=when), tick=True)


@pytest.mark.parametrize("first", ["spend", "told"])
def test_what_comes_first_changes_nothing(as_it_happened: list[Alert], first: str) -> None:
    events = [*SPEND, *told()] if first == "spend" else [*told(), *SPEND]
    assert run(events, tick=False) == as_it_happened


def test_a_verdict_said_later_changes_nothing_before_it(as_it_happened: list[Alert]) -> None:
    first = next(alert for alert in as_it_happened if alert.kind != "pricing")
    at = first.fired_at + 4000
    verdict = Feedback(id="f", at=at, alert_id=first.alert_id, verdict="real")
    found = run([*told(), verdict, *SPEND], tick=False)
    before = [alert for alert in as_it_happened if alert.updated_at < at]
    assert msgspec.json.encode(found[: len(before)]) == msgspec.json.encode(before)
