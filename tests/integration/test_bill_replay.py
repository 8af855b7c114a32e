"""A real bill that grows day by day and is restated, through the connector, the rollup and the detector."""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.restate import Restater
from curb.connectors.intake.append import record_messages
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.scopes import Scope
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, SPEND
from curb.stream.records.spend import Alert, CostRecord, SpendPartial, SpendTick
from tests.fakes.memory_log import MemoryLog

DAY = 86_400
ACCOUNT = Scope(name="account", group_by=("cloud", "account"), sources=("costs",))
SETTINGS = DetectorSettings(scopes=(ACCOUNT,), bucket_s=300, max_age_days=100)
Row = tuple[int, str, str, str, Decimal]


def bill() -> list[Row]:
    path = Path(__file__).parents[1] / "data" / "optscale_billing_daily.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [
            (_day(row["date"]), row["cloud"], row["account"], row["service"], Decimal(row["cost_usd"]))
            for row in csv.DictReader(file)
        ]


def _day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def charge(row: Row, usd: float) -> Charge:
    day, cloud, account, service, _ = row
    of = Dimensions(service_name=service, sub_account_id=account, tags=(("account", account), ("cloud", cloud)))
    return Charge(day, DAY, usd, usd, of)


class Pipeline:
    """One rollup and one shard, fed as the workers feed them."""

    def __init__(self) -> None:
        self.rollup, self.shard = Rollup(SETTINGS, COSTS, 1, name="costs/0"), Shard(SETTINGS)
        self.log, self.alerts, self.offset = MemoryLog(partitions=1), list[Alert](), 0

    def take(self, records: list[CostRecord], now: float) -> None:
        outputs: list[Message] = []
        for message in record_messages(records, source="bill", log=self.log):
            self.offset += 1
            outputs += self.rollup.process(message._replace(offset=self.offset, partition=0))
        outputs += self.rollup.flush(now)
        assert {each.topic for each in outputs} <= {SPEND}
        for message in outputs:
            told = self.shard.process(message._replace(offset=self.offset))
            self.alerts += [msgspec.json.decode(each.value, type=Alert) for each in told]


def test_growing_snapshots_with_restatements_end_exact_and_raise_nothing(tmp_path: Path) -> None:
    rows, rng = bill(), random.Random(7)
    days = sorted({row[0] for row in rows})
    factors = [1.0] * len(rows)
    clock = ManualClock(days[0])
    restater, pipeline = Restater(tmp_path / "bill.sqlite", "bill", clock), Pipeline()
    cursor, deltas = None, Counter[str]()
    for number, day in enumerate([*days, days[-1] + DAY, days[-1] + 2 * DAY]):
        now = day + DAY + 6 * 3600.0
        # The newest day comes in half, the day before whole; one line in fifty is restated, some by far.
        for at, row in enumerate(rows):
            if row[0] < day - 4 * DAY and rng.random() < 0.02:
                factors[at] = rng.choice([0.0, 0.5, 1.5, 20.0]) if number < len(days) else 1.0
        if number >= len(days):
            factors = [1.0] * len(rows)
        shares = [1.0 if row[0] < day else 0.5 for row in rows]
        charges = [
            charge(row, float(row[4]) * factor * share)
            for row, factor, share in zip(rows, factors, shares, strict=True)
            if row[0] <= day and factor
        ]
        restater.take(charges, Snapshot("all", str(number), now))
        while (batch := restater.resume(cursor)) is not None:
            cursor = batch.cursor
            records = [record for record in batch.records if isinstance(record, CostRecord)]
            for record in records:
                record.received_at = now
                deltas[record.delta] += 1
            pipeline.take(records, now)
    billed = defaultdict[tuple[str, str], Decimal](Decimal)
    for _, cloud, account, _, cost in rows:
        billed[cloud, account] += cost
    totals = {(tags["cloud"], tags["account"]): usd for tags, usd in pipeline.shard.totals("account")}
    assert totals.keys() == billed.keys()
    for key, usd in totals.items():
        assert usd == pytest.approx(float(billed[key]), abs=1e-6)
    assert deltas["restatement"] > 1000
    assert pipeline.alerts == []
    restater.close()


@pytest.mark.parametrize("scored", [True, False])
def test_dollars_that_are_no_new_usage_raise_nothing_even_in_time(scored: bool) -> None:
    """The same burst of dollars in the running hour: as usage it alerts, as restatement it does not."""
    shard = Shard(DetectorSettings(scopes=(ACCOUNT,)))
    t0, alerts = 1_790_812_800, list[Message]()

    def part(start: int, usd: float, unscored: float) -> SpendPartial:
        tags = {"cloud": "aws", "account": "a"}
        return SpendPartial(
            scope="account", tags=tags, bucket_start=start, effective_cost=usd, events=1, unscored_cost=unscored
        )

    for minute in range(4 * 1440):
        start = t0 + 60 * minute
        burst = 50.0 if minute >= 4 * 1440 - 60 else 0.0
        lines = [part(start, 0.1 + burst, 0.0 if scored else burst), SpendTick(at=start + 90.0)]
        alerts += shard.process(Message(SPEND, encode_lines(lines), partition=0, offset=minute))
    assert bool(alerts) == scored
    assert shard.totals("account")[0][1] == pytest.approx(4 * 144 + 3000)
