"""The fast lane: a runaway of a key within its first minute, quiet on bursts that the key has had before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from curb.detector.bills.lanes import ShardWithBills
from curb.detector.fast.alerts import Config
from curb.detector.fast.lane import SLOT_S, FastTest, Trip
from curb.detector.heads.demand import Config as DemandConfig
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.evaluate.backtest import run_backtest
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.spend import Alert, UsageRecord
from curb.stream.time import iso
from tests.fakes.spend import T0, usage

pytestmark = pytest.mark.long

DAY = 86400
SETTINGS = DetectorSettings(bucket_s=300)
START = int(T0 // SLOT_S)


class Keys:
    """A test over keys, stepped slot by slot. `usual` and `burning` give requests of one slot; each costs 2 cents."""

    def __init__(self, count: int = 1, seed: int = 1) -> None:
        self.rng, self.count = np.random.default_rng(seed), count
        self.test, self.slot = FastTest(20.0), START
        self.test.grow(count)

    def steps(self, seconds: float, requests: Callable[[], np.ndarray], usd: float = 0.02) -> list[Trip]:
        found = []
        for _ in range(int(seconds // SLOT_S)):
            amounts = requests()
            index = np.flatnonzero(amounts)
            if len(index):
                found += self.test.step(
                    self.slot, index, np.array([amounts[index], usd * amounts[index], amounts[index]])
                )
            self.slot += 1
        return found

    def usual(self, times: float = 1.0) -> Callable[[], np.ndarray]:
        """$12 an hour: 600 requests."""
        return lambda: self.rng.poisson(600 / 720 * times, self.count).astype(float)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """Two days of ten steady keys, without an alert."""
    keys = Keys(10)
    assert keys.steps(2 * DAY, keys.usual()) == []
    return {name: array.copy() for name, array in keys.test.dump().items()}


def known(state: dict[str, np.ndarray], seed: int = 2) -> Keys:
    keys = Keys(10, seed)
    keys.test.load({name: array.copy() for name, array in state.items()})
    keys.slot = START + 2 * DAY // SLOT_S
    return keys


@pytest.mark.parametrize(("times", "within_s"), [(100, 15), (50, 30), (20, 60)])
def test_a_runaway_of_a_steady_key_trips_within_its_first_minute(
    state: dict[str, np.ndarray], times: float, within_s: float
) -> None:
    keys = known(state)
    began = keys.slot * SLOT_S
    trips = keys.steps(within_s, keys.usual(times))
    assert {trip.number for trip in trips} == set(range(10))
    assert all(0 <= trip.since - began <= within_s or began - trip.since < 600 for trip in trips)


def test_twice_the_usual_trips_nothing(state: dict[str, np.ndarray]) -> None:
    keys = known(state)
    assert keys.steps(3600, keys.usual(2)) == []


def test_a_burst_that_a_key_has_had_before_trips_nothing() -> None:
    keys = Keys(5)
    for _ in range(20):
        keys.steps(3600, keys.usual(0.2))
        keys.steps(120, keys.usual(30))
    keys.steps(DAY, keys.usual(0.2))
    assert keys.steps(120, keys.usual(30)) == []


def test_a_young_key_trips_nothing() -> None:
    keys = Keys()
    keys.steps(DAY / 2, keys.usual())
    assert keys.steps(600, keys.usual(100)) == []


def test_pocket_money_trips_nothing(state: dict[str, np.ndarray]) -> None:
    keys = known(state)
    assert keys.steps(120, keys.usual(30), usd=0.0005) == [], "$9 an hour"


def test_dearer_requests_trip_by_their_dollars_and_the_limit_is_what_they_may_cost(
    state: dict[str, np.ndarray],
) -> None:
    keys = known(state)
    trips = keys.steps(60, keys.usual(), usd=2.0)
    assert trips
    assert {trip.kind for trip in trips} == {"spend"}
    peak = keys.test.columns["peak"][:, trips[0].number]
    assert keys.test.limit_per_minute(trips[0].number, trips[0]) < peak[0] / 10


def test_a_key_whose_calls_were_free_is_held_to_its_own_requests() -> None:
    keys = Keys()
    for _ in range(40):
        keys.steps(60, keys.usual(), usd=0.0)
        keys.slot += 2400 // SLOT_S
    trips = keys.steps(60, keys.usual(5), usd=2.0)
    assert trips
    assert trips[0].score < 1000, "a figure for people"
    assert keys.test.limit_per_minute(0, trips[0]) == keys.test.columns["peak"][0, 0] > 10


def test_what_was_wrong_raises_the_threshold_and_what_was_right_lowers_it_again(state: dict[str, np.ndarray]) -> None:
    keys = known(state)
    every = np.arange(keys.count)
    before = keys.test.limit(every, keys.slot)
    number = keys.steps(60, keys.usual(100))[0].number
    keys.test.end(number)
    keys.test.judge(number, confirmed=False)
    wrong = keys.test.limit(every, keys.slot)[0, number]
    assert wrong >= 1.5 * before[0, number]
    keys.test.judge(number, confirmed=True)
    assert keys.test.limit(every, keys.slot)[0, number] < wrong


# --- through rollup and shard ---------------------------------------------------------------------------------------


def events(
    seconds: float, per_s: Callable[[int], float], at: float = T0, lag_s: float = 1.0, source: str = "gateway"
) -> Iterator[bytes]:
    """A key at one request every `1 / per_s` seconds for 2 cents, as lines of usage in portions of a minute."""
    rng = np.random.default_rng(3)
    for minute in range(int(seconds // 60)):
        records = []
        for second in range(60):
            moment = at + 60 * minute + second
            for number in range(rng.poisson(per_s(60 * minute + second))):
                name = f"{moment}-{number}"
                records.append(usage(name, moment, 0.02, received_at=moment + lag_s, key="k", source=source))
        yield encode_lines(records)


def alerts_of(pipeline: Pipeline, lines: Iterator[bytes]) -> list[Alert]:
    for each in lines:
        if each:
            pipeline.feed(each)
    pipeline.tick()
    return list(pipeline.alerts)


def run(pipeline: Pipeline, lines: Iterator[bytes]) -> list[Alert]:
    return [alert for alert in alerts_of(pipeline, lines) if alert.tier == "soft"]


def looping(at_s: float) -> Callable[[int], float]:
    return lambda second: 20.0 if second >= at_s else 0.05


def test_a_soft_alert_opens_by_event_time_and_ends_by_itself() -> None:
    onset = 1.1 * DAY
    alerts = run(Pipeline(SETTINGS), events(onset + 1200, looping(onset)))
    first, *_, last = [each for each in alerts if each.alert_id == alerts[0].alert_id]
    assert (first.kind, first.tier, first.revision, first.status) == ("runaway", "soft", 1, "firing")
    assert 0 < first.fired_at - (T0 + onset) <= 20
    assert first.baseline is not None
    assert first.baseline.requests_per_minute_p95 is not None
    assert 5 <= first.baseline.requests_per_minute_p95 <= 60
    assert "its highest minute of 28 days" in first.explanation
    assert last.status == "resolved"
    assert 600 <= last.updated_at - first.fired_at <= 1000


def test_a_burn_that_returns_after_each_soft_alert_is_a_notice_and_then_a_page() -> None:
    onset = 1.1 * DAY
    pipeline = Pipeline(DetectorSettings(bucket_s=60, unexplained=DemandConfig(enabled=False)))

    def returns(second: int) -> float:
        """Throttled by a cap of ten minutes, it burns again for a minute or two before it is capped again."""
        return 4.0 if second >= onset and (second - onset) % 660 < 60 else 0.05

    found = [alert for alert in alerts_of(pipeline, events(onset + 2400, returns)) if alert.channel == "after_soft_cap"]
    assert [alert.tier for alert in found if alert.revision == 1] == ["notice"]
    assert "page" in {alert.tier for alert in found}


def test_history_by_the_minute_teaches_the_highest_minutes() -> None:
    onset = 1.1 * DAY
    pipeline = Pipeline(DetectorSettings(bucket_s=60))
    run(pipeline, events(onset, looping(onset), lag_s=70.0, source="history"))
    alerts = run(pipeline, events(300, looping(0), at=T0 + onset))
    assert 0 < alerts[0].fired_at - (T0 + onset) <= 20


def test_refused_calls_are_no_burn() -> None:
    onset = 1.1 * DAY
    pipeline = Pipeline(SETTINGS)
    run(pipeline, events(onset, looping(onset)))
    refused = [
        usage(f"r-{second}", T0 + onset + second, 0.0, received_at=T0 + onset + second + 1, key="k")
        for second in range(300)
    ]
    lines = [msgspec.structs.replace(each, requests=50, errors=50, refused=50) for each in refused]
    assert run(pipeline, iter([encode_lines(lines)])) == []


def test_a_source_that_is_late_is_not_judged_in_slots() -> None:
    onset = 1.1 * DAY
    assert run(Pipeline(SETTINGS), events(onset + 300, looping(onset), lag_s=120.0)) == []


def test_how_often_sums_are_written_changes_no_soft_alert() -> None:
    onset, found = 1.1 * DAY, []
    for every_s in (float(SLOT_S), 60.0):
        pipeline, alerts = Pipeline(SETTINGS), list[Alert]()
        for minute in events(onset + 120, looping(onset)):
            records = [msgspec.json.decode(line, type=UsageRecord) for line in minute.splitlines()]
            portions = [record.charge_period_start // every_s for record in records]
            for _, some in groupby(zip(portions, records, strict=True), itemgetter(0)):
                pipeline.feed(encode_lines([record for _, record in some]))
                pipeline.tick()
            alerts += pipeline.alerts
        found.append([(a.started_at, a.actual_usd, a.score) for a in alerts if a.tier == "soft" and a.revision == 1])
    assert len(found[0]) == 1
    assert found[1] == [tuple(pytest.approx(each) for each in found[0][0])]


def test_a_setting_turns_it_off() -> None:
    onset = 1.1 * DAY
    settings = DetectorSettings(bucket_s=300, fast=Config(enabled=False))
    assert run(Pipeline(settings), events(onset + 300, looping(onset))) == []


@pytest.mark.parametrize("step_s", [60, 300])
def test_rows_of_minutes_are_not_taken_for_bursts(step_s: int) -> None:
    rng, pipeline = np.random.default_rng(4), Pipeline(SETTINGS)
    for step in range(int(1.5 * DAY // step_s)):
        at = T0 + step * step_s
        requests = int(rng.poisson(0.2 * step_s))
        for received_at, name in ((at + step_s + 2, "start"), (at + 1, "end")):  # dated to the start, and to the end
            row = usage(f"{name}-{at}", at, 0.02 * requests, received_at=received_at, key=name, source=name)
            pipeline.feed(encode_lines([msgspec.structs.replace(row, requests=requests)]))
    pipeline.tick()
    assert [alert for alert in pipeline.alerts if alert.tier == "soft"] == []


class Twins:
    """A shard and its heir, which read the same messages."""

    def __init__(self, one: Shard, other: Shard) -> None:
        self._one, self._other = one, other
        self.differ = 0

    def process(self, message: Message) -> list[Message]:
        out, same = list(self._one.process(message)), list(self._other.process(message))
        self.differ += out != same
        return out

    def flush(self, now: float | None) -> None:
        self._one.flush(now)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_back_test_of_single_calls_has_the_soft_alert_as_a_line_of_its_own(tmp_path: Path, enabled: bool) -> None:
    onset, stream, out = 1.1 * DAY, tmp_path / "events.jsonl", tmp_path / "alerts.jsonl"
    with stream.open("w", encoding="utf-8") as file:
        for minute in events(onset + 300, looping(onset)):
            for record in [msgspec.json.decode(line, type=UsageRecord) for line in minute.splitlines()]:
                times = {"ts": iso(record.charge_period_start), "recv": iso(record.received_at)}
                call = {"src": "llm", "id": record.id, **times, "tags": record.tags, "requests": 1, "cost_usd": 0.02}
                file.write(json.dumps(call) + "\n")
    said = Console(file=StringIO(), width=200)
    run_backtest(stream, out, DetectorSettings(fast=Config(enabled=enabled)), 60, said)
    tiers = [json.loads(line)["tier"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert tiers.count("soft") == enabled
    assert isinstance(said.file, StringIO)
    assert f"{int(enabled)} soft" in said.file.getvalue()


def test_a_restored_shard_goes_on_in_the_middle_of_a_runaway() -> None:
    onset, settings = 1.1 * DAY, SETTINGS
    pipeline = Pipeline(settings)
    run(pipeline, events(onset, looping(onset)))
    heir = ShardWithBills(settings)
    heir.restore(pipeline.shard.snapshot())
    twins = Twins(pipeline.shard, heir)
    pipeline.shard = twins  # type: ignore[assignment]
    assert run(pipeline, events(120, looping(0), at=T0 + onset))
    assert twins.differ == 0
    last = ShardWithBills(settings)
    last.restore(heir.snapshot())
    assert last.firing == heir.firing
    assert last.snapshot() == heir.snapshot()
