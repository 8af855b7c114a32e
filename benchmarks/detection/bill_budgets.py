"""Whether forecasts of budgets on bills keep their intervals: `python -m benchmarks.detection.bill_budgets 60 2 3`.

The numbers are accounts per seed, then seeds. Accounts are invented: $20 to $2,000 a day with weekends, noise of 6 to
25 %, growth, jumps of a third, a fee on the first of the month of up to a month's usage, purchases, credits and tax.
The first load brings two months; then a delivery comes each morning. Forecasts at noon of eight days of three months
are compared with what those months came to. The constants of the forecast were not chosen on these seeds.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import BudgetStatus, ChargeKind, CostRecord
from curb.stream.time import DAY_S, HOUR_S

DAYS = (1, 2, 5, 10, 15, 20, 25, 29)
_EDGES = (0.0, 0.005, 0.05, 0.2, 0.5, 0.8, 0.95, 0.995, 1.01)
_ALL_DAYS = 153
_CATEGORY = {"usage": "Usage", "fee": "Purchase", "purchase": "Purchase", "credit": "Credit", "tax": "Tax"}


def at(year: int, month: int, day: int) -> float:
    """Epoch seconds of a midnight in UTC."""
    return datetime(year, month, day, tzinfo=UTC).timestamp()


START, FIRST_LOAD, END = at(2026, 7, 1), at(2026, 9, 1), at(2026, 12, 1)


class Item(NamedTuple):
    """One charge."""

    start: float
    kind: ChargeKind
    usd: float
    seconds: float


class Made(NamedTuple):
    """One forecast and what became of it."""

    day: int
    status: BudgetStatus
    total_usd: float
    #: Whether its account is charged for more than usage: fees, purchases, tax or credits.
    is_mixed: bool


def account(random: random.Random) -> Iterator[Item]:
    """The charges of an account, day by day."""
    level = math.exp(random.uniform(math.log(20), math.log(2000)))
    weekend, noise = random.choice([0.6, 0.8, 1.0]), random.choice([0.06, 0.12, 0.25])
    growth = random.choice([0, 0, 0, 0.004, -0.004, 0.008])
    fee, bought, credit = (30 * level * random.choice(of) for of in ([0, 0.1, 0.5, 1], [0, 0, 0.4], [0, 0, -0.05]))
    for day in range(_ALL_DAYS):
        start = START + day * DAY_S
        date = datetime.fromtimestamp(start, UTC)
        level *= random.choice([0.7, 1.4]) if random.random() < 0.004 else 1.0
        usage = level * math.exp(growth * day + random.gauss(0, noise)) * (weekend if date.weekday() >= 5 else 1)
        yield Item(start, "usage", usage, DAY_S)
        if date.day == 1 and fee:
            yield Item(start, "fee", fee * math.exp(random.gauss(0, 0.03)), 30 * DAY_S)
        if date.day == 1 and bought:
            yield Item(start, "purchase", bought, HOUR_S)
        if date.day == 2 and fee:
            yield Item(start, "tax", 0.07 * fee, HOUR_S)
        if date.day == 3 and credit:
            yield Item(start, "credit", credit * math.exp(random.gauss(0, 0.3)), HOUR_S)


def month_of(time: float) -> int:
    """The month of a time."""
    return datetime.fromtimestamp(time, UTC).month


def forecasts(seed: int, count: int) -> Iterator[Made]:
    """The forecasts of all accounts of a seed."""
    chance = random.Random(seed)
    accounts = [list(account(chance)) for _ in range(count)]
    total = {
        (n, month): sum(item.usd for item in items if month_of(item.start) == month)
        for n, items in enumerate(accounts)
        for month in (9, 10, 11)
    }
    mixed = {n for n, items in enumerate(accounts) if any(item.kind != "usage" for item in items)}
    scope = {"name": "account", "group_by": ["account"], "sources": ["costs"], "detect": False, "role": "total"}
    budgets = [
        {
            "name": f"b{n}",
            "scope": "account",
            "match": {"account": str(n)},
            "amount_usd": max(1, total[n, 11] * chance.uniform(0.85, 1.15)),
        }
        for n in range(count)
    ]
    settings = {"bucket_s": HOUR_S, "scopes": [scope], "budgets": budgets}
    pipeline, sent = Pipeline(DetectorSettings.model_validate(settings)), START
    for hour in range(6, int((END - FIRST_LOAD) // HOUR_S)):
        now = FIRST_LOAD + hour * HOUR_S
        date = datetime.fromtimestamp(now, UTC)
        if date.hour == 6:
            until = now - 6 * HOUR_S
            pipeline.feed(encode_lines(delivery(accounts, sent, until, now)), COSTS, "bill")
            sent = until
        pipeline.tick(now + 60)
        if date.hour == 12 and date.day in DAYS:
            for tags, status in pipeline.shard.budgets():
                number = int(tags["account"])
                yield Made(date.day, status, total[number, date.month], number in mixed)


def delivery(accounts: list[list[Item]], since: float, until: float, now: float) -> list[CostRecord]:
    """The charges of some days, and the mark that they are complete."""
    records = [
        CostRecord(
            id=f"{n}/{item.start}/{item.kind}",
            charge_period_start=item.start,
            charge_period_end=item.start + item.seconds,
            received_at=now,
            effective_cost=item.usd,
            charge_category=_CATEGORY[item.kind],
            charge_kind=item.kind,
            tags={"account": str(n)},
            source="bill",
        )
        for n, items in enumerate(accounts)
        for item in items
        if since <= item.start < until
    ]
    mark = CostRecord(
        id=f"complete/{until}",
        charge_period_start=until,
        received_at=now,
        effective_cost=0.0,
        tags={},
        source="bill",
        delta="mark",
        complete_until=until,
    )
    return [*records, mark]


def main(count: int, *seeds: int) -> None:
    """Print how often totals were within the interval, and how often what was likely happened."""
    made = [each for seed in seeds for each in forecasts(seed, count) if each.status.forecast_usd is not None]
    for day in DAYS:
        of = [each for each in made if each.day == day]
        held = np.mean([_held(each) for each in of])
        off = np.median([abs((each.status.forecast_usd or 0) / each.total_usd - 1) for each in of])
        print(f"day {day:2}: {len(of)} forecasts, {held:.1%} within the 80 % interval, median error {off:.1%}")
    for mixed, name in ((True, "fees, purchases or credits"), (False, "usage alone")):
        held = [_held(each) for each in made if each.is_mixed == mixed]
        print(f"accounts with {name}: {len(held)} forecasts, {np.mean(held):.1%} within the 80 % interval")
    likely = np.array([each.status.breach_probability or 0.0 for each in made])
    over = np.array([each.total_usd > each.status.amount_usd for each in made])
    for low, high in pairwise(_EDGES):
        of_these = (likely >= low) & (likely < high)
        share = over[of_these].mean() if of_these.any() else math.nan
        print(f"said {low:.1%} to {min(high, 1):.1%}: {of_these.sum()} forecasts, {share:.1%} were over")


def _held(each: Made) -> bool:
    low, high = each.status.forecast_low_usd, each.status.forecast_high_usd
    return low is not None and high is not None and low <= each.total_usd <= high


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
