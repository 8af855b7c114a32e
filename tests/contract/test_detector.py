"""The detector's promises: exact, deterministic wherever flushes and crashes fall, bounded, quiet on flat spend."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.detector.bills.lanes import ShardWithBills
from curb.detector.budgets.budget import Budget
from curb.detector.pipeline import Pipeline
from curb.detector.rollup.dedupe import DedupeSettings
from curb.detector.rollup.rollup import Rollup
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.rules.new_principal import Config as NewPrincipalConfig
from curb.detector.settings import DetectorSettings, PrincipalRules
from curb.detector.shard import Shard
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, SPEND, USAGE
from curb.stream.records.spend import Alert, UsageRecord
from tests.fakes.spend import T0, usage
from tests.sizes import size

SETTINGS = DetectorSettings(
    bucket_s=300,
    warmup_s=0.4 * 86400,
    principals=PrincipalRules(new_principal=NewPrincipalConfig(unknown_usd=20)),
    budgets=(Budget(name="team", scope="team", match={"team": "*"}, amount_usd=150, period="day"),),
)


def stream(days: float = 2.5, seed: int = 1) -> list[UsageRecord]:
    """Three keys at a steady pace; late and doubled records; a runaway on the last day; a newcomer; a new model."""
    rng = random.Random(seed)
    records = []
    steps = int(days * 288)
    for step in range(steps):
        at = T0 + 300 * step
        for key in ("k1", "k2", "k3"):
            for part in range(2):
                cost = 0.05 * rng.uniform(0.9, 1.1)
                if key == "k1" and step > steps - 40:
                    cost *= 60
                delay = 4000 if rng.random() < 0.01 else 300 + rng.random() * 20
                record = usage(f"{key}-{step}-{part}", at + part, cost, received_at=at + delay, key=key)
                records.append(record)
                if rng.random() < 0.02:
                    records.append(msgspec.structs.replace(record, received_at=record.received_at + 1))
        if steps - 100 < step < steps - 80:
            more: dict[str, Any] = {"cost_source": "fallback", "request_model": "new"} if step == steps - 90 else {}
            records.append(usage(f"n-{step}", at, 3.0, received_at=at + 300, key="newcomer", **more))
    return sorted(records, key=lambda record: record.received_at)


RECORDS = stream()
MESSAGES = [
    Message(USAGE, encode_lines(RECORDS[at : at + 40]), partition=0, offset=at // 40)
    for at in range(0, len(RECORDS), 40)
]


def unique_total(records: Sequence[UsageRecord], key: str) -> float:
    unique = {record.id: record for record in records}.values()
    return math.fsum(record.effective_cost for record in unique if record.tags["api_key"] == key)


def alerts_of(messages: Sequence[Message]) -> list[Alert]:
    return [msgspec.json.decode(each.value, type=Alert) for each in messages if each.topic == ALERTS]


class Figures(NamedTuple):
    """What of a revision must not depend on how the stream was cut."""

    alert_id: str
    revision: int
    status: str
    tier: str
    kind: str
    updated_at: float


def figures(alerts: Sequence[Alert]) -> list[Figures]:
    """Every revision of what is judged by buckets."""
    return [Figures(*(getattr(a, name) for name in Figures._fields)) for a in alerts if a.kind != "budget"]


def course_of_budgets(alerts: Sequence[Alert]) -> dict[str, list[tuple[str, str]]]:
    """What each threshold did, by fingerprint.

    A budget is checked at every flush: when its threshold fires, and so the id of the alert, is the time of a flush,
    and so is how often its figures are brought up to date.
    """
    course: dict[str, list[tuple[str, str]]] = {}
    for each in alerts:
        if each.kind == "budget":
            steps = course.setdefault(each.fingerprint, [])
            if (each.status, each.tier) not in steps[-1:]:
                steps.append((each.status, each.tier))
    return course


@cache
def straight() -> tuple[list[Alert], dict[str, float]]:
    pipeline = Pipeline(SETTINGS)
    for each in MESSAGES:
        pipeline.feed(each.value)
    pipeline.tick()
    return pipeline.alerts, {tags["api_key"]: usd for tags, usd in pipeline.shard.totals("key")}


@pytest.fixture(scope="module")
def expected() -> tuple[list[Alert], dict[str, float]]:
    return straight()


def test_same_input_same_output(expected: tuple[list[Alert], dict[str, float]]) -> None:
    assert straight.__wrapped__() == expected


def test_the_planted_incidents_are_found_once(expected: tuple[list[Alert], dict[str, float]]) -> None:
    first = [alert for alert in expected[0] if alert.revision == 1]
    assert len({alert.alert_id for alert in first}) == len(first)
    found = {(alert.kind, alert.tags.get("api_key", "")) for alert in first}
    assert {("runaway", "k1"), ("abusive", "newcomer"), ("pricing", ""), ("budget", "")} <= found
    assert not [alert for alert in first if alert.tags.get("api_key") in {"k2", "k3"}]
    for alert_id in {alert.alert_id for alert in expected[0]}:
        revisions = [alert.revision for alert in expected[0] if alert.alert_id == alert_id]
        assert revisions == list(range(1, len(revisions) + 1))


def test_totals_are_the_sum_of_unique_input(expected: tuple[list[Alert], dict[str, float]]) -> None:
    for key, total in expected[1].items():
        assert total == pytest.approx(unique_total(RECORDS, key), rel=1e-9)


# --- as the worker drives it, with crashes --------------------------------------------------------------------------


@dataclass
class Stage:
    """One partition's state with its snapshot, and what was committed: a crash loses the rest."""

    make: Any
    state: Any = None
    snapshot: tuple[int, bytes] | None = None
    committed: int = 0
    outputs: list[Message] = field(default_factory=list)
    pending: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.make()

    def work(self, messages: Sequence[Message], until: int) -> None:
        for each in messages[self.committed : until]:
            self.pending += self.state.process(each)

    def commit(self, until: int, with_snapshot: bool) -> None:
        self.pending += self.state.flush(None)
        self.outputs += self.pending
        self.pending, self.committed = [], until
        if with_snapshot:
            self.snapshot = (until, self.state.snapshot())

    def crash(self, messages: Sequence[Message]) -> None:
        """Start anew from the snapshot, and replay in silence what was committed."""
        self.pending, self.state, start = [], self.make(), 0
        if self.snapshot is not None:
            start, data = self.snapshot
            self.state.restore(data)
        for each in messages[start : self.committed]:
            self.state.process(each)
        if self.committed > start:
            self.state.flush(None)


