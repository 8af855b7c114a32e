"""Topics, partitions and sizes of what connectors append, and the door in front of it."""

from __future__ import annotations

import math

import msgspec
import pytest

from curb.connectors.connector import Batch
from curb.connectors.intake.append import MESSAGE_BYTES, append_batch, record_messages
from curb.connectors.intake.health import Health
from curb.connectors.validate import IntakeLimits, check, clean_tags
from curb.stream import metrics
from curb.stream.log.protocol import TopicPartition
from curb.stream.log.topics import COMMANDS, COSTS, DEAD_LETTER, GPU, USAGE
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import CostRecord, GpuRecord, PlannedActivity, SpendRecord, UsageRecord
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0


def usage(number: int = 0, **changes: object) -> UsageRecord:
    fields: dict[str, object] = {
        "id": f"r{number}",
        "charge_period_start": NOW - 60,
        "received_at": NOW,
        "effective_cost": 0.5,
        "tags": {"team": "a"},
    }
    return UsageRecord(**{**fields, **changes})  # type: ignore[arg-type]


def gpu(**changes: object) -> GpuRecord:
    fields: dict[str, object] = {
        "id": "g",
        "charge_period_start": NOW - 60,
        "received_at": NOW,
        "effective_cost": 0.5,
        "tags": {},
    }
    return GpuRecord(**{**fields, **changes})  # type: ignore[arg-type]


def cost(**changes: object) -> CostRecord:
    fields: dict[str, object] = {
        "id": "c",
        "charge_period_start": NOW - 60,
        "received_at": NOW,
        "effective_cost": -3.0,
        "tags": {},
    }
    return CostRecord(**{**fields, **changes})  # type: ignore[arg-type]


async def test_the_type_picks_the_topic() -> None:
    log = MemoryLog()
    appended = await append_batch(log, Batch([usage(), gpu(), cost()], ""), source="s", at=NOW)
    assert (appended.accepted, appended.dead) == (3, 0)
    assert [len(log.records(topic)) for topic in (USAGE, GPU, COSTS)] == [1, 1, 1]


async def test_an_empty_batch_appends_nothing() -> None:
    log = MemoryLog()
    assert await append_batch(log, Batch([], ""), source="s", at=NOW) == (0, 0, [], 0, 0.0, None, ())
    assert log.messages == {}


@pytest.mark.parametrize("named", [True, False])
async def test_many_are_checked_in_parts_and_come_out_as_from_one_check(named: bool) -> None:
    bad = {3, 250, 999}
    records = [usage(n, effective_cost=math.nan if n in bad else 0.5) for n in range(1001)]
    records[700].charge_period_start = NOW + 3600
    log, places = MemoryLog(), [f"f:{n}" for n in range(1001)] if named else []
    appended = await append_batch(log, Batch(records, "", locations=places), source="s", at=NOW)
    assert (appended.accepted, appended.dead, appended.skewed, appended.skew_s) == (998, 3, 1, 3600)
    assert {record.id for record in log.records()} == {f"r{n}" for n in range(1001) if n not in bad}
    assert [letter.location for letter in log.dead_letters()] == [f"{'f:' if named else 's#'}{n}" for n in sorted(bad)]


async def test_a_refused_record_names_its_place_and_the_rest_is_appended() -> None:
    log = MemoryLog()
    batch = Batch([usage(1), usage(2, effective_cost=math.nan)], "", locations=["f:1", "f:2"])
    appended = await append_batch(log, batch, source="s", at=NOW)
    assert (appended.accepted, appended.dead) == (1, 1)
    assert [(letter.location, letter.reason) for letter in log.dead_letters()] == [("f:2", "not_finite")]


async def test_a_sender_whose_clock_is_ahead_is_dated_by_the_receipt() -> None:
    log, day = MemoryLog(), 86_400
    batch = Batch([usage(1, charge_period_start=NOW + 400), usage(2, charge_period_start=NOW + day), usage(3)], "")
    before = metrics.CLOCK_SKEWED.labels(connector="ahead")._value.get()
    appended = await append_batch(log, batch, source="ahead", at=NOW)
    assert (appended.accepted, appended.dead, appended.skewed, appended.skew_s) == (3, 0, 2, day)
    assert sorted(record.charge_period_start for record in log.records()) == [NOW - 60, NOW, NOW]
    assert metrics.CLOCK_SKEWED.labels(connector="ahead")._value.get() == before + 2
    assert metrics.CLOCK_SKEW.labels(connector="ahead")._value.get() == day


