"""Reconciliation: days and ratios, alerts that open and end, the way from the door, and what is shown."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from curb.config.file import ConfigErrors, load_text
from curb.config.pairs import marks, with_scope
from curb.connectors.connector import Batch
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.attribution import Attribution, AttributionSettings
from curb.detector.reconcile.reconciler import MONEY, PAIR, SCOPE, Reconciler, ReconcileSettings, ratio_of
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COSTS, RECONCILED, SPEND, USAGE
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.spend import Alert, CostRecord, SpendPartial, SpendRecord, SpendTick, UsageRecord
from curb.views.reconciliation import reconciliation_rows
from tests.fakes.memory_log import MemoryLog

DAY = 86400
DAY0 = 20_000 * DAY  # 2024-10-04
SETTINGS = ReconcileSettings.model_validate(
    {"pairs": [{"name": "openai", "estimated": {"source": "gw"}, "billed": {"source": "bill"}, "lag_hours": 24}]}
)


def part(day: int, money: str, usd: float, pair: str = "openai") -> SpendPartial:
    tags = {PAIR: pair, MONEY: money}
    return SpendPartial(scope="reconcile", tags=tags, bucket_start=DAY0 + day * DAY, effective_cost=usd, events=1)


def tick(day: float, source: str = "curb.usage/0") -> SpendTick:
    return SpendTick(at=DAY0 + day * DAY, source=source)


def feed(state: Reconciler, *records: Any) -> list[Any]:
    """What came of the records as one message: reconciliations and alerts, decoded."""
    found = []
    for message in state.process(Message(SPEND, encode_lines(records))):
        kind: type[Any] = Alert if message.topic == ALERTS else Reconciliation
        found.append(msgspec.json.decode(message.value, type=kind))
    return found


def alerts(found: list[Any]) -> list[Alert]:
    return [each for each in found if isinstance(each, Alert)]


def days(count: int, billed: float, *, first: int = 0) -> Iterator[SpendPartial]:
    for day in range(first, first + count):
        yield part(day, "estimated", 100.0)
        yield part(day, "billed", billed)


# --- the ratio -----------------------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_sums() -> None:
    found = ratio_of([(100.0, 80.0), (300.0, 240.0), (50.0, 40.0)])
    assert found is not None
    assert found == pytest.approx((0.8, 0.8, 0.8))
    assert ratio_of([(0.0, 5.0)]) is None
    few = ratio_of([(10.0, 5.0), (10.0, 6.0)])
    assert few is not None
    assert few.low is None


@pytest.mark.parametrize("count", [4, 7, 30])
def test_the_bounds_hold_as_often_as_they_say(count: int) -> None:
    rng, held, trials = random.Random(5), 0, 2000
    for _ in range(trials):
        sample = [(e := rng.uniform(50, 150), e * rng.gauss(0.9, 0.05)) for _ in range(count)]
        found = ratio_of(sample)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.9 <= found.high
    assert held / trials == pytest.approx(0.9, abs=0.04)


# --- days and alerts ------------------------------------------------------------------------------------------------


def test_a_day_counts_when_it_is_over_for_long_enough_and_the_bill_has_reached_it() -> None:
    state = Reconciler(SETTINGS)
    assert (
        feed(state, part(0, "estimated", 100.0), part(1, "estimated", 50.0), part(0, "billed", 95.0), tick(1.9)) == []
    )
    one = feed(state, tick(2.1))
    assert [(each.days, each.ratio, each.open_usd) for each in one] == [(1, 0.95, 0.0), (1, 0.95, 50.0)]
    assert [each.ratio for each in feed(state, tick(5.0))] == [0.95]  # day 1 is old enough, but not billed
    both = feed(state, part(1, "billed", 50.0), tick(5.1))
    assert [(each.period_start - DAY0, each.days) for each in both] == [(DAY, 1), (0, 2)]
    assert both[-1].ratio == pytest.approx(145 / 150)


def test_a_correction_of_a_day_is_told_again() -> None:
    state = Reconciler(SETTINGS)
    feed(state, *days(1, 90.0), tick(3.0))
    again = feed(state, part(0, "billed", 5.0), tick(3.1))
    assert [(each.billed_usd, each.days) for each in again] == [(95.0, 1), (95.0, 1)]
    assert len(feed(state, tick(3.2))) == 1


def test_keys_tell_pairs_from_their_days() -> None:
    state = Reconciler(SETTINGS)
    messages = state.process(Message(SPEND, encode_lines([*days(1, 90.0), tick(3.0)])))
    assert [(message.topic, message.key) for message in messages] == [
        (RECONCILED, b"openai/2024-10-04"),
        (RECONCILED, b"openai"),
    ]


def test_an_alert_opens_outside_the_band_and_ends_inside() -> None:
    state = Reconciler(SETTINGS)
    assert alerts(feed(state, *days(2, 50.0), tick(4.0))) == []  # too few days
    (opened,) = alerts(feed(state, *days(1, 50.0, first=2), tick(5.0)))
    assert (opened.status, opened.kind, opened.tier, opened.money) == ("firing", "pricing", "notice", "billed")
    assert (opened.expected_usd, opened.actual_usd, opened.excess_usd) == (300.0, 150.0, -150.0)
    assert opened.tags == {PAIR: "openai"}
    assert "ratio of 0.50" in opened.explanation
    assert alerts(feed(state, tick(5.5))) == []
    (revised,) = alerts(feed(state, tick(6.1)))
    assert (revised.alert_id, revised.revision) == (opened.alert_id, 2)
    (ended,) = alerts(feed(state, *days(7, 100.0, first=3), tick(12.0)))
    assert (ended.status, ended.alert_id) == ("resolved", opened.alert_id)


@pytest.mark.parametrize(
    ("estimated", "billed", "fires"), [(100.0, 95.0, False), (100.0, 120.0, True), (0.0, 50.0, True), (1.0, 0.1, False)]
)
def test_what_is_in_order(estimated: float, billed: float, fires: bool) -> None:
    state = Reconciler(SETTINGS)
    parts = [part(day, money, usd) for day in range(3) for money, usd in (("estimated", estimated), ("billed", billed))]
    feed(state, tick(0.1))  # Curb runs from the first day on
    assert bool(alerts(feed(state, *parts, tick(6.0)))) is fires


def test_a_bill_of_the_time_before_curb_is_held_against_nothing() -> None:
    state = Reconciler(SETTINGS)
    assert alerts(feed(state, *(part(day, "billed", 50.0) for day in range(5)), tick(6.0))) == []
    assert state.summaries() == []
    # Estimates of those days may still come, out of what a source kept.
    feed(state, *(part(day, "estimated", 50.0) for day in range(2, 5)), tick(6.1))
    assert [(each.days, each.ratio) for each in state.summaries()] == [(3, 1.0)]


def test_time_is_that_of_the_slowest_input_but_not_of_a_dead_one() -> None:
    state = Reconciler(SETTINGS)
    feed(state, *days(1, 50.0), tick(1.0, "curb.costs/0"))
    feed(state, tick(2.9))
    assert state.time == DAY0 + DAY
    assert len(feed(state, tick(3.5))) == 2
    assert state.time == DAY0 + 3.5 * DAY


def test_a_restart_changes_nothing() -> None:
    messages = [[*days(1, 50.0 + day, first=day), tick(day + 2.5)] for day in range(12)]
    whole, state = Reconciler(SETTINGS), Reconciler(SETTINGS)
    for records in messages:
        expected = feed(whole, *records)
        fresh = Reconciler(SETTINGS)
        fresh.restore(state.snapshot())
        state = fresh
        assert feed(state, *records) == expected
    assert [each.pair for each in state.summaries()] == ["openai"]


def test_an_alert_of_a_pair_that_is_gone_ends() -> None:
    state = Reconciler(SETTINGS)
    feed(state, *days(4, 50.0), tick(7.0))
    other = Reconciler(ReconcileSettings())
    other.restore(state.snapshot())
    (ended,) = alerts(feed(other, tick(8.0)))
    assert ended.status == "resolved"


def test_unreadable_lines_and_other_records_are_passed_over() -> None:
    state = Reconciler(SETTINGS)
    foreign = part(0, "estimated", 9.0, pair="nobody")
    wrong = part(0, "refunded", 9.0)
    value = b'{"type":"partial","scope":"reconcile","tags":3}\nnot json "tick"\n' + encode_lines([foreign, wrong])
    assert state.process(Message(SPEND, value)) == []
    assert state.summaries() == []


def test_the_bill_to_come_is_shown_with_its_bounds_unless_it_must_not() -> None:
    state = Reconciler(SETTINGS)
    parts = [*days(2, 90.0), *days(2, 100.0, first=2), part(4, "estimated", 200.0), tick(6.0)]
    feed(state, *parts)
    (row,) = reconciliation_rows(state.summaries(), SETTINGS)
    assert row["expected_bill_usd"] == pytest.approx(190.0)
    assert row["expected_bill_low_usd"] < 190.0 < row["expected_bill_high_usd"]
    (plain,) = reconciliation_rows(state.summaries(), SETTINGS.model_copy(update={"apply": "never"}))
    assert "expected_bill_usd" not in plain


# --- from the door ----------------------------------------------------------------------------------------------------


def usage(number: int, at: float, usd: float, **tags: str) -> UsageRecord:
    return UsageRecord(id=f"u{number}", charge_period_start=at, received_at=at, effective_cost=usd, tags=tags)


def bill(record_id: str, at: float, usd: float, **fields: Any) -> CostRecord:
    now = at + 1.5 * DAY
    return CostRecord(id=record_id, charge_period_start=at, received_at=now, effective_cost=usd, tags={}, **fields)


async def test_from_the_door_to_the_ratio() -> None:
    log = MemoryLog(partitions=1)
    attribution = Attribution(AttributionSettings(), ["team"], marks(SETTINGS))

    async def send(source: str, *records: SpendRecord) -> None:
        at = max(record.received_at for record in records)
        await append_batch(log, Batch(records, ""), source=source, at=at, attribution=attribution)

    for day in range(3):
        start = float(DAY0 + day * DAY)
        forged = usage(day * 10, start, 1.0, **{PAIR: "openai", MONEY: "billed", "team": "x"})
        await send("gw", forged, usage(day * 10 + 1, start + 3600, 99.0, team="y"))
        await send("other", usage(day * 10 + 2, start, 1000.0, **{PAIR: "openai", MONEY: "estimated"}))
        tax = bill(f"t{day}", start, 20.0, charge_category="Tax")
        correction = bill(f"r{day}", start, -5.0, delta="restatement")
        await send("bill", bill(f"b{day}", start, 98.0), correction, tax, bill(f"b{day}", start, 98.0))
    settings = with_scope(DetectorSettings(), SETTINGS)
    state = Reconciler(SETTINGS)
    found: list[Message] = []
    for topic in (USAGE, COSTS):
        rollup = Rollup(settings, topic, 1, f"{topic}/0")
        for message in log.of(topic):
            found += [each for each in rollup.process(message) if each.topic == SPEND]
        found += [each for each in rollup.flush(DAY0 + 6.0 * DAY) if each.topic == SPEND]
    for message in found:
        state.process(message)
    (summary,) = state.summaries()
    assert (summary.estimated_usd, summary.billed_usd, summary.days) == (300.0, pytest.approx(279.0), 3)
    assert summary.ratio == pytest.approx(0.93)


def test_one_connector_may_bring_usage_and_bill() -> None:
    pair = {"name": "p", "estimated": {"source": "openai"}, "billed": {"source": "openai"}}
    rules = marks(ReconcileSettings.model_validate({"pairs": [pair]}))
    attribution = Attribution(AttributionSettings(), [], rules)
    records = [usage(1, DAY0, 1.0), bill("b", DAY0, 1.0), bill("t", DAY0, 1.0, charge_category="Tax")]
    found = attribution.apply(records, source="openai", at=DAY0).records
    assert [record.tags.get(MONEY) for record in found] == ["estimated", "billed", None]


def test_the_configuration_as_a_whole() -> None:
    pair = "{name: openai, estimated: {source: gw}, billed: {source: bill}}"
    route = (
        "actions: {notifiers: [{kind: console, name: s}], routes: [{match: {tags: {reconcile_pair: a}}, notify: [s]}]}"
    )
    config = load_text(f"reconcile: {{pairs: [{pair}]}}\n{route}")
    assert config.detector.scopes[-1] == SCOPE
    assert SCOPE not in load_text("reconcile: {pairs: []}").detector.scopes
    with pytest.raises(ConfigErrors, match="Curb's own"):
        load_text(f"reconcile: {{pairs: [{pair}]}}\ndetector: {{scopes: [{{name: reconcile, group_by: [team]}}]}}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"band": [1.1, 0.9]}, "two rising numbers"),
        ({"min_days": 8}, "more than window_days"),
        ({"estimated": {}}, "at least 1"),
    ],
)
def test_pairs_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    pair = {"name": "a", "estimated": {"source": "x"}, "billed": {"source": "y"}, **changes}
    with pytest.raises(ValidationError, match=message):
        ReconcileSettings.model_validate({"pairs": [pair]})
