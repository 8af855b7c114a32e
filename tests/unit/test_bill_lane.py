"""Bills are judged in a lane of their own, by what their source says is complete, beside usage."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from curb.detector.bills.derived import BILL_SCOPES, default_scopes
from curb.detector.bills.lanes import by_hours
from curb.detector.bills.rollup import CostsRollup
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.detector.state.reader import ScoredSum
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, COSTS, SPEND
from curb.stream.records.spend import Alert, CostRecord, Silence
from curb.stream.time import DAY_S, HOUR_S

pytestmark = pytest.mark.long

#: Usage, of which there is none, is judged by the hour here as well, because minutes of silence take their time.
SETTINGS = DetectorSettings(scopes=BILL_SCOPES, bucket_s=HOUR_S)
#: A Tuesday.
START = datetime(2026, 6, 2, tzinfo=UTC).timestamp()
#: (account, service) → dollars a day.
USUAL = {("a1", "Compute"): 400.0, ("a2", "Compute"): 150.0, ("a1", "Storage"): 60.0, ("a2", "Network"): 45.0}


def charge(
    account: str, service: str, start: float, usd: float, received: float, seconds: float = HOUR_S, kind: str = "Usage"
) -> CostRecord:
    return CostRecord(
        id=f"{account}/{service}/{start}/{kind}/{seconds}",
        charge_period_start=start,
        charge_period_end=start + seconds,
        received_at=received,
        effective_cost=usd,
        billed_cost=usd,
        charge_category=kind,
        tags={"provider": "AWS", "account": account, "service": service},
        source="bill",
    )


def mark(until: float, received: float) -> CostRecord:
    return CostRecord(
        id=f"complete/{until}",
        charge_period_start=until,
        received_at=received,
        effective_cost=0.0,
        tags={},
        source="bill",
        delta="mark",
        complete_until=until,
    )


class Bill:
    """A bill that comes each morning with the day before, and what the detector says of it."""

    def __init__(self, seed: int, *, daily: bool = False, settings: DetectorSettings = SETTINGS) -> None:
        self.pipeline = Pipeline(settings)
        self._random, self._daily = random.Random(seed), daily
        self.alerts: dict[str, Alert] = {}
        #: Day of each alert's first revision.
        self.first: dict[str, int] = {}

    def _day(self, day: int, received: float, extra: dict[tuple[str, str], float]) -> Iterator[CostRecord]:
        seconds = DAY_S if self._daily else HOUR_S
        weekend = 0.8 if datetime.fromtimestamp(START + day * DAY_S, UTC).weekday() >= 5 else 1.0
        for (account, service), usd in (USUAL | extra).items():
            for part in range(int(DAY_S // seconds)):
                noise = math.exp(self._random.gauss(0, 0.06))
                amount = usd * seconds / DAY_S * weekend * noise
                yield charge(account, service, START + day * DAY_S + part * seconds, amount, received, seconds)

    def read(self, first: int, last: int, extra: dict[tuple[str, str], float], *more: CostRecord) -> None:
        """The delivery of the days from `first` until before `last`, read at six in the morning of that day."""
        at = START + last * DAY_S + 6 * HOUR_S
        records = [each for day in range(first, last) for each in self._day(day, at, extra)]
        self.pipeline.feed(encode_lines([*records, *more, mark(START + last * DAY_S, at)]), COSTS, "bill")
        for hour in range(24):
            self.pipeline.tick(at + hour * HOUR_S + 1)
        for alert in self.pipeline.alerts:
            self.first.setdefault(alert.alert_id, last)
            self.alerts[alert.alert_id] = alert


@pytest.mark.parametrize("daily", [False, True])
def test_a_forgotten_fleet_is_told_once_and_stays_open(daily: bool) -> None:
    bill = Bill(3, daily=daily)
    for day in range(1, 24):
        fleet = {("a3", "Compute"): 9000.0} if day > 20 else {}
        bill.read(day - 1, day, fleet)
    (alert,) = bill.alerts.values()
    assert bill.first[alert.alert_id] == 21
    assert (alert.kind, alert.tier, alert.status) == ("runaway", "page", "firing")
    assert alert.tags == {"provider": "AWS", "account": "a3", "service": "Compute"}
    assert alert.excess_usd == pytest.approx(3 * 9000.0, rel=0.1)
    assert "Billed, data up to Thursday, 2026-06-25 00:00 UTC." in alert.explanation


@pytest.mark.parametrize("daily", [False, True])
def test_a_long_excess_is_all_excess(daily: bool) -> None:
    bill, true_usd = Bill(12, daily=daily), 0.0
    bill.read(0, 30, {})
    for day in range(31, 43):
        weekend = 0.8 if datetime.fromtimestamp(START + (day - 1) * DAY_S, UTC).weekday() >= 5 else 1.0
        true_usd += 2 * 45.0 * weekend
        bill.read(day - 1, day, {("a2", "Network"): 3 * 45.0})
    (alert,) = bill.alerts.values()
    assert alert.tags["service"] == "Network"
    assert alert.status == "firing"
    assert alert.excess_usd == pytest.approx(true_usd, rel=0.06 if daily else 0.03)


def test_a_day_goes_to_its_lane_as_one_sum_and_counts_as_its_hours() -> None:
    rollup = CostsRollup(SETTINGS, partitions=1, live=False)
    received = START + DAY_S + 6 * HOUR_S
    whole = [
        charge("a1", "Compute", START, 240.0, received, DAY_S),
        charge("a2", "Compute", START, 1.1, received, DAY_S),
    ]
    parts = [
        charge("a1", "Storage", START + HOUR_S, 3.0, received),
        charge("a1", "Backup", START, 6.0, received, 2 * HOUR_S),
    ]
    out = rollup.process(Message(COSTS, encode_lines([*whole, *parts]), key=b"bill", partition=0, offset=0))
    out = [*out, *rollup.flush(received + 1)]
    lines = [msgspec.json.decode(line) for each in out for line in each.value.splitlines() if each.topic == SPEND]
    sums = [line for line in lines if line["type"] == "scored" and line["scope"] == "bill"]
    days = [line for line in sums if line.get("covers_s")]
    assert [(line["bucket_start"], line["covers_s"], line["effective_cost"]) for line in days] == [
        (START, DAY_S, 240.0),
        (START, DAY_S, 1.1),
    ]
    assert len(sums) == len(days) + 3
    run = by_hours(
        [msgspec.json.decode(msgspec.json.encode(line), type=ScoredSum) for line in sums],
        lambda _scopes, tags, _seen: [int(b'"a2"' in tag) for tag in tags],
    )
    usd = np.zeros((2, 24))
    np.add.at(usd, (run.index, (run.bucket - int(START)) // 3600), run.cost)
    expected = np.array([[10.0] * 24, [1.1 / 24] * 24])
    expected[0, :2] += 3.0
    expected[0, 1] += 3.0
    assert usd == pytest.approx(expected)


def test_what_a_first_load_brings_is_the_baseline() -> None:
    bill = Bill(4)
    bill.read(0, 30, {})
    assert not bill.alerts
    bill.read(30, 31, {("a2", "Network"): 600.0})
    (alert,) = bill.alerts.values()
    assert alert.tags["service"] == "Network"


def test_fees_credits_tax_and_a_month_in_advance_are_no_anomaly() -> None:
    bill = Bill(5)
    for day in range(1, 20):
        at = START + day * DAY_S + 6 * HOUR_S
        start = START + (day - 1) * DAY_S
        more = []
        if day == 15:
            more = [
                charge("a1", "Support", start, 2900.0, at, 30 * DAY_S),
                charge("a1", "Compute", start, 87600.0, at, HOUR_S, "Purchase"),
                charge("a1", "Compute", start, -1500.0, at, HOUR_S, "Credit"),
                charge("a1", "Tax", start, 410.0, at, HOUR_S, "Tax"),
            ]
        bill.read(day - 1, day, {}, *more)
    assert not bill.alerts
    totals = bill.pipeline.shard.totals("bill")
    counted = {tags["service"]: usd for tags, usd in totals if tags["account"] == "a1"}
    assert counted["Support"] == 2900.0
    assert counted["Tax"] == 410.0


def test_another_name_for_the_same_spend_is_a_line_in_the_digest() -> None:
    bill = Bill(6)
    for day in range(1, 20):
        if day < 15:
            bill.read(day - 1, day, {})
        else:
            bill.read(day - 1, day, {("a1", "Compute"): 0.0, ("a1", "Compute Platform"): 400.0})
    assert {alert.tier for alert in bill.alerts.values()} == {"digest"}


def test_bills_are_counted_once_however_old_or_early_they_are() -> None:
    bill = Bill(7)
    at = START + DAY_S
    early = charge("a9", "Support", START + 20 * DAY_S, 5.0, at)
    old = charge("a9", "Support", START - 300 * DAY_S, 7.0, at)
    bill.pipeline.feed(encode_lines([early, old, old, mark(START, at)]), COSTS, "bill")
    bill.pipeline.tick(at + HOUR_S)
    ((tags, usd),) = bill.pipeline.shard.totals("bill")
    assert (tags["account"], usd) == ("a9", 12.0)
    assert not bill.pipeline.dead_letters


def test_state_goes_on_after_a_restart() -> None:
    whole, cut = Bill(8), Bill(8)
    for day in range(1, 26):
        fleet = {("a3", "Compute"): 9000.0} if day > 20 else {}
        whole.read(day - 1, day, fleet)
        cut.read(day - 1, day, fleet)
        if day % 5 == 2:
            again = Pipeline(SETTINGS)
            again.restore(cut.pipeline.snapshot())
            cut.pipeline = again
    assert cut.alerts == whole.alerts
    assert len(whole.alerts) == 1


def test_a_restart_within_the_first_load_judges_nothing_of_it() -> None:
    bill = Bill(9)
    at = START + 10 * DAY_S
    first = [each for day in range(4) for each in bill._day(day, at, {})]
    bill.pipeline.feed(encode_lines(first), COSTS, "bill")
    bill.pipeline.tick(at + 1)
    again = Pipeline(SETTINGS)
    again.restore(bill.pipeline.snapshot())
    again.tick(at + HOUR_S)
    assert again.shard.bills_judged_until == {}
    again.feed(encode_lines([mark(START + 4 * DAY_S, at + 2 * HOUR_S)]), COSTS, "bill")
    again.tick(at + 3 * HOUR_S)
    assert again.shard.bills_judged_until == {"bill": START + 4 * DAY_S}


def test_what_people_said_before_a_bill_came_counts_for_it() -> None:
    bill = Bill(10)
    silence = Silence(id="s", at=START, matchers={"account": "a3"}, until=START + 60 * DAY_S)
    bill.pipeline.feed(encode_lines([silence]), COMMANDS)
    bill.pipeline.tick(START + HOUR_S)
    for day in range(1, 13):
        bill.read(day - 1, day, {("a3", "Compute"): 9000.0} if day > 10 else {})
    assert {alert.tags["account"]: alert.tier for alert in bill.alerts.values()} == {"a3": "digest"}


def test_a_cause_is_named_by_region_tags_and_resource_in_one_alert() -> None:
    scopes = default_scopes(("service", "account", "team", "resource"))
    team = Scope(name="team", group_by=("team",), sources=("costs",), role="bill")
    bill = Bill(13)
    bill.pipeline = Pipeline(DetectorSettings(scopes=(*scopes, team), bucket_s=HOUR_S))
    finer = {"team": "ml", "resource": "i-1", "region": "us-west-2", "usage_type": "BoxUsage:p5.48xlarge"}
    for day in range(1, 23):
        at, start = START + day * DAY_S + 6 * HOUR_S, START + (day - 1) * DAY_S
        fleet = [charge("a3", "Compute", start + part * HOUR_S, 360.0, at) for part in range(24)] if day > 20 else []
        more = [msgspec.structs.replace(each, tags=each.tags | finer) for each in fleet]
        bill.read(day - 1, day, {}, *more)
    (alert,) = bill.alerts.values()
    assert alert.tags == {"provider": "AWS", "account": "a3", "service": "Compute"}
    (cause,) = alert.causes
    assert cause.tags == alert.tags | finer
    assert cause.excess_usd == pytest.approx(2 * 24 * 360, rel=0.02)