async def test_what_is_days_ahead_is_an_error_of_units_and_a_bill_has_no_clock() -> None:
    log = MemoryLog()
    batch = Batch([usage(charge_period_start=NOW + 90_000), cost(charge_period_start=NOW + 400)], "")
    appended = await append_batch(log, batch, source="s", at=NOW)
    assert (appended.accepted, appended.dead, appended.skewed) == (1, 1, 0)  # what is paid ahead counts in its period


async def test_a_refused_record_says_the_real_limit_and_is_not_the_newest() -> None:
    far = [usage(2, charge_period_start=(NOW + 86_401) * each) for each in (1, 1000)]
    appended = await append_batch(MemoryLog(), Batch([usage(), *far], cursor="1"), source="gw", at=NOW)
    details = [msgspec.json.decode(each.value)["detail"] for each in appended.letters]
    assert details == ["charge_period_start is more than 1 d ahead of its receipt"] * 2
    assert appended.newest == NOW - 60
    health = Health()
    health.heard(appended.newest, appended.accepted, appended.dead)
    only_refused = await append_batch(MemoryLog(), Batch(far, cursor="1"), source="gw", at=NOW)
    health.heard(only_refused.newest, only_refused.accepted, only_refused.dead)
    assert (health.records, health.dead, health.newest_charge_at) == (1, 4, NOW - 60)


async def test_what_was_not_appended_is_reported() -> None:
    log = MemoryLog()
    bad = [usage(1), usage(2, effective_cost=math.nan), usage(3, effective_cost=-1.0)]
    ahead = usage(4, charge_period_start=NOW + 400)
    batch = Batch([*bad, ahead], "", ignored={"spans of http": 7})
    await append_batch(log, batch, source="gateway", at=NOW)
    (report,) = log.reports()
    assert (report.source, report.at, report.skewed, report.skew_s) == ("gateway", NOW, 1, 400.0)
    assert (report.refused, report.ignored) == ({"not_finite": 1, "negative_cost": 1}, {"spans of http": 7})
    await append_batch(log, Batch([usage(5)], ""), source="gateway", at=NOW)
    assert len(log.reports()) == 1


async def test_odd_values_in_a_record_are_one_dead_letter_each() -> None:
    log = MemoryLog()
    odd = [usage(1, effective_cost=10**400), usage(2, tags=None), usage(3, charge_period_start="x"), usage(4)]
    bill = cost(service_name="a\ud800b", resource_id="\u202er")
    appended = await append_batch(log, Batch([*odd, bill], ""), source="s", at=NOW)
    assert (appended.accepted, appended.dead) == (2, 3)
    assert [letter.reason for letter in log.dead_letters()] == ["not_finite", "wrong_type", "wrong_type"]
    assert [(record.service_name, record.resource_id) for record in log.records(COSTS)] == [("ab", "r")]


async def test_a_location_is_of_the_record() -> None:
    log = MemoryLog()
    batch = Batch([usage(1), usage(2, effective_cost=math.nan)], "", locations=["f:1", "f:2"])
    await append_batch(log, batch, source="s", at=NOW)
    assert [(letter.location, letter.reason) for letter in log.dead_letters()] == [("f:2", "not_finite")]
    assert len(log.of(DEAD_LETTER)) == 1


def test_at_most_500_records_a_message_and_the_id_decides_the_partition() -> None:
    log = MemoryLog(partitions=3)
    records = [usage(n) for n in range(4000)]
    messages = record_messages(records, source="s", log=log)
    assert {message.partition for message in messages} == {0, 1, 2}
    assert max(message.value.count(b"\n") for message in messages) == 500
    assert sum(message.value.count(b"\n") for message in messages) == 4000
    assert {message.key for message in messages} == {b"s"}
    shuffled = record_messages(records[::-1], source="s", log=log)
    ids = [{p: b"".join(m.value for m in found if m.partition == p).count(b'"id"') for p in range(3)} for found in
           (messages, shuffled)]  # fmt: skip
    assert ids[0] == ids[1]


