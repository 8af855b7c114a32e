"""Tallies: what became of every record, by source and hour of receipt, and of dollars without a series of their own."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.detector.rollup.rollup import Rollup
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, DEAD_LETTER, SPEND, USAGE
from curb.stream.records.spend import (
    CostRecord,
    DeadLetter,
    IntakeReport,
    ScopeTally,
    SourceTally,
    SpendMessage,
    UsageRecord,
)
from tests.fakes.spend import T0, message, usage

HOUR = 3600


def rollup(topic: str = USAGE, partitions: int = 1, **settings: Any) -> Rollup:
    return Rollup(DetectorSettings(**settings), topic, partitions, name=f"{topic}/0")


def tallies(subject: Rollup, *messages: Message) -> list[SourceTally | ScopeTally]:
    """What the rollup wrote of them."""
    out = [each for message in messages for each in subject.process(message)] + list(subject.flush(None))
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    lines = [line for each in out if each.topic == SPEND for line in decoder.decode_lines(each.value)]
    return [line for line in lines if isinstance(line, SourceTally | ScopeTally)]


def of_source(subject: Rollup, *messages: Message) -> SourceTally:
    (found,) = [each for each in tallies(subject, *messages) if isinstance(each, SourceTally)]
    return found


def record(id: str, at: float = T0, cost: float = 1.0, **more: Any) -> UsageRecord:
    return usage(id, at, cost, source="gateway", input_tokens=more.pop("input_tokens", 5), **more)


def test_every_record_is_counted_once_by_what_became_of_it() -> None:
    found = of_source(
        rollup(),
        message(record("1", cost_source="fallback", request_model="new"), record("2", cost=2.0), record("1")),
        message(record("3", cost=0.0, input_tokens=0)),
    )
    assert (found.source, found.hour, found.kind, found.last_at) == ("gateway", T0, "usage", T0)
    assert (found.counted, found.counted_usd, found.duplicates, found.duplicate_usd) == (3, 3.0, 1, 1.0)
    assert (found.fallback, found.fallback_usd, found.unmetered) == (1, 1.0, 1)
    assert (found.late, found.missed, found.refused, found.skewed) == (0, 0.0, {}, 0)


def test_sources_and_hours_are_apart() -> None:
    other = msgspec.structs.replace(record("3", T0 + HOUR), source="meter")
    lines = tallies(rollup(), message(record("1"), record("2", T0 + HOUR), other))
    found = [each for each in lines if isinstance(each, SourceTally)]
    wanted = {("gateway", T0, 1), ("gateway", T0 + HOUR, 1), ("meter", T0 + HOUR, 1)}
    assert {(each.source, each.hour, each.counted) for each in found} == wanted


def test_a_little_late_is_late_and_hours_late_is_missed() -> None:
    now = T0 + 6 * HOUR
    found = of_source(
        rollup(),
        message(
            record("1", now - 20, received_at=now),
            record("2", now - 600, 2.0, received_at=now),
            record("3", now - 5 * HOUR, 4.0, received_at=now),
        ),
    )
    assert (found.counted, found.late, found.missed) == (3, 1, 1.0)
    assert (found.counted_usd, found.late_usd, found.missed_usd) == (7.0, 2.0, 4.0)


def test_bills_are_late_by_nature_and_never_missed() -> None:
    bill = CostRecord(
        id="b", charge_period_start=T0, received_at=T0 + 30 * HOUR, effective_cost=9.0, tags={"team": "a"}, source="cur"
    )
    found = of_source(rollup(COSTS), Message(COSTS, encode(bill), partition=0, offset=1))
    assert (found.kind, found.counted_usd, found.late, found.missed, found.skewed) == ("costs", 9.0, 1, 0.0, 0)


def test_refused_records_are_counted_by_reason() -> None:
    bad = Message(USAGE, b'{"id": "x"}\nno json\n' + encode(record("good")), key=b"gateway", partition=0, offset=1)
    old = record("old", T0 - 50 * 24 * HOUR, 3.0, received_at=T0)
    below = record("below", T0, -2.0)
    subject = rollup()
    found = tallies(subject, message(record("first")), bad, message(old, below))
    refused: dict[str, int] = {}
    for each in found:
        if isinstance(each, SourceTally):
            for reason, count in each.refused.items():
                refused[reason] = refused.get(reason, 0) + count
    assert refused == {"missing_field": 1, "not_json": 1, "too_old": 1, "negative_cost": 1}
    assert sum(each.refused_usd for each in found if isinstance(each, SourceTally)) == 3.0


def test_a_clock_that_is_ahead_is_measured() -> None:
    found = of_source(rollup(), message(record("1", T0 + 200, received_at=T0), record("2", T0 + 10, received_at=T0)))
    assert (found.counted, found.skewed, found.skew_s) == (2, 1, 200.0)


def report(**more: Any) -> Message:
    made = IntakeReport(source="gateway", at=float(T0 + 5), **more)
    return Message(USAGE, encode(made), key=b"gateway", partition=0, offset=3)


def test_reports_of_connectors_count_and_move_no_time() -> None:
    subject = rollup()
    first = report(refused={"not_json": 3}, ignored={"spans of http": 40}, skewed=2, skew_s=900.0)
    found = of_source(subject, first, report(refused={"not_json": 1}))
    assert (found.refused, found.ignored, found.skewed, found.skew_s) == (
        {"not_json": 4},
        {"spans of http": 40},
        2,
        900.0,
    )
    assert (found.hour, found.counted, subject.time) == (T0, 0, 0.0)


def test_an_unreadable_report_is_a_dead_letter() -> None:
    for value in (b'{"type":"intake","source":1}', b'{"type":"intake","source":"s","at":1e300}'):
        (letter,) = rollup().process(Message(USAGE, value, partition=0, offset=1))
        assert letter.topic == DEAD_LETTER
        assert msgspec.json.decode(letter.value, type=DeadLetter).source == "rollup"


def test_the_names_of_what_was_ignored_are_bounded() -> None:
    found = of_source(rollup(), report(ignored={f"spans of {n}\n": 1 for n in range(50)}))
    assert len(found.ignored) == 21
    assert sum(found.ignored.values()) == 50
    assert "spans of 0?" in found.ignored


def test_folded_and_untagged_dollars_are_counted_by_scope() -> None:
    subject = rollup(guard=GuardSettings(first_series=0, max_new_series_per_minute=1))
    bare = UsageRecord(id="c", charge_period_start=T0, received_at=T0, effective_cost=4.0, tags={}, source="gateway")
    lines = tallies(subject, message(record("a", key="k1"), record("b", cost=2.0, key="k2"), bare))
    found = {each.scope: each for each in lines if isinstance(each, ScopeTally)}
    assert (found["key"].folded, found["key"].folded_usd, found["key"].hour) == (2, 6.0, T0)
    assert [usd for _, usd in found["key"].largest] == [4.0, 2.0]
    assert found["key"].largest[1][0].endswith(" / k2")
    # The second key is of the same team and model; the record without tags makes new ones.
    assert (found["team"].folded, found["team"].folded_usd) == (1, 4.0)
    # Of the origin scope, the first record lacks a region, and has a series.
    assert (found["origin"].untagged, found["origin"].untagged_usd) == (1, 1.0)


def test_tallies_of_a_source_go_to_one_partition() -> None:
    places = set()
    for topic in (USAGE, COSTS):
        subject = rollup(topic, partitions=8)
        made = subject.process(Message(topic, encode(record("1")), partition=0, offset=1))
        places |= {m.partition for m in [*made, *subject.flush(None)] if b'"source_tally"' in m.value}
    assert len(places) == 1