CUTS = st.lists(st.tuples(st.integers(1, len(MESSAGES) - 1), st.sampled_from("csk")), max_size=12)


def drive(stage: Stage, messages: Sequence[Message], cuts: Sequence[tuple[int, str]]) -> None:
    """c: commit; s: commit with snapshot; k: crash after the work and before its commit."""
    for cut, what in sorted(cuts):
        at = min(cut, len(messages))
        stage.work(messages, at)
        if what == "k":
            stage.crash(messages)
        else:
            stage.commit(at, what == "s")
    stage.work(messages, len(messages))
    stage.commit(len(messages), False)


@pytest.mark.timeout(900)
@given(cuts=CUTS, shard_cuts=CUTS)
@settings(max_examples=size(4, 12))
def test_crashes_and_flushes_change_nothing(cuts: list[tuple[int, str]], shard_cuts: list[tuple[int, str]]) -> None:
    alerts, totals = straight()
    rollup = Stage(lambda: Rollup(SETTINGS, USAGE, 1, name=USAGE))
    drive(rollup, MESSAGES, cuts)
    spend = [each for each in rollup.outputs if each.topic == SPEND]
    shard = Stage(lambda: Shard(SETTINGS))
    drive(shard, spend, shard_cuts)
    found = alerts_of(shard.outputs)
    assert (figures(found), course_of_budgets(found)) == (figures(alerts), course_of_budgets(alerts))
    for tags, total in shard.state.totals("key"):
        assert total == pytest.approx(totals[tags["api_key"]], rel=1e-9)


@pytest.mark.timeout(900)
@given(cuts=st.lists(st.integers(1, len(RECORDS) - 1), max_size=60, unique=True), flushes=st.sets(st.integers(0, 60)))
@settings(max_examples=size(4, 12))
def test_how_records_are_packed_into_messages_changes_nothing(cuts: list[int], flushes: set[int]) -> None:
    alerts, totals = straight()
    pipeline = Pipeline(SETTINGS)
    for at, (start, end) in enumerate(pairwise([0, *sorted(cuts), len(RECORDS)])):
        pipeline.feed(encode_lines(RECORDS[start:end]))
        if at in flushes:
            pipeline.tick()
    pipeline.tick()
    found = pipeline.alerts
    assert (figures(found), course_of_budgets(found)) == (figures(alerts), course_of_budgets(alerts))
    for tags, total in pipeline.shard.totals("key"):
        assert total == pytest.approx(totals[tags["api_key"]], rel=1e-9)


def test_a_restored_shard_is_the_same_to_the_bit() -> None:
    pipeline = Pipeline(SETTINGS)
    for each in MESSAGES[: len(MESSAGES) // 2]:
        pipeline.feed(each.value)
    data = pipeline.shard.snapshot()
    again = ShardWithBills(SETTINGS)
    again.restore(data)
    assert again.snapshot() == data


# --- bounded and quiet ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [0.0, 0.2])
def test_flat_spend_is_quiet(cost: float) -> None:
    pipeline = Pipeline(DetectorSettings(bucket_s=300))
    for step in range(288 * 4):
        at = T0 + 300 * step
        pipeline.feed(encode_lines([usage(f"{step}", at, cost, received_at=at + 300)]))
    pipeline.tick(T0 + 4 * 86400)
    assert pipeline.alerts == []


def test_memory_is_bounded() -> None:
    config = DetectorSettings(
        bucket_s=300,
        dedupe=DedupeSettings(max_ids=1000, min_ids=0),
        guard=GuardSettings(first_series=0, max_new_series_per_minute=20, max_series=50),
    )
    pipeline = Pipeline(config)
    sizes = []
    for step in range(400):  # the figures of feeds are of the last 24 hours
        at = T0 + 300 * step
        records = [usage(f"{step}-{i}", at, 0.01, received_at=at + 300, key=f"k-{step}-{i}") for i in range(40)]
        pipeline.feed(encode_lines(records))
        pipeline.tick()
        if step in {320, 399}:
            sizes.append((pipeline.shard.series_count, len(pipeline.shard.snapshot())))
    assert sizes[1][0] == sizes[0][0] == 50 + 50 + 2  # keys, their origins, one team, one model
    assert sizes[1][1] < 1.05 * sizes[0][1]