def test_messages_of_large_records_are_split() -> None:
    tags = {f"tag{n:03d}": "v" * 256 for n in range(64)}
    messages = record_messages([usage(n, tags=tags) for n in range(500)], source="s", log=MemoryLog(1))
    assert len(messages) > 10
    assert max(len(message.value) for message in messages) <= MESSAGE_BYTES
    assert sum(message.value.count(b"\n") for message in messages) == 500


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (usage(effective_cost=-0.01), "negative_cost"),
        (gpu(effective_cost=-0.01), "negative_cost"),
        (usage(requests=9, errors=1, refused=2), "invalid"),
        (usage(requests=1, errors=9, refused=2), "invalid"),
        (usage(effective_cost=2e9), "invalid"),
        (usage(charge_period_start=math.nan), "not_finite"),
        (usage(received_at=math.inf), "not_finite"),
        (usage(charge_period_start=NOW + 301), "in_the_future"),
        (usage(charge_period_start=1_420_070_399.0), "too_old"),
        (usage(cache_read_input_tokens=-1), "invalid"),
        (usage(requests=-1), "invalid"),
        (usage(id=""), "invalid"),
        (usage(id="a\ud800"), "invalid"),
        (gpu(gpu_utilization=math.inf), "not_finite"),
        (cost(billed_cost=math.nan), "not_finite"),
    ],
)
def test_the_door_refuses(record: SpendRecord, reason: str) -> None:
    rejected = check(record)
    assert rejected is not None
    assert rejected.reason == reason


@pytest.mark.parametrize(
    "record",
    [
        usage(),
        usage(effective_cost=0.0),
        usage(charge_period_start=NOW + 299),
        usage(charge_period_start=1_420_070_400.0),
        usage(id="x" * 256),
        cost(),
        gpu(gpu_utilization=None),
    ],
)
def test_the_door_lets_through(record: SpendRecord) -> None:
    assert check(record) is None


def test_an_id_of_any_length_has_one_short_form() -> None:
    ids = ["x" * 257, "x" * 258, "x" * 257, "resp_" + "A" * 100_000]
    records = [usage(id=each) for each in ids]
    assert [check(record) for record in records] == [None] * 4
    assert records[0].id == records[2].id
    assert len({record.id for record in records}) == 3
    assert {len(record.id) for record in records} == {71}


def test_the_future_is_configurable() -> None:
    record = usage(charge_period_start=NOW + 3600)
    assert check(record) is not None
    assert check(record, limits=IntakeLimits(max_future_s=7200)) is None


def test_long_values_stay_apart() -> None:
    tags = clean_tags({"a": "x" * 300 + "1", "b": "x" * 300 + "2", "c": "x" * 256})
    assert tags["a"] != tags["b"]
    assert len(tags["a"]) == len(tags["b"]) == 256
    assert tags["a"][239] == "~"
    assert tags["c"] == "x" * 256
    assert clean_tags(tags) == tags


def test_unsafe_characters_go_and_ordinary_ones_stay() -> None:
    assert clean_tags({"t\x00eam": " se\u200barch\u2028 ", "名前": "été 😀", "x": "\n"}) == {
        "team": "search",
        "名前": "été 😀",
    }


async def test_plans_go_to_the_commands_topic() -> None:
    log = MemoryLog()
    plan = PlannedActivity(id="p", at=NOW, tags={"team": "a"}, start=NOW, end=NOW + 60, max_usd=1.0)
    appended = await append_batch(log, Batch([usage()], cursor="", plans=[plan]), source="s", at=NOW)
    assert (appended.accepted, appended.dead) == (2, 0)
    (message,) = log.messages[TopicPartition(COMMANDS, 0)]
    assert read_knowledge(message.value, lambda *_: None) == [plan]
