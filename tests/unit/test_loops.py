"""Loops in the newest calls: what repeats is found with its proof, and what only looks like it stays quiet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from curb.detector.fast.lane import FastTest
from curb.detector.pipeline import Pipeline
from curb.detector.rollup.loop_calls import LoopCalls
from curb.detector.rollup.raw_records import HotRecord
from curb.detector.rollup.writer import PartialLines
from curb.detector.rules.repetition import Config, Repetition
from curb.detector.settings import DetectorSettings
from curb.detector.state.loops import CALLS, WINDOW_S, Loop, Loops, loops_in, newest
from curb.detector.state.reader import PartialSum
from curb.detector.state.rule import RuleContext
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.log.codec import encode_lines
from curb.stream.records.loops import LoopCall, LoopPrint
from curb.stream.records.spend import Alert, PlannedActivity, SpendPartial, UsageRecord
from curb.testing.rules import Fleet
from curb.testing.rules import usage as row
from curb.views.explanation import decided_by
from tests.fakes.spend import T0, usage

DAY = 86400


def call(at: float, **more: Any) -> LoopCall:
    """A question by itself, for 10 cents; hashes of its own unless given."""
    fresh = random.Random(at).getrandbits
    given = {
        "at": at, "usd": 0.1, "input_tokens": 1000, "talk": fresh(63), "last": fresh(63), "tools": 0, "sketch": 0,
        "messages": 2, "failed": 0, "seconds": 1.0,
    }  # fmt: skip
    return LoopCall(**{**given, **more})


def every(step_s: float, count: int, make: Callable[[int], dict[str, Any]]) -> list[LoopCall]:
    return [call(T0 + step_s * number, **make(number)) for number in range(count)]


def long_loops(calls: Iterable[LoopCall]) -> list[Loop]:
    return [loop for loop in loops_in(newest(calls)) if loop.long]


def words(calls: Iterable[LoopCall]) -> list[str]:
    return [loop.words for loop in long_loops(calls)]


# --- what loops repeat ------------------------------------------------------------------------------------------------


def test_the_same_question_again_and_again() -> None:
    calls = every(3, 40, lambda number: {"talk": 1, "last": 1} if number not in (7, 20) else {})
    assert words(calls) == ["37 of the last 40 calls were the same as an earlier one"]
    (loop,) = long_loops(calls)
    assert loop.usd == pytest.approx(3.7)
    assert loop.usd_per_hour == pytest.approx(3.7 / (loop.until - loop.since) * 3600)


def test_an_agent_that_goes_round_in_two_steps() -> None:
    calls = every(9, 40, lambda number: {"talk": 1, "last": number % 2 + 1, "messages": 3 + 2 * number})
    assert words(calls) == ["38 of the last 40 calls of a conversation were the same as an earlier one"]


def test_an_agent_that_calls_the_same_tools_and_gets_other_answers() -> None:
    calls = every(9, 40, lambda number: {"talk": 1, "tools": 5, "messages": 3 + 2 * number})
    assert words(calls) == ["39 of the last 40 calls of a conversation were the same as an earlier one"]


def test_an_agent_that_nearly_repeats_itself() -> None:
    calls = every(9, 40, lambda number: {"talk": 1, "sketch": 0b1010 << 20 | 1 << number % 3, "messages": 3 + number})
    assert words(calls) == ["39 of the last 40 calls of a conversation were the same as an earlier one"]


def test_a_loop_beside_other_conversations_is_counted_within_its_own() -> None:
    calls = every(9, 40, lambda number: {"talk": 1, "last": 1, "messages": 9} if number % 3 else {"messages": 5})
    assert words(calls) == ["25 of the last 26 calls of a conversation were the same as an earlier one"]


def test_a_conversation_that_only_grows() -> None:
    calls = every(20, 30, lambda number: {"talk": 1, "messages": 3 + 2 * number, "input_tokens": 4000 * (number + 1)})
    assert words(calls) == ["a conversation grew at each of its last 30 calls, from 4,000 to 120,000 input tokens"]


def test_a_tool_that_fails_and_is_called_again() -> None:
    calls = every(20, 12, lambda number: {"talk": 1, "messages": 3 + 2 * number, "failed": number})
    assert words(calls) == ["a tool failed 11 times in a row and is called again"]


# --- look-alikes ------------------------------------------------------------------------------------------------------

LOOK_ALIKES: dict[str, list[LoopCall]] = {
    "one prompt over many documents": every(2, 40, lambda number: {"talk": 100 + number, "sketch": 7 << 20}),
    "examples before each of many short questions": every(
        2, 40, lambda number: {"talk": 1, "messages": 7, "sketch": 7 << 20 | 1 << number % 3}
    ),
    "a load test": every(0.05, 40, lambda number: {"talk": 1, "last": 1, "seconds": 2.0}),
    "a load test whose calls have no length": every(0.2, 40, lambda number: {"talk": 1, "last": 1, "seconds": 0.0}),
    "a menu of five questions": every(5, 40, lambda number: {"talk": number % 5, "last": number % 5}),
    "a few retries": every(5, 40, lambda number: {"talk": number // 4, "last": number // 4}),
    "a warm-up of the cache every five minutes": every(300, 4, lambda number: {"talk": 1, "last": 1}),
    "an agent whose tools answer ok": every(9, 40, lambda number: {"talk": 1, "messages": 3 + 2 * number}),
    "an agent that tests after each of two edits": every(
        9, 40, lambda number: {"talk": 1, "messages": 3 + number, **({"last": 1} if number % 3 == 2 else {})}
    ),
    "a chat that grows": every(
        60, 14, lambda number: {"talk": 1, "messages": 3 + 2 * number, "input_tokens": 900 * (number + 1)}
    ),
    "a tool that fails twice": every(20, 12, lambda number: {"talk": 1, "messages": 3 + number, "failed": number % 3}),
    "a tool that failed long ago": every(
        20, 12, lambda number: {"talk": 1, "messages": 3 + number, "failed": number if number < 9 else 0}
    ),
    "ten people with the same first question": every(
        5, 40, lambda number: {"talk": number % 10, "last": number % 10, "messages": 2}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_are_quiet(name: str) -> None:
    assert words(LOOK_ALIKES[name]) == []


def test_a_health_check_is_worth_nothing() -> None:
    calls = every(10, 40, lambda number: {"talk": 1, "last": 1, "usd": 0.002})
    (loop,) = long_loops(calls)
    assert tiers([loop]) == []


# --- habits -----------------------------------------------------------------------------------------------------------

KEY = ("key", b'{"api_key":"k"}')


def part(calls: list[LoopCall], tags: bytes = KEY[1]) -> PartialSum:
    bucket = int(calls[0].at // 60) * 60
    return PartialSum("key", msgspec.Raw(tags), bucket, 0.0, calls=tuple(calls))


def close(loops: Loops, at: float, *, frozen: bool = False, step_s: int = 60) -> list[str]:
    found = loops.close(int(at // step_s) * step_s, lambda *_: 0, np.array([frozen]), step_s)
    return [loop.words for loop in found.get(0, [])]


def same(at: float, usd: float = 0.1) -> list[LoopCall]:
    return [call(at + number, talk=1, last=1, usd=usd) for number in range(40)]


@pytest.mark.parametrize("step_s", [60, 300])
def test_what_a_key_did_on_days_before_is_its_habit(step_s: int) -> None:
    loops = Loops()
    for day in range(3):
        loops.take([part(same(T0 + day * DAY))], 0)
        found = close(loops, T0 + day * DAY, step_s=step_s)
        assert bool(found) == (day == 0), "reported on the first day alone"
    loops.take([part(same(T0 + 3 * DAY, usd=1.0))], 0)
    assert close(loops, T0 + 3 * DAY, step_s=step_s), "ten times the habit"


def test_what_was_found_while_an_alert_fired_is_no_habit() -> None:
    loops = Loops()
    for day in range(3):
        loops.take([part(same(T0 + day * DAY))], 0)
        assert close(loops, T0 + day * DAY, frozen=True)


def growing(at: float, tokens: int = 4000) -> list[LoopCall]:
    return [
        call(at + number, talk=1, messages=3 + 2 * number, input_tokens=tokens * (number + 1)) for number in range(30)
    ]


def test_growth_is_reported_only_beyond_what_the_key_is_known_for() -> None:
    loops = Loops()
    loops.take([part(growing(T0))], 0)
    assert close(loops, T0) == [], "nothing is known on the first day"
    loops.take([part(growing(T0 + DAY))], 0)
    assert close(loops, T0 + DAY) == []
    loops.take([part(growing(T0 + 2 * DAY, tokens=9000))], 0)
    assert close(loops, T0 + 2 * DAY)


# --- order, duplicates, restarts, memory ------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_arrival_changes_nothing(shuffle: random.Random, restart: bool) -> None:
    calls = [*same(T0), *growing(T0 + 5), *every(1.5, 90, lambda number: {})]
    whole, pieces = Loops(), Loops()
    whole.take([part([each]) for each in calls], 0)
    shuffle.shuffle(calls)
    while calls:
        some = [calls.pop() for _ in range(min(len(calls), shuffle.randint(1, 20)))]
        pieces.take([part([each]) for each in some], 0)
        if restart:
            dump = msgspec.msgpack.encode(pieces.dump())
            pieces = Loops()
            pieces.load(msgspec.msgpack.decode(dump, type=type(whole.dump())))
    for at in (T0, T0 + 60, T0 + 120):
        assert close(whole, at) == close(pieces, at)
        assert whole.dump() == pieces.dump()


def test_calls_are_kept_for_minutes_and_habits_for_weeks() -> None:
    loops = Loops()
    loops.take([part(same(T0))], 0)
    close(loops, T0)
    assert loops
    close(loops, T0 + WINDOW_S + 120)
    assert not loops
    assert len(loops.dump().habits) == 1
    loops.take([part([call(T0 + 80 * DAY - 60)], tags=b'{"api_key":"other"}')], 0)
    close(loops, T0 + 80 * DAY - 60)
    assert [tags for _, tags, _ in loops.dump().habits] == [b'{"api_key":"other"}']


def test_sessions_without_number_take_no_more_memory_than_forty_calls() -> None:
    loops, door = Loops(), LoopCalls(DEFAULT_SCOPES, 60)
    for some in range(100):
        records = [
            HotRecord(
                f"{some}/{n}", T0 + some * 0.5, T0 + some * 0.5, 0.1, msgspec.Raw(b"{}"), loop=LoopPrint(n + 1, n)
            )
            for n in range(200)
        ]
        door.add(records, np.zeros((200, len(DEFAULT_SCOPES)), np.int64))
        loops.take([part([call(T0 + some * 0.5, talk=n + 1) for n in range(200)])], 0)
    close(loops, T0)
    assert sum(len(calls) for _, _, calls in loops.dump().recent) == CALLS
    lines = PartialLines(1, "curb.usage/0", T0)
    door.write(lines, [_Series()] * 4)
    written = [msgspec.json.decode(each, type=SpendPartial) for each in lines.messages()[0].value.splitlines() if each]
    assert [len(each.calls) for each in written] == [CALLS]


class _Series:
    scope, tags, tags_bytes, partition = "key", msgspec.Raw(b'{"api_key":"k"}'), 15, 0


# --- the rule ---------------------------------------------------------------------------------------------------------


def tiers(loops: list[Loop], **more: Any) -> list[str]:
    view = Fleet(step_s=60).view([row(**more)])
    view.loops = {0: loops}
    return [f"{finding.tier} {finding.channel}" for finding in Repetition(Config(), RuleContext(60)).close(view)]


@pytest.mark.parametrize(
    ("usd", "expected"),
    [(0.001, []), (0.1, ["notice repetition/same"]), (1.0, ["page repetition/same"])],
)
def test_the_dollars_of_a_loop_say_who_hears_of_it(usd: float, expected: list[str]) -> None:
    assert tiers(long_loops(every(10, 40, lambda number: {"talk": 1, "last": 1, "usd": usd}))) == expected


def test_jobs_and_announced_work_may_repeat_themselves() -> None:
    loops = long_loops(every(10, 40, lambda number: {"talk": 1, "last": 1, "usd": 1.0}))
    assert tiers(loops, job="nightly") == []
    fleet = Fleet(step_s=60)
    view = fleet.view([row()])
    view.loops = {0: loops}
    plan = PlannedActivity(id="p", at=T0, tags={"team": "a"}, start=T0 - 60, end=T0 + 3600, max_usd=500.0)
    fleet.knowledge.add(plan)
    assert Repetition(Config(), RuleContext(60)).close(view) == []


def test_a_page_costs_at_least_what_a_notice_does() -> None:
    with pytest.raises(ValueError, match="at least min_usd_per_hour"):
        Config(min_usd_per_hour=200.0)


# --- through the pipeline ---------------------------------------------------------------------------------------------


def looping(at: float, count: int, usd: float, step_s: float = 10.0) -> Iterator[UsageRecord]:
    for number in range(count):
        yield usage(f"loop-{at}-{number}", at + step_s * number, usd, loop=LoopPrint(0, 1, 1, messages=2, seconds=2.0))


def fed(pipeline: Pipeline, records: Iterable[UsageRecord], until: float) -> list[Alert]:
    for record in records:
        pipeline.feed(encode_lines([record]))
        pipeline.tick()
    pipeline.tick(until)
    return list(pipeline.alerts)


@pytest.mark.parametrize("bucket_s", [60, 300])
@pytest.mark.parametrize(("usd", "tier"), [(0.05, "notice"), (0.5, "page")])
def test_a_loop_of_a_new_key_is_an_alert_with_its_proof(bucket_s: int, usd: float, tier: str) -> None:
    pipeline = Pipeline(DetectorSettings(bucket_s=bucket_s))
    alerts = [
        alert for alert in fed(pipeline, looping(T0, 60, usd), T0 + 900) if alert.channel.startswith("repetition/")
    ]
    assert {(alert.kind, alert.tier) for alert in alerts} == {("runaway", tier)}
    assert "calls were the same as an earlier one, which burns" in alerts[0].reason
    assert alerts[0].reason in alerts[0].explanation
    assert alerts[0].fired_at - T0 <= max(400, 2 * bucket_s) + 60
    _, decided = decided_by(alerts[0], DetectorSettings())
    assert {each.key: each.value for each in decided} == {
        "detector.principals.repetition.min_usd_per_hour": 10.0,
        "detector.principals.repetition.page_usd_per_hour": 100.0,
    }


def test_duplicates_and_messages_of_before_change_nothing() -> None:
    once, twice, old = (Pipeline(DetectorSettings(bucket_s=60)) for _ in range(3))
    records = list(looping(T0, 60, 0.05))
    found = fed(once, records, T0 + 900)
    assert fed(twice, [each for record in records for each in (record, record)], T0 + 900) == found
    for record in records:
        record.loop = None
    assert not [alert for alert in fed(old, records, T0 + 900) if alert.channel.startswith("repetition/")]


def test_a_restart_changes_nothing() -> None:
    records = list(looping(T0, 60, 0.05))
    whole, before, after = (Pipeline(DetectorSettings(bucket_s=60)) for _ in range(3))
    found = fed(whole, records, T0 + 900)
    first = fed(before, records[:25], records[24].charge_period_start)
    after.restore(before.snapshot())
    assert [*first, *fed(after, records[25:], T0 + 900)] == found


# --- the fast lane ----------------------------------------------------------------------------------------------------


def stepped(loop: str) -> tuple[FastTest, list[Any]]:
    """A key with a request a minute for two days and a busy minute in each, then twelve a minute at a dollar each."""
    lane, trips = FastTest(20.0), []
    lane.grow(1)
    index = np.zeros(1, np.int64)

    def step(at: float, requests: float) -> None:
        amounts = np.array([[requests], [requests * 1.0], [requests]])
        trips.extend(lane.step(int(at // 5), index, amounts))

    for minute in range(2 * 1440):
        step(T0 + 60 * minute, 20.0 if minute % 1440 == 700 else 1.0)
    assert trips == []
    lane.loop_of = lambda number: loop
    for number in range(24):
        step(T0 + 2 * DAY + 5 * number, 1.0)
    return lane, trips


def test_a_loop_trips_the_fast_lane_at_three_times_its_mean() -> None:
    lane, (trip,) = stepped("38 of the last 40 calls were the same")
    assert (trip.kind, trip.loop) == ("loop", "38 of the last 40 calls were the same")
    assert 3.0 <= lane.limit_per_minute(0, trip) <= 3.5 < lane.columns["peak"][0, 0]
    assert stepped("")[1] == [], "the same burn without a loop is within its highest minute"


def test_the_lane_hears_of_loops_before_the_bucket_closes() -> None:
    pipeline = Pipeline(DetectorSettings(bucket_s=300))
    usual = (
        usage(f"u-{minute}", T0 + 60 * minute, 1.0, loop=LoopPrint(0, minute + 7, minute + 7, messages=2))
        for minute in range(1500)
    )
    pipeline.feed(encode_lines(usual))
    assert not [alert for alert in fed(pipeline, [], T0 + 1499 * 60 + 1) if alert.tier == "soft"]
    onset = T0 + 1500 * 60
    alerts = [alert for alert in fed(pipeline, looping(onset, 45, 1.0, 8.0), onset + 360) if alert.tier == "soft"]
    assert alerts[0].channel == "fast/loop"
    assert "were the same as an earlier one, which lowers its limit to 3 times its mean" in alerts[0].reason
    assert alerts[0].fired_at < onset + 300, "its bucket is open"
