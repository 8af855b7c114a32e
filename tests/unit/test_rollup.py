"""Rollup: each event once, into the right series and bucket; what cannot count is told, not lost."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from curb.detector.fast.alerts import Config as FastConfig
from curb.detector.rollup.dedupe import DedupeSettings
from curb.detector.rollup.rollup import Rollup
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, DEAD_LETTER, GPU, SPEND, USAGE
from curb.stream.records.spend import (
    OTHER,
    UNTAGGED,
    DeadLetter,
    PricingHole,
    ScopeTally,
    Slots,
    SourceTally,
    SpendMessage,
    SpendPartial,
    SpendTick,
)
from tests.fakes.spend import T0, message, usage

KEY = Scope(name="key", group_by=("api_key",), also_by=("job",))
TEAM = Scope(name="team", group_by=("team",), sources=("usage", "gpu"))


def rollup(topic: str = USAGE, partitions: int = 1, **settings: Any) -> Rollup:
    settings.setdefault("scopes", (KEY, TEAM))
    settings.setdefault("fast", FastConfig(enabled=False))
    return Rollup(DetectorSettings(**settings), topic, partitions, name="in/0")


def lines(messages: Iterable[Message]) -> list[Any]:
    """All but the tallies, which tests/unit/test_tallies.py looks at."""
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    found = [line for each in messages if each.topic == SPEND for line in decoder.decode_lines(each.value)]
    return [line for line in found if not isinstance(line, SourceTally | ScopeTally)]


def partials(messages: Iterable[Message], scope: str = "key") -> list[SpendPartial]:
    """The sums of a scope, without their time of receipt."""
    found = [line for line in lines(messages) if isinstance(line, SpendPartial) and line.scope == scope]
    assert all(line.received_at > 0 for line in found)
    return [msgspec.structs.replace(line, received_at=0.0) for line in found]


def letters(messages: Iterable[Message]) -> list[DeadLetter]:
    return [msgspec.json.decode(each.value, type=DeadLetter) for each in messages if each.topic == DEAD_LETTER]


def run(subject: Rollup, *messages: Message, now: float | None = None) -> list[Message]:
    outputs: list[Message] = []
    for each in messages:
        outputs += subject.process(each)
    return outputs + list(subject.flush(now))


def test_sums_by_series_and_bucket() -> None:
    out = run(
        rollup(),
        message(
            usage("1", T0 + 1, 1.0, received_at=T0 + 61, input_tokens=5, output_tokens=7, errors=1, users=2),
            usage("2", T0 + 59, 2.0, received_at=T0 + 61, key="k2"),
            usage("3", T0 + 58, 4.0, received_at=T0 + 62, input_tokens=1),
            usage("4", T0 + 60, 8.0, received_at=T0 + 61),
        ),
    )
    one, two = {"api_key": "k1"}, {"api_key": "k2"}
    first = SpendPartial(
        scope="key",
        tags=one,
        bucket_start=T0,
        effective_cost=5.0,
        events=2,
        requests=2,
        errors=1,
        users=2,
        input_tokens=6,
        output_tokens=7,
    )
    assert partials(out) == [
        first,
        SpendPartial(scope="key", tags=two, bucket_start=T0, effective_cost=2.0, events=1, requests=1),
        SpendPartial(scope="key", tags=one, bucket_start=T0 + 60, effective_cost=8.0, events=1, requests=1),
    ]
    assert [(p.bucket_start, p.effective_cost) for p in partials(out, "team")] == [(T0, 7.0), (T0 + 60, 8.0)]


def test_the_order_of_tags_does_not_matter_and_missing_tags_have_a_name() -> None:
    record = json.loads(encode(usage("1", T0)))
    turned = {**record, "id": "2", "tags": dict(reversed(record["tags"].items()))}
    bare = {**record, "id": "3", "tags": {}, "someday": [1]}
    out = run(rollup(), message(*[json.dumps(each).encode() for each in (record, turned, bare)]))
    assert {p.tags["api_key"]: p.effective_cost for p in partials(out)} == {"k1": 2.0, UNTAGGED: 1.0}


def test_a_job_sets_rows_apart() -> None:
    out = run(rollup(), message(usage("1", T0), usage("2", T0, tags={"job": "nightly"})))
    assert [p.tags for p in partials(out)] == [{"api_key": "k1"}, {"api_key": "k1", "job": "nightly"}]
    assert [p.events for p in partials(out, "team")] == [2]


def test_scopes_take_only_their_sources() -> None:
    samples = run(rollup(GPU), message(usage("1", T0)))
    assert not partials(samples)
    assert len(partials(samples, "team")) == 1
    assert [type(line) for line in lines(run(rollup(COSTS), message(usage("1", T0))))] == [SpendTick]


def test_a_duplicate_counts_nothing_wherever_it_comes() -> None:
    subject = rollup()
    first = run(subject, message(usage("1", T0), usage("1", T0), usage("2", T0)))
    second = run(subject, message(usage("2", T0), usage("3", T0)), message(usage("3", T0)))
    assert [p.events for p in partials(first)] == [2]
    assert [p.events for p in partials(second)] == [1]


def test_ids_are_forgotten_in_generations() -> None:
    subject = rollup(dedupe=DedupeSettings(max_ids=20, min_ids=0, window_s=3600))
    for at in range(100):
        run(subject, message(usage(str(at), T0)))
        assert len(subject._ids) <= 20
    assert not partials(run(subject, message(usage("95", T0))))
    assert partials(run(subject, message(usage("5", T0))))


def test_ids_are_remembered_at_least_for_the_window() -> None:
    subject = rollup(dedupe=DedupeSettings(min_ids=0, window_s=3600))
    run(subject, message(usage("1", T0)))
    run(subject, message(usage("2", T0 + 3600)), message(usage("3", T0 + 7000)))
    assert not partials(run(subject, message(usage("1", T0, received_at=T0 + 3599))))
    run(subject, message(usage("4", T0 + 10_700)))
    assert partials(run(subject, message(usage("2", T0, received_at=T0 + 10_700))))


def bad(**changes: Any) -> bytes:
    return json.dumps({**json.loads(encode(usage("bad", T0))), **changes}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "x", "charge_per', "not_json"),
        (b'{"id": "\xff"}', "not_utf8"),
        (b'{"id": "x"}', "missing_field"),
        (bad(id=7), "wrong_type"),
        (bad(tags=["a"]), "wrong_type"),
        (bad(tags={"team": 1}), "wrong_type"),
        (bad(requests=-1), "invalid"),
        (bad(input_tokens=10**30), "invalid"),
        (bad(effective_cost=-0.5), "negative_cost"),
        (bad().replace(b'"effective_cost": 1.0', b'"effective_cost": 1e999'), "not_finite"),
        (bad().replace(b'"effective_cost": 1.0', b'"effective_cost": NaN'), "not_json"),
        (bad(charge_period_start=0), "too_old"),
        (bad(charge_period_start=0, received_at=5), "too_old"),
        (bad(charge_period_start=T0 - 41 * 86400), "too_old"),
        (bad(charge_period_start=T0 + 400), "in_the_future"),
        (bad(charge_period_start=1e300), "in_the_future"),
        (bad(charge_period_start=4102444800, received_at=4102444800), "in_the_future"),
    ],
)
def test_what_cannot_count_is_a_dead_letter_and_the_rest_counts(line: bytes, reason: str) -> None:
    good = encode(usage("good", T0))
    out = run(rollup(), message(good, line, encode(usage("good2", T0)), offset=17))
    assert [p.events for p in partials(out)] == [2]
    (letter,) = letters(out)
    assert letter.reason == reason
    assert letter.location == f"{USAGE}/0/17#1"
    assert letter.size_bytes == len(line)
    assert [line.at for line in lines(out) if isinstance(line, SpendTick)] == [T0]


def test_bills_may_be_negative() -> None:
    scope = Scope(name="bill", group_by=("team",), sources=("costs",))
    out = run(rollup(COSTS, scopes=(scope,)), message(usage("1", T0, -3.0)))
    assert [p.effective_cost for p in partials(out, "bill")] == [-3.0]


def test_new_tag_values_past_the_limit_are_folded_and_the_total_stays() -> None:
    subject = rollup(guard=GuardSettings(first_series=0, max_new_series_per_minute=100))
    records = [usage(str(i), T0, 0.5, key=f"k{i}") for i in range(10_000)]
    out = run(subject, *[message(*records[at : at + 500]) for at in range(0, 10_000, 500)])
    costs: dict[str, float] = defaultdict(float)
    for p in partials(out):
        costs[p.tags["api_key"]] += p.effective_cost
    assert len(costs) == 101
    assert costs[OTHER] == 9_900 * 0.5
    assert sum(costs.values()) == 5_000.0
    later = run(subject, message(usage("a", T0 + 60, key="k5"), usage("b", T0 + 60, key="k9999")))
    assert {p.tags["api_key"] for p in partials(later)} == {"k5", "k9999"}


def test_ten_thousand_keys_on_the_first_day_are_ten_thousand_series() -> None:
    subject = rollup(scopes=(KEY,))
    records = [usage(str(i), T0 + i / 1000, key=f"k{i}") for i in range(10_000)]
    out = run(subject, *[message(*records[at : at + 500]) for at in range(0, 10_000, 500)])
    assert len({p.tags["api_key"] for p in partials(out)}) == 10_000


def test_folded_dollars_stay_with_their_parents_and_the_largest_are_named() -> None:
    scope = Scope(name="key", group_by=("team", "api_key"))
    subject = rollup(scopes=(scope,), guard=GuardSettings(max_series=3, first_series=3))
    known = [usage(str(i), T0, key=f"k{i}") for i in range(3)]
    many = [usage(f"new-{i}", T0 + 1, 0.01, key=f"new-{i}") for i in range(500)]
    large = usage("large", T0 + 2, 70.0, key="large")
    run(subject, message(*known))
    out = run(subject, message(*many[:250], large, *many[250:]))
    team = known[0].tags["team"]
    assert {(p.tags["team"], p.tags["api_key"]) for p in partials(out)} == {(team, OTHER)}
    (tags, usd), *_ = subject.largest_folded()["key"]
    assert (tags["api_key"], round(usd)) == ("large", 70)
    restored = rollup(scopes=(scope,), guard=GuardSettings(max_series=3, first_series=3))
    restored.restore(subject.snapshot())
    assert restored.largest_folded() == subject.largest_folded()


def test_series_are_bounded() -> None:
    subject = rollup(guard=GuardSettings(max_new_series_per_minute=1000, max_series=10))
    run(subject, message(*[usage(str(i), T0, key=f"k{i}") for i in range(50)]))
    out = run(subject, message(usage("late", T0 + 3600, key="k40"), usage("known", T0 + 3600, key="k3")))
    assert {p.tags["api_key"] for p in partials(out)} == {OTHER, "k3"}


def test_unpriced_models_are_reported_once_a_flush() -> None:
    fallback: Sequence[Any] = [
        usage(str(i), T0 + i, 0.25, cost_source="fallback", request_model="new-1", source="gw", input_tokens=10)
        for i in range(3)
    ]
    out = run(rollup(partitions=3), message(*fallback, usage("x", T0)))
    holes = [line for line in lines(out) if isinstance(line, PricingHole)]
    assert holes == [
        PricingHole(
            model="new-1", source="gw", reason="unknown_model", at=T0 + 2, requests=3, tokens=30, fallback_usd=0.75
        )
    ]


def test_ticks_go_to_every_partition_behind_the_sums_and_never_back() -> None:
    subject = rollup(partitions=3)
    out = run(subject, message(*[usage(str(i), T0 + 5, key=f"k{i}") for i in range(20)]))
    assert [each.partition for each in out] == [0, 1, 2]
    for each in out:
        assert lines([each])[-1] == SpendTick(at=T0 + 5, source="in/0", effective_cost=20.0)
    assert list(subject.flush(None)) == []
    assert {line.at for line in lines(subject.flush(T0 + 90.0))} == {T0 + 90}
    assert list(subject.flush(T0 + 80.0)) == []


def test_a_series_has_one_partition_and_messages_have_a_size() -> None:
    subject = rollup(partitions=4, guard=GuardSettings(max_new_series_per_minute=100_000))
    where: dict[str, set[int | None]] = defaultdict(set)
    for part in range(2):
        records = [usage(f"{part}-{i}", T0, key=f"key-{i:0200d}") for i in range(8_000)]
        for each in run(subject, message(*records)):
            assert len(each.value) <= 500_000
            for p in partials([each]):
                where[p.tags["api_key"]].add(each.partition)
    assert len(where) == 8_000
    assert all(len(partitions) == 1 for partitions in where.values())


def test_an_edge_writes_what_came_before_it() -> None:
    subject = rollup(scopes=(KEY,))
    out = subject.process(message(usage("1", T0 + 31), usage("2", T0 + 89), usage("3", T0 + 90), usage("4", T0 + 91)))
    assert [type(line).__name__ for line in lines(out)] == ["SpendPartial", "SpendPartial", "SpendTick"]
    assert lines(out)[-1].at == T0 + 90
    assert [p.effective_cost for p in partials(subject.flush(None))] == [2.0]


def test_a_restored_rollup_knows_ids_series_and_limits() -> None:
    settings: dict[str, Any] = {"guard": GuardSettings(first_series=0, max_new_series_per_minute=2)}
    first = rollup(**settings)
    run(first, message(usage("1", T0), usage("2", T0, key="k2"), usage("3", T0, key="k3")))
    second = rollup(**settings)
    second.restore(first.snapshot())
    more = message(usage("1", T0), usage("4", T0, key="k3"), usage("5", T0, key="k2"), usage("6", T0 + 99, key="k4"))
    assert run(first, more) == run(second, more)


def test_sums_are_exact() -> None:
    subject = rollup()
    costs = [0.1 + i * 1e-7 for i in range(20_000)]
    out: list[Message] = []
    for at in range(0, len(costs), 97):
        batch = [usage(str(i), T0 + i / 100, costs[i]) for i in range(at, min(at + 97, len(costs)))]
        out += subject.process(message(*batch))
    out += subject.flush(None)
    total = math.fsum(p.effective_cost for p in partials(out))
    assert total == pytest.approx(math.fsum(costs), rel=1e-12)
    assert sum(p.events for p in partials(out)) == len(costs)


def test_every_dollar_is_told_by_one_tick() -> None:
    subject, whole = rollup(), rollup()
    out = run(subject, message(usage("1", T0, 2.0)), message(usage("2", T0 + 1, 3.0)))
    out += run(subject, message(usage("4", T0 + 1, 4.0)))
    again = rollup()
    again.restore(subject.snapshot())
    out += run(again, message(usage("1", T0 + 2, 2.0), usage("3", T0 + 2, 0.5)))
    assert [line.effective_cost for line in lines(out) if isinstance(line, SpendTick)] == [5.0, 4.5]
    out = run(whole, message(usage("1", T0, 2.0), usage("2", T0 + 1, 3.0), usage("3", T0 + 2, 0.5)))
    assert sum(line.effective_cost for line in lines(out) if isinstance(line, SpendTick)) == 5.5


def test_sums_of_keys_are_cut_into_slots_while_they_are_recent() -> None:
    subject = rollup(fast=FastConfig())
    records = [
        usage("a", T0 + 1, 1.0, received_at=T0 + 3),
        usage("b", T0 + 4, 2.0, received_at=T0 + 5),
        usage("c", T0 + 7, 4.0, received_at=T0 + 9),
        usage("d", T0 - 110, 8.0, received_at=T0 + 9),
        usage("e", T0 + 62, 16.0, received_at=T0 + 63),
    ]
    found = [line for line in lines(run(subject, message(*records))) if isinstance(line, SpendPartial)]
    keys = {p.bucket_start: p for p in found if p.scope == "key"}
    assert {at: (p.slot, p.effective_cost, p.received_at) for at, p in keys.items()} == {
        T0 - 120: (-1, 8.0, T0 + 9),
        T0: (-1, 7.0, T0 + 9),
        T0 + 60: (0, 16.0, T0 + 63),
    }
    assert keys[T0].slots == Slots([0, 5], [2, 1], [3.0, 4.0], [0, 0], [T0 + 5, T0 + 9])
    assert keys[T0 - 120].slots is None
    assert keys[T0 + 60].slots is None


def test_sums_keep_their_slots_when_they_fill_more_than_one_message() -> None:
    roomy = GuardSettings(max_new_series_per_minute=10_000)
    subject = rollup(fast=FastConfig(), guard=roomy)
    records = [usage(f"{at}", T0 + 1, 1.0, key=f"key-{at}", received_at=T0 + 3) for at in range(3000)]
    records += [usage(f"{at}+", T0 + 6, 1.0, key=f"key-{at}", received_at=T0 + 7) for at in range(1500)]
    out = run(subject, *(message(*records[at : at + 500]) for at in range(0, 4500, 500)))
    out += subject.flush(None)
    assert sum(each.topic == SPEND for each in out) > 2
    found = [line for line in lines(out) if isinstance(line, SpendPartial) and line.scope == "key"]
    assert sorted((line.slot, line.received_at) for line in found) == [(-1, T0 + 7)] * 1500 + [(0, T0 + 3)] * 1500
    several = [line.slots for line in found if line.slots is not None]
    assert several == [Slots([0, 5], [1, 1], [1.0, 1.0], [0, 0], [T0 + 3, T0 + 7])] * 1500
