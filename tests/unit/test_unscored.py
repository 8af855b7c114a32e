"""Billing deltas that are not new usage count in totals and budgets, and are set apart from what is scored."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from curb.detector.budgets.budget import Budget
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.buckets import OpenBuckets
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, SPEND
from curb.stream.records.spend import CostRecord, SpendMessage, SpendPartial, SpendTick

T0 = 1_790_812_800
SCOPE = Scope(name="account", group_by=("account",), sources=("costs",))


def cost(number: int, usd: float, **changes: Any) -> CostRecord:
    return CostRecord(
        id=str(number),
        charge_period_start=T0 + 1.0,
        received_at=T0 + 30.0,
        effective_cost=usd,
        tags={"account": "a"},
        **changes,
    )


def partials(*records: CostRecord) -> list[SpendPartial]:
    rollup = Rollup(DetectorSettings(scopes=(SCOPE,)), COSTS, 1, name="costs/0")
    outputs = [*rollup.process(Message(COSTS, encode_lines(records), partition=0, offset=1)), *rollup.flush(None)]
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(SpendMessage)
    lines = [line for each in outputs if each.topic == SPEND for line in decoder.decode_lines(each.value)]
    return [line for line in lines if isinstance(line, SpendPartial)]


def test_only_new_usage_is_scored() -> None:
    (part,) = partials(
        cost(1, 1.0),
        cost(2, 2.0, delta="late"),
        cost(3, -4.5, delta="restatement"),
        cost(4, 8.0, charge_category="Tax"),
        cost(5, 16.0, charge_category="Purchase"),
        cost(6, -32.0, charge_category="Credit"),
        cost(7, 64.0, charge_category="Usage", delta="new_usage"),
    )
    assert (part.effective_cost, part.unscored_cost, part.events) == (54.5, -10.5, 7)
    assert (part.requests, part.gpu_samples, part.memory_used) == (0, 0, 0.0)


def test_usage_alone_has_nothing_unscored() -> None:
    (part,) = partials(cost(1, 1.5), cost(2, 2.5))
    assert (part.effective_cost, part.unscored_cost) == (4.0, 0.0)


def test_budgets_count_what_is_not_scored() -> None:
    budget = Budget.model_validate({"name": "month", "scope": "account", "match": {"account": "a"}, "amount_usd": 100})
    shard = Shard(DetectorSettings(scopes=(SCOPE,), budgets=(budget,)))
    for minute, unscored in enumerate((0.0, 70.0, 0.0)):
        part = SpendPartial(
            scope="account",
            tags={"account": "a"},
            bucket_start=T0 + 60 * minute,
            effective_cost=unscored + 1.0,
            events=1,
            unscored_cost=unscored,
        )
        lines = [part, SpendTick(at=T0 + 60.0 * minute + 100)]
        shard.process(Message(SPEND, encode_lines(lines), partition=0, offset=minute))
    ((_, status),) = shard.budgets()
    assert status.spent_usd == pytest.approx(73.0, abs=1.1)


def test_open_buckets_of_an_older_state_have_nothing_unscored() -> None:
    buckets = OpenBuckets()
    buckets.load({str(T0): np.ones((9, 2))})
    assert buckets.pop(T0, 2)[-1].tolist() == [0.0, 0.0]
