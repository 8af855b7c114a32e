"""How fast many daily series of a bill are judged: `python -m benchmarks.bill_series --series 200000 --days 60`.

A bill by the day comes each morning with the day before: accounts and services, dollars of a weekday with noise. Its
records go through the rollup, and its sums through the shard with its lane, as in the daemon, without a log between.
At the end a tenth of a percent of the series cost ten times as much for a day. Making the records is not timed.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from curb.detector.bills.derived import BILL_SCOPES
from curb.detector.bills.lanes import ShardWithBills
from curb.detector.bills.rollup import CostsRollup
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COSTS, SPEND
from curb.stream.records.spend import Alert, CostRecord
from curb.stream.time import DAY_S, HOUR_S

#: A Monday, midnight UTC.
_START = 1_780_272_000
_SERVICES, _PER_MESSAGE = 200, 500
_ROOM = GuardSettings(first_series=1_000_000, max_series=1_000_000)
#: Share of the series that run away on the last day, and how many times as much they then cost.
_AWAY, _TIMES = 0.001, 10.0


class Spent(NamedTuple):
    """CPU seconds by part."""

    rollup: float = 0.0
    shard: float = 0.0


def settings() -> DetectorSettings:
    """The shipped ones with the scopes of bills and room for all series; usage, of which there is none, by the hour."""
    return DetectorSettings(scopes=BILL_SCOPES, bucket_s=HOUR_S, guard=_ROOM)


def day(number: int, series: int, usual: np.ndarray, away: np.ndarray, rng: np.random.Generator) -> Iterator[Message]:
    """The messages of the delivery that brings day `number`: a record per account and service, and the mark."""
    start = _START + number * DAY_S
    received = start + DAY_S + 6 * HOUR_S
    weekend = 0.8 if number % 7 >= 5 else 1.0
    usd = (usual * weekend * np.exp(rng.normal(0, 0.06, series)) * away).tolist()
    for first in range(0, series, _PER_MESSAGE):
        records = [
            CostRecord(
                id=f"{number}/{at}",
                charge_period_start=float(start),
                charge_period_end=float(start + DAY_S),
                received_at=float(received),
                effective_cost=usd[at],
                billed_cost=usd[at],
                tags={
                    "provider": "AWS",
                    "account": f"{at // _SERVICES:012d}",
                    "service": f"Service {at % _SERVICES}",
                    "region": "us-east-1",
                },
                source="bill",
            )
            for at in range(first, min(series, first + _PER_MESSAGE))
        ]
        yield Message(COSTS, encode_lines(records), key=b"bill", partition=0, offset=number * series + first)
    until = float(start + DAY_S)
    complete = CostRecord(
        id=f"complete/{number}",
        charge_period_start=until,
        received_at=float(received),
        effective_cost=0.0,
        tags={},
        source="bill",
        delta="mark",
        complete_until=until,
    )
    yield Message(COSTS, encode_lines([complete]), key=b"bill", partition=0, offset=(number + 1) * series)


def judge(series: int, days: int) -> tuple[Spent, dict[str, Alert], ShardWithBills]:
    """Judge the bill; `series` are those of its lane. CPU, alerts and the shard."""
    per_day = series // 2  # each is a series that is judged, and its origin
    rng, spent, alerts = np.random.default_rng(1), Spent(), dict[str, Alert]()
    usual = np.exp(rng.normal(math.log(20), 1.5, per_day))
    rollup = CostsRollup(settings(), partitions=1, live=False)
    shard = ShardWithBills(settings())
    for number in range(days):
        last = number == days - 1
        away = np.where(rng.random(per_day) < _AWAY * last, _TIMES, 1.0)
        messages = list(day(number, per_day, usual, away, rng))
        now = _START + (number + 1) * DAY_S + 6 * HOUR_S
        for of in [*((each,) for each in messages), ()]:
            began = time.process_time()
            out = [each for message in of for each in rollup.process(message)]
            out += rollup.flush(now + 1.0) if not of else []
            summed = time.process_time()
            found = [each for message in out if message.topic == SPEND for each in shard.process(message)]
            ended = time.process_time()
            spent = Spent(spent.rollup + summed - began, spent.shard + ended - summed)
            for each in found:
                if each.topic == ALERTS:
                    alert = msgspec.json.decode(each.value, type=Alert)
                    alerts[alert.alert_id] = alert
    return spent, alerts, shard


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=60)
    given = parser.parse_args()
    spent, alerts, shard = judge(given.series, given.days)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    until = shard.bills_judged_until["bill"]
    print(
        f"{given.series:,} series, {given.days} days: {sum(spent):.1f} s of CPU ({spent.rollup:.1f} s to sum, "
        f"{spent.shard:.1f} s to count and judge), {len(alerts)} alerts, peak {peak:.0f} MiB, "
        f"judged until day {(until - _START) / DAY_S:g}"
    )


if __name__ == "__main__":
    main()
